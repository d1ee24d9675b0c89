"""Activation patching: each row in turn has another value; what does the output become?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.bars import counted
from lensframe_pd.capture.given import fitted, is_function, is_told_by_shape, joined, misplaced
from lensframe_pd.capture.sites import Plain, asked, plain_rows
from lensframe_pd.capture.state import Generators
from lensframe_pd.errors import LensError, LensRuntimeError, LensTypeError, LensValueError, shown
from lensframe_pd.labels import parsed, unknown_rows
from lensframe_pd.patching.forwards import Forwards
from lensframe_pd.patching.inputs import held_inputs, held_tensors
from lensframe_pd.patching.outputs import Outputs
from lensframe_pd.patching.recomputed import Doubt, Recomputed
from lensframe_pd.tables.dims import dimensions
from lensframe_pd.tape.rebuilt import Unbuilt
from lensframe_pd.tape.switches import Switches, standing
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.evidence import Evidence

Metric = Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]]

_EDITABLE = ("op", "input")
_SHOWN = 3  # reasons named in one error


class Run(NamedTuple):
    """A finished run, as its trace has it."""

    tape: Tape
    output: Any
    evidence: Evidence
    ids: pd.Index | None


def patch(run: Run, values: Any, metric: Metric, rows: list[str] | None) -> pd.DataFrame:
    """The metric of the output, with another value for each of these rows in turn.

    Parameters
    ----------
    values
        For each row: a number, a function, or by label (Dataset, Mapping, rows with a column).
    rows
        Labels; None for all that there are values for.

    Raises
    ------
    LensError
        As `Trace.patch` says.
    """
    _check(run.tape)
    measure = _measure(metric)
    given = _given(run, values, rows)
    generators, switches = Generators(), Switches()
    try:
        with standing(run.evidence.origin.switches), torch.no_grad():
            return _frame(run, given, measure, strict=rows is not None)
    finally:
        generators.restore()
        switches.restore()


def _check(tape: Tape) -> None:
    if tape.stopped:
        raise LensRuntimeError(
            "patch: the run was stopped, so there is no output to compare: trace without stop=True"
        )
    if "edit" in tape.kinds.values():
        raise LensRuntimeError(
            "patch: this run had other values already; patch the trace without them"
        )
    missing = [r for r, value in enumerate(tape.values) if value is None and r not in tape.lost]
    if missing:
        raise LensValueError(
            f"patch: {len(missing)} of {len(tape.rows)} rows have no saved value, and what depends "
            'on a row is computed from these: trace with save="all"'
        )


def _measure(metric: Metric) -> Callable[[Any], dict[str, float]]:
    """The metric as a function that gives numbers by column."""
    if isinstance(metric, Mapping):
        if not metric:
            raise LensValueError("patch: the metric is an empty dict; give a function by name")
        taken = {"pass_num", "forward", "op"} & {*metric}
        if taken:
            raise LensValueError(f"patch: a metric cannot be called {shown(sorted(taken))}")
        functions = dict(metric)
        return lambda output: {
            name: _number(name, function(output)) for name, function in functions.items()
        }
    if not callable(metric):
        raise LensTypeError(
            f"patch: the metric is a {type(metric).__name__}; give a function of the output, or a "
            "dict of some"
        )

    def measure(output: Any) -> dict[str, float]:
        found = metric(output)
        if isinstance(found, Mapping):
            return {str(name): _number(str(name), value) for name, value in found.items()}
        return {"metric": _number("metric", found)}

    return measure


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    if isinstance(value, np.ndarray) and value.size == 1:
        return float(value.reshape(()))
    if isinstance(value, (int, float, np.number, np.bool_)):
        return float(value)
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    raise LensTypeError(
        f"patch: {name!r} gave a {type(value).__name__}{shape}; it must be one number"
    )


def _given(run: Run, values: Any, rows: list[str] | None) -> list[tuple[int, Plain, Any]]:
    """Number and facts of each row to patch, with its value as it was given."""
    plain = plain_rows(run.tape)
    numbered = [(i, row) for i, row in enumerate(plain) if row.kind in _EDITABLE]
    wanted = None if rows is None else {*rows}
    _check_rows(plain, wanted)
    if not hasattr(values, "items"):
        _check_value(values)
        return [(i, row, values) for i, row in numbered if wanted is None or row.label in wanted]
    by_key = asked(values).values
    known = dict.fromkeys(name for row in plain for name in (row.label, row.layer))
    unknown = [key for key in by_key if key not in known]
    if unknown:
        raise unknown_rows(unknown, known, "op or layer")
    found = []
    doubtful = [key for key, value in by_key.items() if not is_told_by_shape(value)]
    dims = dimensions(run.tape) if doubtful else []
    for i, row in numbered:
        key = row.label if row.label in by_key else row.layer
        if key in by_key and (wanted is None or row.label in wanted):
            wrong = misplaced(by_key[key], dims[i]) if key in doubtful else None
            if wrong:
                raise LensValueError(f"patch: {key!r} {wrong}")
            found.append((i, row, joined(key, by_key[key], run.ids)))
    without = (wanted or set()) - {row.label for _, row, _ in found}
    if without:
        raise LensValueError(f"patch: values has none for the rows {shown(sorted(without))}")
    return found


def _check_value(value: Any) -> None:
    """See that what is given for every row may be a value of some."""
    numbers = (bool, int, float, complex, np.generic, np.ndarray, Tensor, xr.DataArray)
    if not (is_function(value) or isinstance(value, numbers)):
        raise LensTypeError(
            f"patch: values is a {type(value).__name__}; give a number, a function of the tensor, "
            "or by label the activations of another trace, a dict, rows with a column 'value'"
        )


def _check_rows(plain: list[Plain], wanted: set[str] | None) -> None:
    odd = [row.label for row in plain if row.label in (wanted or ()) and row.kind not in _EDITABLE]
    if odd:
        raise LensValueError(
            f"patch: {shown(odd)}: an output, alias or constant is no operation's; give the rows "
            "it comes from"
        )


def _frame(
    run: Run,
    given: list[tuple[int, Plain, Any]],
    measure: Callable[[Any], dict[str, float]],
    strict: bool,
) -> pd.DataFrame:
    outputs = Outputs(run.output, run.tape, [module for _, module in run.evidence.made_of.named])
    records: dict[str, dict[str, Any]] = {}
    passed_over: dict[str, str] = {}
    with Forwards(run.evidence, run.tape) as forwards:
        held = partial(held_inputs, run.tape, run.evidence.origin, run.evidence.made_of)
        recomputed = Recomputed(run.tape, held, forwards.apart)
        recomputed.check_parameters({id(tensor) for tensor in held_tensors(run.evidence.made_of)})
        try:
            plain = measure(outputs.having({}))
        except Unbuilt:
            plain = measure(forwards.plain())
        for i, row, value in counted(given, "patch", "rows"):
            if run.tape.values[i] is None:
                passed_over[row.label] = run.tape.lost[i]
                continue
            try:
                output, forward = _patched(outputs, recomputed, forwards, i, row, value)
            except LensRuntimeError:
                raise
            except LensError as error:
                if strict:
                    raise
                passed_over[row.label] = str(error)
                continue
            except Exception as error:  # the model's own, with this value
                if strict:
                    error.add_note(
                        f"patch: raised by the model, with another value for {row.label!r}"
                    )
                    raise
                passed_over[row.label] = f"the model fails: {type(error).__name__}: {error}"
                continue
            measured = measure(output)
            if measured.keys() != plain.keys():
                raise LensValueError(
                    f"patch: the metric gave {shown([*measured])} for {row.label!r}, and "
                    f"{shown([*plain])} for the output as it is: give the same for each row"
                )
            said = parsed(row.label)
            pass_num = said.pass_num if said is not None and said.pass_num else 1
            records[row.label] = {"pass_num": pass_num, **measured, "forward": forward}
    if passed_over and not records:
        reasons = dict.fromkeys(passed_over.values())
        raise LensValueError(
            f"patch: none of the {len(passed_over)} rows can have its value: "
            + "\n".join([*reasons][:_SHOWN])
        )
    columns = ["pass_num", *plain, "forward"]
    frame = pd.DataFrame.from_dict(records, orient="index", columns=columns)
    frame = frame.astype({"pass_num": "int64", "forward": bool})
    frame.index.name = "op"
    frame.attrs = {"unpatched": json.dumps(plain)}
    if passed_over:
        frame.attrs["passed_over"] = json.dumps(passed_over)
    return frame


def _patched(
    outputs: Outputs,
    recomputed: Recomputed,
    forwards: Forwards,
    i: int,
    row: Plain,
    value: Any,
) -> tuple[Any, bool]:
    """The output with another value, and whether the model ran for it."""
    saved = recomputed.tape.values[i]
    assert saved is not None
    drawn = torch.get_rng_state() if recomputed.draws and is_function(value) else None
    new = fitted(row.label, value, saved)
    try:
        if drawn is not None and not torch.equal(drawn, torch.get_rng_state()):
            raise Doubt("what it draws, the model does not")
        return outputs.having(recomputed.outputs(i, new)), False
    except (Doubt, Unbuilt):
        given = value if is_function(value) else new  # a function passes a gradient on
        return forwards.output(row.address, row.label, given), True

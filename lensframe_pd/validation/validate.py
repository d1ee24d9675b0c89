"""Prove that a trace is what the model did: six checks, each of which can fail."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
import xarray as xr

from lensframe_pd.capture.run import bound_arguments
from lensframe_pd.capture.state import Generators, Origin
from lensframe_pd.errors import LensTypeError, LensValidationError, LensValueError
from lensframe_pd.replay.recording import Recording, Saved, recorded_calls
from lensframe_pd.schema import COLUMNS, Rows, labels, require, rows_of
from lensframe_pd.tables import layers as frames
from lensframe_pd.tables.activations import unsaved_reasons
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation import invariants
from lensframe_pd.validation.replayed import replay
from lensframe_pd.validation.resumed import resume
from lensframe_pd.validation.twice import run_twice
from lensframe_pd.validation.verdicts import Verdicts


def validate(
    layers: pd.DataFrame,
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    activations: xr.Dataset | None = None,
    tolerance: float | None = None,
    downstream: str | None = "sample",
    raise_on_failure: bool = False,
) -> pd.DataFrame:
    """Prove that these rows, and the activations, are what the model does with these arguments.

    Six checks, each of which can fail:

    - *replay*: each operation, run again on its saved parents, gives its saved value;
    - *dependence*: changing the value of each parent changes the result, or it is shown why not;
    - *downstream*: the forward, resumed from a saved value, gives the model's own output;
    - *completeness*: every ATen operator of the forward belongs to a row;
    - *interference*: tracing leaves output and state of the model as a plain forward does;
    - *invariants*: the frame is well formed and says what a new trace of the model says.

    Nothing it is given is changed. The model runs twice, from the state it is in. Give it all rows
    of the trace: those that were filtered out are reported as missing.

    Parameters
    ----------
    layers
        The whole frame of a trace.
    model, args, kwargs
        As they were given to `lf.trace`.
    activations
        The Dataset of the trace, from memory or a file. Without it nothing is replayed.
    tolerance
        Largest absolute difference a replay may have; None for none: bit for bit.
    downstream
        `"sample"` resumes the forward from three rows, `"all"` from every one, None from none.
    raise_on_failure
        Raise one error that lists every failing row.

    Returns
    -------
    pandas.DataFrame
        One row per op, indexed by label: `check` (the first that failed, else the strongest that
        was made), `max_abs_diff` (of the replay, in the units of the value; NaN if none was made),
        `passed`, `reason` (what failed, what is exempt and why, what could not be checked), and a
        boolean column for each check, missing where it was not made. `attrs` holds the totals.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError
        `activations` is no Dataset.
    LensValueError
        The frame has no rows, or `downstream` is none of its values.
    LensValidationError
        With `raise_on_failure`, if a row failed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model, x = torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)
    >>> layers, activations = lf.trace(model, x)
    >>> report = layers.lens.validate(model, x, activations=activations)
    >>> bool(report["passed"].all()), float(report.loc["linear_1", "max_abs_diff"])
    (True, 0.0)
    """
    args, kwargs = bound_arguments(args, kwargs)
    require(layers, "validate", *COLUMNS)
    if not len(layers):
        raise LensValueError("validate: the frame has no rows; give all rows of a trace")
    origin = Origin(model, args, kwargs, torch.get_rng_state())
    seed = layers.attrs.get("seed")
    if seed is not None:
        generator = torch.Generator()
        generator.manual_seed(int(seed))
        origin = origin._replace(generator=generator.get_state())
    return _validate(
        layers, activations, origin, None, tolerance, downstream, raise_on_failure, seed is not None
    )


def validate_trace(
    layers: pd.DataFrame,
    activations: xr.Dataset,
    tape: Tape,
    origin: Origin,
    tolerance: float | None,
    downstream: str | None,
    raise_on_failure: bool,
) -> pd.DataFrame:
    """`validate` with what a trace still holds: its own record, and every random state."""
    return _validate(
        layers, activations, origin, tape, tolerance, downstream, raise_on_failure, True
    )


def _validate(
    layers: pd.DataFrame,
    activations: xr.Dataset | None,
    origin: Origin,
    tape: Tape | None,
    tolerance: float | None,
    downstream: str | None,
    raise_on_failure: bool,
    seeded: bool,
) -> pd.DataFrame:
    if downstream not in ("sample", "all", None):
        raise LensValueError(f"downstream={downstream!r}; give 'sample', 'all' or None")
    if activations is not None and not isinstance(activations, xr.Dataset):
        raise LensTypeError(
            f"activations is a {type(activations).__name__}; give the Dataset of the trace"
        )
    ops = labels(layers, "validate")
    rows = rows_of(layers, ops)
    verdicts = Verdicts(ops)
    generators = Generators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the traced run has given the model's warnings
        try:
            again = run_twice(origin, rows, tape, verdicts)
            reference = tape or again.tape
            if tape is None and layers.attrs.get("stopped"):
                reference = _cut(reference, len(rows))
            grouped = passes(reference)
            fresh = frames.layers(reference, grouped, unsaved_reasons(reference))
            _check_frame(rows, ops, rows_of(fresh, list(fresh.index)), verdicts)
            if activations is not None:
                saved = Saved(activations, rows)
                _check_saved(saved, rows, verdicts)
                calls = recorded_calls(reference, again.tape, grouped)
                recording = Recording(calls, rows, saved, reference, seeded)
                inexact = replay(recording, verdicts, tolerance, None if tape else reference)
                if downstream:
                    resume(recording, verdicts, downstream, inexact)
        finally:
            generators.restore()
    report = verdicts.report()
    if raise_on_failure and not report["passed"].all():
        failed = report.loc[~report["passed"], "reason"]
        lines = "\n".join(f"{op}: {reason}" for op, reason in failed.items())
        error = LensValidationError(f"{len(failed)} of {len(report)} rows failed:\n{lines}")
        error.report = report
        raise error
    return report


def _cut(tape: Tape, n: int) -> Tape:
    """The first `n` rows of a tape."""
    n_calls = max((row.call for row in tape.rows[:n]), default=-1) + 1
    return replace(
        tape,
        rows=tape.rows[:n],
        calls=tape.calls[:n_calls],
        values=tape.values[:n],
        kinds={row: kind for row, kind in tape.kinds.items() if row < n},
        paths={row: path for row, path in tape.paths.items() if row < n},
        returned={row: modules for row, modules in tape.returned.items() if row < n},
        reads={row: reads for row, reads in tape.reads.items() if row < n},
    )


def _check_frame(rows: Rows, ops: list[str], fresh: Rows, verdicts: Verdicts) -> None:
    for found in (invariants.within(rows, ops), invariants.against(rows, fresh)):
        for op, reasons in found.items():
            for reason in reasons:
                verdicts.fails("invariants", op, reason)
    for op in rows:
        verdicts.passes("invariants", op)


def _check_saved(saved: Saved, rows: Rows, verdicts: Verdicts) -> None:
    for op, row in rows.items():
        if bool(row["saved"]) != (op in saved):
            there = "is" if op in saved else "is not"
            verdicts.fails(
                "invariants", op, f"saved is {row['saved']}, and it {there} in the Dataset"
            )

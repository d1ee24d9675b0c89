"""Prove that a trace is what the model did: six checks, each of which can fail."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lensframe_pd import frame as frames
from lensframe_pd import invariants
from lensframe_pd.activations import unsaved_reasons
from lensframe_pd.compare import Difference, difference
from lensframe_pd.dependence import dependence
from lensframe_pd.errors import LensTypeError, LensValidationError, LensValueError
from lensframe_pd.invariants import Rows
from lensframe_pd.modules import find_roots, named_modules
from lensframe_pd.recurrence import Passes, passes
from lensframe_pd.replay import Rerun, Surroundings, Unreplayable, laid_out
from lensframe_pd.run import Run, bound_arguments, named_inputs
from lensframe_pd.schema import COLUMNS, labels, require
from lensframe_pd.snapshot import Generators, Snapshot, State, outputs_of
from lensframe_pd.tape import Call, Context, Opaque, Tape
from lensframe_pd.witness import Gap, WitnessedTracer

CHECKS = ("replay", "dependence", "downstream", "completeness", "interference", "invariants")
_SAMPLE = (0.1, 0.4, 0.8)  # how far into the forward it is resumed from
_REPEATS = 6


class Origin(NamedTuple):
    """What a trace was made from."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    generator: Tensor
    """State of torch's default random generator at the start."""


@dataclass
class _Verdicts:
    """What each check found for each op; an op that is not there was not checked."""

    ops: list[str]
    found: dict[str, dict[str, bool]] = field(
        default_factory=lambda: {check: {} for check in CHECKS}
    )
    reasons: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Any] = field(default_factory=dict)

    def passes(self, check: str, op: str, note: str = "") -> None:
        self.found[check].setdefault(op, True)
        if note:
            self.notes.setdefault(op, []).append(note)

    def fails(self, check: str, op: str, reason: str) -> None:
        self.found[check][op] = False
        self.reasons.setdefault(op, []).append((check, reason))

    def could_not(self, op: str, reason: str) -> None:
        self.notes.setdefault(op, []).append(reason)

    def count(self, name: str, n: int = 1) -> None:
        self.totals[name] = self.totals.get(name, 0) + n

    def frame(self) -> pd.DataFrame:
        ops = [*dict.fromkeys([*self.ops, *self.reasons])]
        first = {op: problems[0][0] for op, problems in self.reasons.items()}
        checked = {
            op: next((c for c in CHECKS[:3] if op in self.found[c]), "invariants") for op in ops
        }
        reasons = [
            "; ".join([*(f"{c}: {r}" for c, r in self.reasons.get(op, ())), *self.notes.get(op, ())])
            for op in ops
        ]
        columns: dict[str, Any] = {
            "check": [first.get(op, checked[op]) for op in ops],
            "max_abs_diff": np.array([self.gaps.get(op, np.nan) for op in ops], dtype=float),
            "passed": [op not in self.reasons for op in ops],
            "reason": reasons,
        }
        for check in CHECKS:
            found = self.found[check]
            columns[check] = pd.array([found.get(op, pd.NA) for op in ops], dtype="boolean")
        report = pd.DataFrame(columns, index=pd.Index(ops, name="op"))
        failed = int((~report["passed"]).sum())
        totals = {"ops": len(ops), "passed": len(ops) - failed, "failed": failed}
        for check in CHECKS:
            cells = report[check].dropna()
            totals[f"{check}_checked"] = len(cells)
            totals[f"{check}_failed"] = int((~cells.astype(bool)).sum())
        report.attrs.update(totals | self.totals)
        return report


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
    """Prove that `layers` and `activations` are what `model` does with these arguments.

    Six checks, each of which can fail:

    - *replay*: each operation, run again on its saved parents, gives its saved value;
    - *dependence*: changing the value of each parent changes the result, or it is shown why not;
    - *downstream*: the forward, resumed from a saved value, gives the model's own output;
    - *completeness*: every ATen operator of the forward belongs to a row;
    - *interference*: tracing leaves output and state of the model as a plain forward does;
    - *invariants*: the frame is well formed and says what a new trace of the model says.

    Nothing it is given is changed. The model runs twice, from the state it is in.

    Parameters
    ----------
    layers
        The whole frame of a trace; rows that were filtered out are reported as missing.
    model, args, kwargs
        As they were given to `lf.trace`.
    activations
        The Dataset of the trace. Without it nothing is replayed.
    tolerance
        Largest absolute difference a replay may have; None for none: bit for bit.
    downstream
        `"sample"` resumes from three rows, `"all"` from every one, None from none.
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
    LensValueError
        The frame has no rows, or `downstream` is none of its values.
    LensValidationError
        With `raise_on_failure`, if a row failed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model, x = torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)
    >>> layers, activations = lf.trace(model, x)
    >>> report = validate(layers, model, x, activations=activations)
    >>> bool(report["passed"].all()), report.loc["linear_1", "max_abs_diff"]
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
    rows = invariants.rows_of(layers, ops)
    verdicts = _Verdicts(ops)
    generators = Generators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the traced run has given the model's warnings
        try:
            again = _run_twice(origin, rows, tape, verdicts)
            reference = tape or again.tape
            if tape is None and layers.attrs.get("stopped"):
                reference = _cut(reference, len(rows))
            grouped = passes(reference)
            fresh = frames.layers(reference, grouped, unsaved_reasons(reference))
            _check_frame(rows, ops, invariants.rows_of(fresh, list(fresh.index)), verdicts)
            if activations is not None:
                saved = _Saved(activations, rows)
                _check_saved(saved, rows, verdicts)
                calls = _calls(reference, again.tape, grouped)
                replays = _Replays(calls, rows, saved, reference, origin.model, seeded)
                replays.check(verdicts, tolerance, None if tape else reference)
                if downstream:
                    replays.resume(verdicts, downstream)
        finally:
            generators.restore()
    report = verdicts.frame()
    if raise_on_failure and not report["passed"].all():
        failed = report.loc[~report["passed"], "reason"]
        lines = "\n".join(f"{op}: {reason}" for op, reason in failed.items())
        error = LensValidationError(f"{len(failed)} of {len(report)} rows failed:\n{lines}")
        error.report = report
        raise error
    return report


# ------------------------------------------------------------- the model, again


class _Idle(TorchFunctionMode):
    """Does nothing; but torch leaves its fused fast paths while any mode is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _run_twice(origin: Origin, rows: Rows, tape: Tape | None, verdicts: _Verdicts) -> Run:
    """Run the model plain and traced from one state, and compare; then put all as it was."""
    model, args, kwargs = origin.model, origin.args, origin.kwargs
    run = Run(model, None, tracer=WitnessedTracer)
    tracer = run.tracer
    assert isinstance(tracer, WitnessedTracer)
    run.watch = tracer.witness
    run.values.keep_if(lambda row: run.tape.kinds.get(row) in ("input", "constant"))
    roots = find_roots(model)
    named = named_modules(roots)
    generators = Generators()
    snapshot = Snapshot(*roots.values(), args, kwargs, *_closure(model))
    first = next(iter(rows.values()))
    last = next((op for op, row in rows.items() if row["kind"] == "output"), [*rows][-1])
    try:
        if tape is not None:
            _give_inputs(run.model, args, kwargs, tape)
        before = Snapshot(args, kwargs)

        def start() -> None:
            snapshot.restore()
            before.restore()
            generators.restore()
            torch.set_rng_state(origin.generator)

        with _ambient(first["context"]) as surroundings:
            start()
            plain, state, drawn = _forward(run.model, args, kwargs, named, surroundings)
            start()
            output = outputs_of(run.execute(args, kwargs))
            wrong = State(named).differences(state) + Generators().differences(drawn)
            apart = _outputs_differ(output, plain)
            if apart:
                start()
                idle, *_ = _forward(run.model, args, kwargs, named, surroundings, _Idle())
                if not _outputs_differ(output, idle):
                    verdicts.could_not(
                        last,
                        "torch itself leaves a fused path while any function mode is active: "
                        f"the output differs from the plain forward's, {apart[0]}",
                    )
                    verdicts.count("fused_paths_left")
                    apart = []
    finally:
        snapshot.restore()
        generators.restore()
    for reason in (*apart, *wrong):
        verdicts.fails("interference", last, f"traced, {reason}")
    verdicts.passes("interference", last)
    _check_witness(tracer.gaps, tracer.operators, rows, verdicts)
    run.close()
    return run


def _closure(model: Any) -> Iterator[Any]:
    """What a callable that is no module holds besides modules."""
    if not isinstance(model, nn.Module):
        yield getattr(model, "__dict__", {})
        for cell in getattr(model, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue


def _ambient(context: str) -> Surroundings:
    """The switches the trace was made under."""
    facts = json.loads(context or "{}")
    surroundings = Surroundings()
    surroundings.enter(
        Context(
            facts.get("grad", True),
            facts.get("inference", False),
            tuple(facts.get("autocast", {}).items()),
        )
    )
    return surroundings


def _forward(
    model: Any,
    args: Any,
    kwargs: Any,
    named: list[tuple[str, nn.Module]],
    surroundings: Surroundings,
    mode: TorchFunctionMode | None = None,
) -> tuple[list[tuple[str, Tensor]], State, Generators]:
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # compiled parts run as their eager selves
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if mode is not None:
            stack.enter_context(mode)
        output = model(*args, **kwargs)
    return outputs_of(output), State(named), Generators()


def _give_inputs(model: Any, args: Any, kwargs: Any, tape: Tape) -> None:
    """Give the inputs the values they had at the trace, where they have been changed since."""
    saved = [tape.values[row] for row, kind in tape.kinds.items() if kind == "input"]
    for (_, tensor), value in zip(named_inputs(model, args, kwargs), saved, strict=False):
        if value is not None and not difference(tensor, value).same:
            with torch.no_grad():
                tensor.copy_(value)


def _outputs_differ(
    output: list[tuple[str, Tensor]], plain: list[tuple[str, Tensor]]
) -> list[str]:
    if [path for path, _ in output] != [path for path, _ in plain]:
        return [f"the output has {len(output)} tensors instead of {len(plain)}"]
    found = []
    for (path, mine), (_, theirs) in zip(output, plain, strict=True):
        apart = difference(mine, theirs)
        if not apart.same:
            found.append(f"output {path or 'tensor'}: {apart.reason}")
    return found


def _check_witness(gaps: list[Gap], operators: int, rows: Rows, verdicts: _Verdicts) -> None:
    by_step = sorted(rows, key=lambda op: rows[op]["step"])
    verdicts.totals["aten_operators"] = operators
    verdicts.totals["aten_gaps"] = sum(len(gap.operators) for gap in gaps)
    for gap in gaps:
        op = by_step[min(gap.row, len(by_step) - 1)]
        where = f" in module {gap.module!r}" if gap.module else ""
        verdicts.fails(
            "completeness", op, f"before this row {', '.join(gap.operators)} ran{where} unseen"
        )
    for op in by_step:
        verdicts.passes("completeness", op)


def _cut(tape: Tape, n: int) -> Tape:
    """The first `n` rows of a tape."""
    n_calls = max((row.call for row in tape.rows[:n]), default=-1) + 1
    return replace(
        tape,
        rows=tape.rows[:n],
        calls=tape.calls[:n_calls],
        values=tape.values[:n],
        returned={row: modules for row, modules in tape.returned.items() if row < n},
        reads={row: reads for row, reads in tape.reads.items() if row < n},
    )


# ------------------------------------------------------------------- the frame


def _check_frame(rows: Rows, ops: list[str], fresh: Rows, verdicts: _Verdicts) -> None:
    for found in (invariants.within(rows, ops), invariants.against(rows, fresh)):
        for op, reasons in found.items():
            for reason in reasons:
                verdicts.fails("invariants", op, reason)
    for op in rows:
        verdicts.passes("invariants", op)


class _Saved:
    """Saved values as tensors, with the layout, kind and device the operation saw."""

    def __init__(self, activations: xr.Dataset, rows: Rows) -> None:
        self._variables = activations.variables
        self._rows = rows

    def __contains__(self, op: str) -> bool:
        return op in self._variables

    def tensor(self, op: str, context: Context | None = None) -> Tensor:
        """A value; it follows autograd as it did, where `context` says that autograd was on."""
        row = self._rows[op]
        value = torch.from_numpy(np.asarray(self._variables[op].values))
        dtype = getattr(torch, row["dtype"], value.dtype)
        value = value.to(device=row["device"], dtype=dtype)
        value = laid_out(value, row["stride"])
        if context is not None and context.grad and row["requires_grad"]:
            follows = value.is_floating_point() or value.is_complex()
            return value.detach().requires_grad_() if follows else value
        return value


def _check_saved(saved: _Saved, rows: Rows, verdicts: _Verdicts) -> None:
    for op, row in rows.items():
        if bool(row["saved"]) != (op in saved):
            there = "is" if op in saved else "is not"
            verdicts.fails("invariants", op, f"saved is {row['saved']}, and it {there} in the Dataset")


# ------------------------------------------------------------------- the calls


class _Recorded(NamedTuple):
    """One call of the reference, with the labels of its rows."""

    call: Call
    rows: list[int]
    ops: list[str]


def _calls(tape: Tape, again: Tape, grouped: Passes) -> list[_Recorded]:
    """The calls in order, arguments that the tape only describes taken from the fresh run."""
    ops = grouped.labels()
    found: dict[int, _Recorded] = {}
    for i, row in enumerate(tape.rows):
        if row.call not in found:
            call = tape.calls[row.call]
            if tape is not again and row.call < len(again.calls):
                call = _with_arguments(call, again.calls[row.call])
            found[row.call] = _Recorded(call, [], [])
        found[row.call].rows.append(i)
        found[row.call].ops.append(ops[i])
    return [*found.values()]


def _with_arguments(call: Call, again: Call) -> Call:
    described = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Opaque)]
    if not described or again.function is not call.function:
        return call
    return call._replace(args=again.args, kwargs=again.kwargs)


class _Argument(NamedTuple):
    """What one slot of a call holds, by the frame's own cells."""

    role: str
    op: str | None
    """Label of the row, None for a parameter or buffer."""
    name: str
    """Name of the parameter or buffer."""


class _Replays:
    """Replays of the calls on the values the frame names."""

    def __init__(
        self,
        calls: list[_Recorded],
        rows: Rows,
        saved: _Saved,
        tape: Tape,
        model: Any,
        seeded: bool,
    ) -> None:
        self.calls = calls
        self.rows = rows
        self.saved = saved
        self.tape = tape
        self.seeded = seeded
        self.facts = frames.CallFacts(tape)
        self.held = {h.name: h.alive for h in tape.held}
        self.before = {tape.held[k].name: value for k, value in tape.before.items()}
        self.exact: set[str] = set()

    def check(self, verdicts: _Verdicts, tolerance: float | None, fresh: Tape | None) -> None:
        """Replay and dependence of every call."""
        with Surroundings() as surroundings:
            for recorded in self.calls:
                ops = [op for op in recorded.ops if op in self.rows]
                if not ops:
                    continue
                if not recorded.call.function.target and not recorded.call.sources:
                    self._check_given(recorded, verdicts, fresh)
                    continue
                surroundings.enter(recorded.call.context)
                try:
                    self._check_call(recorded, ops, verdicts, tolerance)
                except Unreplayable as reason:
                    for op in ops:
                        verdicts.could_not(op, f"not replayed: {reason}")
                    verdicts.count("not_replayed", len(ops))

    def _check_given(self, recorded: _Recorded, verdicts: _Verdicts, fresh: Tape | None) -> None:
        """Inputs and constants: what the model is given now must be what was saved."""
        op, row = recorded.ops[0], recorded.rows[0]
        value = fresh.values[row] if fresh is not None else None
        if value is None or op not in self.saved:
            return
        apart = difference(self.saved.tensor(op), value.detach())
        verdicts.gaps[op] = apart.largest
        if apart.same:
            verdicts.passes("replay", op)
        else:
            kind = self.rows[op]["kind"]
            verdicts.fails("replay", op, f"the saved {kind} is not the one given now: {apart.reason}")

    def _check_call(
        self, recorded: _Recorded, ops: list[str], verdicts: _Verdicts, tolerance: float | None
    ) -> None:
        call = recorded.call
        arguments = self._arguments(recorded, ops, verdicts)
        if arguments is None:
            return
        tensors = self._tensors(arguments, call)
        rerun = self._rerun(recorded)
        if call.function.random and call.generator is not None and not self.seeded:
            raise Unreplayable("it draws random numbers, and the trace recorded no seed")
        try:
            result = rerun(tensors)
        except Unreplayable:
            raise
        except Exception as error:
            for op in ops:
                verdicts.fails("replay", op, f"the call fails: {type(error).__name__}: {error}")
            return
        exact = True
        for row, op in zip(recorded.rows, recorded.ops, strict=True):
            if op in self.rows and op in self.saved:
                exact &= self._compare(rerun, tensors, result, row, op, verdicts, tolerance)
        if exact:
            self._check_dependence(recorded, rerun, arguments, tensors, result, ops, verdicts)

    def _rerun(self, recorded: _Recorded) -> Rerun:
        if self.tape.rows[recorded.rows[0]].call in self.tape.wrapped:
            raise Unreplayable("it ran inside torch.func, where a row holds the unwrapped value")
        return Rerun(recorded.call, [self.tape.rows[i] for i in recorded.rows])

    def _arguments(
        self, recorded: _Recorded, ops: list[str], verdicts: _Verdicts
    ) -> list[_Argument] | None:
        """What the frame says each slot of the call holds; None if it does not fit the call."""
        row = self.rows[ops[0]]
        named: dict[str, list[tuple[str | None, str]]] = {}
        for role, parent in zip(row["parent_args"], row["parents"], strict=False):
            named.setdefault(role, []).append((parent, ""))
        for kind, arg in (("params", "param_args"), ("buffers", "buffer_args")):
            for role, name in zip(row[arg], row[kind], strict=False):
                named.setdefault(role, []).append((None, name))
        call = recorded.call
        found = []
        for role in self.facts.roles(call.function, call.args, call.kwargs, call.sources):
            if not named.get(role):
                verdicts.fails("replay", ops[0], f"no parent for the argument {role!r} of the call")
                return None
            found.append(_Argument(role, *named[role].pop(0)))
        extra = [role for role, rest in named.items() if rest]
        if extra:
            verdicts.fails("replay", ops[0], f"the call has no argument {extra[0]!r}")
            return None
        return found

    def _tensors(
        self,
        arguments: Sequence[_Argument],
        call: Call,
        instead: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        once: dict[Any, Tensor] = dict(instead or {})
        tensors = []
        for role, op, name in arguments:
            key = op if op is not None else ("held", name)
            if key not in once:
                once[key] = self._held(name) if op is None else self._saved(op, call)
            tensors.append(once[key])
        return tensors

    def _saved(self, op: str, call: Call) -> Tensor:
        if op not in self.rows:
            raise Unreplayable(f"its parent {op!r} is not in the frame")
        if op not in self.saved:
            why = self.rows[op]["unsaved_reason"]
            raise Unreplayable(f"its parent {op!r} is not saved" + (f" ({why})" if why else ""))
        return self.saved.tensor(op, call.context)

    def _held(self, name: str) -> Tensor:
        if name in self.before:
            value = self.before[name]
            if value is None:
                raise Unreplayable(f"it reads {name!r}, which the run then wrote")
            return value
        tensor = self.held[name]() if name in self.held else None
        if tensor is None:
            raise Unreplayable(f"the model does not hold {name!r} any more")
        return tensor

    def _compare(
        self,
        rerun: Rerun,
        tensors: list[Tensor],
        result: list[Tensor],
        row: int,
        op: str,
        verdicts: _Verdicts,
        tolerance: float | None,
    ) -> bool:
        slot = self.tape.rows[row].slot
        if slot >= len(result):
            verdicts.fails("replay", op, f"the call gave only {len(result)} tensors")
            return False
        value = self.saved.tensor(op)
        apart = difference(result[slot], value)
        verdicts.gaps[op] = apart.largest
        if apart.same:
            verdicts.passes("replay", op)
            return True
        if tolerance is not None and apart.largest <= tolerance:
            verdicts.passes("replay", op, f"within the tolerance of {tolerance}: {apart.reason}")
            return True
        note = _not_deterministic(rerun, tensors, slot, value, apart)
        if note:
            verdicts.passes("replay", op, note)
            verdicts.count("not_deterministic")
        else:
            verdicts.fails("replay", op, apart.reason)
        return False

    def _check_dependence(
        self,
        recorded: _Recorded,
        rerun: Rerun,
        arguments: list[_Argument],
        tensors: list[Tensor],
        result: list[Tensor],
        ops: list[str],
        verdicts: _Verdicts,
    ) -> None:
        slots: dict[str, list[int]] = {}
        for slot, argument in enumerate(arguments):
            if argument.op is not None:
                slots.setdefault(argument.op, []).append(slot)
        roles = [argument.role for argument in arguments]
        for parent, places in slots.items():
            verdicts.count("dependence_edges")
            found = dependence(rerun, tensors, places, result, roles)
            if not found.shown:
                verdicts.fails("dependence", ops[0], f"on {parent!r}: {found.reason}")
            elif found.reason:
                verdicts.count("dependence_exempt")
                note = f"does not depend on {parent!r} ({roles[places[0]]}): {found.reason}"
                verdicts.passes("dependence", ops[0], note)
        if slots:
            for op in ops:
                verdicts.passes("dependence", op)

    # --------------------------------------------------------------- downstream

    def resume(self, verdicts: _Verdicts, downstream: str) -> None:
        """Resume the forward from saved values, each change carried on to the outputs."""
        starts = [
            k
            for k, recorded in enumerate(self.calls)
            if recorded.call.function.target
            and all(op in self.rows and op in self.saved for op in recorded.ops)
        ]
        reach = self._reaching()
        starts = [k for k in starts if reach[k]]
        if downstream == "sample" and starts:
            starts = sorted({starts[int(part * len(starts))] for part in _SAMPLE})
        with Surroundings() as surroundings:
            for k in starts:
                self._resume(k, surroundings, verdicts)

    def _reaching(self) -> list[bool]:
        """Which calls an output depends on."""
        call_of = {i: k for k, recorded in enumerate(self.calls) for i in recorded.rows}
        reach = [False] * len(self.calls)
        for k in range(len(self.calls) - 1, -1, -1):
            recorded = self.calls[k]
            if self.tape.kinds.get(recorded.rows[0]) == "output":
                reach[k] = True
            if reach[k]:
                for source in recorded.call.sources:
                    if source >= 0:
                        reach[call_of[source]] = True
        return reach

    def _resume(self, start: int, surroundings: Surroundings, verdicts: _Verdicts) -> None:
        begun = self.calls[start]
        values = {op: self.saved.tensor(op) for op in begun.ops}
        uses = self._last_uses()
        reached = 0
        for k in range(start + 1, len(self.calls)):
            recorded = self.calls[k]
            ops = [op for op in recorded.ops if op in self.rows]
            if not ops or not any(p in values for p in self.rows[ops[0]]["parents"]):
                continue
            surroundings.enter(recorded.call.context)
            try:
                arguments = self._arguments(recorded, ops, _Verdicts([]))
                if arguments is None:
                    continue
                result = self._rerun(recorded)(self._tensors(arguments, recorded.call, values))
            except Unreplayable:
                continue  # its saved value stands for it
            except Exception as error:
                verdicts.fails("downstream", begun.ops[0], f"{ops[0]!r} then fails: {error}")
                return
            for row, op in zip(recorded.rows, recorded.ops, strict=True):
                slot = self.tape.rows[row].slot
                if slot < len(result):
                    values[op] = result[slot].detach()
                if self.rows.get(op, {}).get("kind") == "output" and op in self.saved:
                    reached += 1
                    apart = difference(values[op], self.saved.tensor(op))
                    if not apart.same and not verdicts.totals.get("not_deterministic"):
                        verdicts.fails(
                            "downstream", begun.ops[0], f"resumed from here, {op!r}: {apart.reason}"
                        )
            for op in uses.get(k, ()):
                values.pop(op, None)
        if reached:
            for op in begun.ops:
                verdicts.passes("downstream", op)

    def _last_uses(self) -> dict[int, list[str]]:
        last: dict[str, int] = {}
        for k, recorded in enumerate(self.calls):
            for op in recorded.ops:
                last[op] = k
                for parent in self.rows.get(op, {}).get("parents", ()):
                    last[parent] = k
        uses: dict[int, list[str]] = {}
        for op, k in last.items():
            uses.setdefault(k, []).append(op)
        return uses


def _not_deterministic(
    rerun: Rerun, tensors: list[Tensor], slot: int, value: Tensor, apart: Difference
) -> str:
    """Why a call that gave another value may have: measured, not assumed."""
    if _uninitialised(rerun, tensors, slot):
        return "its memory is not initialised: torch fills it only in its deterministic mode"
    results = [rerun(_moved(tensors, k))[slot] for k in range(_REPEATS)]
    spread = max(difference(r, results[0]).largest for r in results)
    nearest = min(difference(r, value).largest for r in results)
    if nearest == 0.0 or (spread > 0 and apart.largest <= 2 * spread):
        return (
            f"the kernel is not deterministic: runs on the same values differ by up to "
            f"{max(spread, apart.largest):.3g}"
        )
    return ""


def _uninitialised(rerun: Rerun, tensors: list[Tensor], slot: int) -> bool:
    """Whether torch's deterministic mode, which fills fresh memory, fills this result."""
    import torch.utils.deterministic as deterministic

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = True
        filled = rerun(tensors)[slot]
    except Exception:
        return False
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = before[2]
    if filled.is_floating_point() or filled.is_complex():
        return bool(filled.isnan().all())
    if filled.dtype is torch.bool:
        return bool(filled.all())
    return bool((filled == torch.iinfo(filled.dtype).max).all())


def _moved(tensors: list[Tensor], k: int) -> list[Tensor]:
    """The same values at other addresses: kernels may treat the rows before an aligned one apart."""
    moved = []
    for tensor in tensors:
        if not tensor.numel():
            moved.append(tensor)
            continue
        room = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        block = tensor.detach().new_empty(room + k)
        flat = tensor.detach().as_strided((room,), (1,))
        block[k:] = flat
        moved.append(block[k:].as_strided(tensor.shape, tensor.stride()))
    return moved


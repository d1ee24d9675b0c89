"""Replay every call of a frame on the saved values that the frame names as its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.compare import difference
from lensframe_pd.dependence import dependence
from lensframe_pd.determinism import not_deterministic
from lensframe_pd.frame import CallFacts
from lensframe_pd.invariants import Rows
from lensframe_pd.recurrence import Passes
from lensframe_pd.rerun import Rerun, Surroundings, Unreplayable, laid_out
from lensframe_pd.tape import Call, Opaque, Tape
from lensframe_pd.verdicts import Verdicts

_SAMPLE = (0.1, 0.4, 0.8)  # how far into the forward it is resumed from


class Saved:
    """Saved values as tensors, with the layout, kind and device the operation saw."""

    def __init__(self, activations: xr.Dataset, rows: Rows) -> None:
        self._variables = activations.variables
        self._rows = rows

    def __contains__(self, op: str) -> bool:
        return op in self._variables

    def tensor(self, op: str) -> Tensor:
        """A value."""
        row = self._rows[op]
        value = torch.from_numpy(np.asarray(self._variables[op].values))
        dtype = getattr(torch, row["dtype"], None)
        if isinstance(dtype, torch.dtype):
            value = value.to(dtype)
        if row["device"] != "cpu":  # untested: no GPU here
            with suppress(RuntimeError):  # no such device here
                value = value.to(row["device"])
        return laid_out(value, row["stride"])

    def argument(self, op: str) -> Tensor:
        """A value as an argument."""
        return self.followed(op, self.tensor(op))

    def followed(self, op: str, value: Tensor) -> Tensor:
        """`value`, which autograd follows if it followed the row: that, too, chooses kernels."""
        follows = value.is_floating_point() or value.is_complex()
        needed = follows and bool(self._rows[op]["requires_grad"])
        return value.detach().requires_grad_() if needed else value


class Recorded(NamedTuple):
    """One call of the reference, with the labels of its rows."""

    call: Call
    rows: list[int]
    ops: list[str]


def recorded_calls(tape: Tape, again: Tape, grouped: Passes) -> list[Recorded]:
    """The calls in order, arguments that the tape only describes taken from the fresh run."""
    ops = grouped.labels()
    found: dict[int, Recorded] = {}
    for i, row in enumerate(tape.rows):
        if row.call not in found:
            call = tape.calls[row.call]
            if tape is not again and row.call < len(again.calls):
                call = _with_arguments(call, again.calls[row.call])
            found[row.call] = Recorded(call, [], [])
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


class Replays:
    """Replays of the calls on the values the frame names."""

    def __init__(
        self,
        calls: list[Recorded],
        rows: Rows,
        saved: Saved,
        tape: Tape,
        model: Any,
        seeded: bool,
    ) -> None:
        self.calls = calls
        self.rows = rows
        self.saved = saved
        self.tape = tape
        self.seeded = seeded
        self.facts = CallFacts(tape)
        self.held = {h.name: h.alive for h in tape.held}
        self.before = {tape.held[k].name: value for k, value in tape.before.items()}
        self.exact: set[str] = set()

    def check(self, verdicts: Verdicts, tolerance: float | None, fresh: Tape | None) -> None:
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

    def _check_given(self, recorded: Recorded, verdicts: Verdicts, fresh: Tape | None) -> None:
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
            what = f"the saved {self.rows[op]['kind']} is not the one given now"
            verdicts.fails("replay", op, f"{what}: {apart.reason}")

    def _check_call(
        self, recorded: Recorded, ops: list[str], verdicts: Verdicts, tolerance: float | None
    ) -> None:
        call = recorded.call
        arguments = self._arguments(recorded, ops, verdicts)
        if arguments is None:
            return
        tensors = self._tensors(arguments)
        rerun = self._rerun(recorded)
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

    def _rerun(self, recorded: Recorded) -> Rerun:
        if self.tape.rows[recorded.rows[0]].call in self.tape.wrapped:
            raise Unreplayable("it ran inside torch.func, where a row holds the unwrapped value")
        if recorded.call.generator is not None and not self.seeded:
            raise Unreplayable("it draws random numbers, and the trace recorded no seed")
        return Rerun(recorded.call, [self.tape.rows[i] for i in recorded.rows])

    def _arguments(
        self, recorded: Recorded, ops: list[str], verdicts: Verdicts
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
        instead: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        once: dict[Any, Tensor] = dict(instead or {})
        tensors = []
        for _, op, name in arguments:
            key = op if op is not None else ("held", name)
            if key not in once:
                once[key] = self._held(name) if op is None else self._saved(op)
            tensors.append(once[key])
        return tensors

    def _saved(self, op: str) -> Tensor:
        if op not in self.rows:
            raise Unreplayable(f"its parent {op!r} is not in the frame")
        if op not in self.saved:
            why = self.rows[op]["unsaved_reason"]
            raise Unreplayable(f"its parent {op!r} is not saved" + (f" ({why})" if why else ""))
        return self.saved.argument(op)

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
        verdicts: Verdicts,
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
        note = not_deterministic(rerun, tensors, slot, value, apart)
        if note:
            verdicts.passes("replay", op, note)
            verdicts.count("not_deterministic")
        else:
            verdicts.fails("replay", op, apart.reason)
        return False

    def _check_dependence(
        self,
        recorded: Recorded,
        rerun: Rerun,
        arguments: list[_Argument],
        tensors: list[Tensor],
        result: list[Tensor],
        ops: list[str],
        verdicts: Verdicts,
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

    def resume(self, verdicts: Verdicts, downstream: str) -> None:
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

    def _resume(self, start: int, surroundings: Surroundings, verdicts: Verdicts) -> None:
        begun = self.calls[start]
        values = {op: self.saved.argument(op) for op in begun.ops}
        uses = self._last_uses()
        reached = 0
        for k in range(start + 1, len(self.calls)):
            recorded = self.calls[k]
            ops = [op for op in recorded.ops if op in self.rows]
            if not ops or not any(p in values for p in self.rows[ops[0]]["parents"]):
                continue
            surroundings.enter(recorded.call.context)
            try:
                arguments = self._arguments(recorded, ops, Verdicts([]))
                if arguments is None:
                    continue
                result = self._rerun(recorded)(self._tensors(arguments, values))
            except Unreplayable:
                continue  # its saved value stands for it
            except Exception as error:
                verdicts.fails("downstream", begun.ops[0], f"{ops[0]!r} then fails: {error}")
                return
            for row, op in zip(recorded.rows, recorded.ops, strict=True):
                slot = self.tape.rows[row].slot
                if slot < len(result):
                    values[op] = result[slot].detach()
                    if op in self.rows:
                        values[op] = self.saved.followed(op, values[op])
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

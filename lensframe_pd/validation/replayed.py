"""Replay every call of a recording on the saved values that the frame names as its parents."""

from __future__ import annotations

from torch import Tensor

from lensframe_pd.replay.call import Rerun, Unreplayable
from lensframe_pd.replay.onward import differentiated
from lensframe_pd.replay.recording import Argument, Misfit, Recorded, Recording
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.functions import is_accessor
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.dependence import dependence
from lensframe_pd.validation.determinism import not_deterministic
from lensframe_pd.validation.verdicts import Verdicts


def replay(
    recording: Recording, verdicts: Verdicts, tolerance: float | None, given: Tape | None
) -> set[str]:
    """Check replay and dependence of every call.

    Parameters
    ----------
    tolerance
        Largest absolute difference; None for bit for bit.
    given
        A tape with the inputs and constants the model is given now, to compare with the saved.

    Returns
    -------
    set of str
        The rows whose replay is not bit for bit.
    """
    inexact: set[str] = set()
    with Surroundings() as surroundings:
        for recorded in recording.calls:
            ops = recording.ops(recorded)
            if not ops:
                continue
            if not recorded.call.function.target and not recorded.call.sources:
                if given is not None:
                    _check_given(recording, recorded, given, verdicts)
                continue
            surroundings.enter(recorded.call.context)
            try:
                inexact |= _Check(recording, recorded, ops, verdicts, tolerance).run()
            except Misfit as reason:
                inexact |= {*ops}
                verdicts.fails("replay", ops[0], str(reason))
            except Unreplayable as reason:
                for op in ops:
                    verdicts.could_not(op, f"not replayed: {reason}")
                verdicts.count("not_replayed", len(ops))
    return inexact


def _check_given(recording: Recording, recorded: Recorded, given: Tape, verdicts: Verdicts) -> None:
    """Inputs and constants: what the model is given now must be what was saved."""
    op, value = recorded.ops[0], given.values[recorded.rows[0]]
    if value is None or op not in recording.saved:
        return
    apart = difference(recording.saved.tensor(op), value.detach())
    verdicts.gaps[op] = apart.largest
    if apart.same:
        verdicts.passes("replay", op)
    else:
        what = f"the saved {recording.rows[op]['kind']} is not the one given now"
        verdicts.fails("replay", op, f"{what}: {apart.reason}")


class _Check:
    """The checks of one call."""

    def __init__(
        self,
        recording: Recording,
        recorded: Recorded,
        ops: list[str],
        verdicts: Verdicts,
        tolerance: float | None,
    ) -> None:
        self.recording = recording
        self.recorded = recorded
        self.ops = ops
        self.verdicts = verdicts
        self.tolerance = tolerance

    def run(self) -> set[str]:
        """The rows whose replay is not bit for bit."""
        recording, recorded = self.recording, self.recorded
        arguments = recording.arguments(recorded)
        tensors = recording.tensors(arguments)
        rerun = recording.rerun(recorded)
        function = recorded.call.function
        gradient = function.name == "grad" and not is_accessor(function.func)
        try:
            if gradient:
                result = differentiated(recording, recorded, arguments)
            else:
                result = rerun(tensors)
        except Unreplayable:
            raise
        except Exception as error:
            for op in self.ops:
                reason = f"the call fails: {type(error).__name__}: {error}"
                self.verdicts.fails("replay", op, reason)
            return {*self.ops}
        inexact = {
            op
            for row, op in zip(recorded.rows, recorded.ops, strict=True)
            if op in recording.rows and op in recording.saved
            if not self._same(None if gradient else rerun, tensors, result, row, op)
        }
        if not inexact and not gradient:
            self._check_dependence(rerun, arguments, tensors, result)
        return inexact

    def _same(
        self, rerun: Rerun | None, tensors: list[Tensor], result: list[Tensor], row: int, op: str
    ) -> bool:
        """Whether a row is bit for bit what was saved; the verdict is given either way."""
        verdicts, slot = self.verdicts, self.recording.tape.rows[row].slot
        if slot >= len(result):
            verdicts.fails("replay", op, f"the call gave only {len(result)} tensors")
            return False
        value = self.recording.saved.tensor(op)
        apart = difference(result[slot], value)
        verdicts.gaps[op] = apart.largest
        if apart.same:
            verdicts.passes("replay", op)
            return True
        note = ""
        if self.tolerance is not None and apart.largest <= self.tolerance:
            note = f"within the tolerance of {self.tolerance}: {apart.reason}"
        elif rerun is not None:
            note = not_deterministic(rerun, tensors, slot, value, apart)
            verdicts.count("not_deterministic", bool(note))
        if note:
            verdicts.passes("replay", op, note)
        else:
            verdicts.fails("replay", op, apart.reason)
        return False

    def _check_dependence(
        self, rerun: Rerun, arguments: list[Argument], tensors: list[Tensor], result: list[Tensor]
    ) -> None:
        verdicts, ops = self.verdicts, self.ops
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

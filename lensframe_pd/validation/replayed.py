"""Replay every call of a recording on the saved values that the frame names as its parents."""

from __future__ import annotations

from collections.abc import Mapping, Set
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from lensframe_pd.bars import counted
from lensframe_pd.replay.call import Unreplayable
from lensframe_pd.replay.onward import differentiated
from lensframe_pd.replay.recording import Misfit, Recorded, Recording, is_given
from lensframe_pd.tape.compare import Difference
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.domains import Domains
from lensframe_pd.tape.storage import PLAIN, bits_of
from lensframe_pd.tape.tape import Tape
from lensframe_pd.tape.targets import is_accessor
from lensframe_pd.validation.dependence import CHANGES, Probed
from lensframe_pd.validation.determinism import not_deterministic
from lensframe_pd.validation.verdicts import Verdicts


class Replayed(NamedTuple):
    """What the replays showed."""

    excused: set[str]
    """The rows whose replay is not bit for bit and has an excuse."""
    exact: set[int]
    """The first rows on the tape of calls that gave, bit for bit and in the recorded layout, the
    saved value of each of their rows."""
    unshown: set[int]
    """The rows on the tape with a saved value that no replay could show to be right."""
    other: set[int]
    """Those of them that a replay gave another value, which need not be wrong."""
    left: list[Recorded]
    """The calls whose dependence a run with other stimuli is likely to show."""


class _Another(Unreplayable):
    """A gradient taken again is another: autograd may have been told more than calls say."""


def replay(
    recording: Recording,
    verdicts: Verdicts,
    tolerance: float | None,
    given: Tape | None,
    stimuli: Mapping[int, str] | None = None,
) -> Replayed:
    """Check replay and dependence of every call.

    Parameters
    ----------
    tolerance
        Largest absolute difference; None for bit for bit.
    given
        A tape with the inputs and constants the model is given now, to compare with the saved.
    stimuli
        Rows, with their labels, whose values a run with other stimuli will look at. What hangs on
        one of them alone is left for `show_dependence`.
    """
    excused: set[str] = set()
    exact: set[int] = set()
    unshown: set[int] = set()
    other: set[int] = set()
    left: list[Recorded] = []
    stimuli = stimuli or {}
    domains = Domains()
    with Surroundings() as surroundings:
        for recorded in counted(recording.calls, "validate: replay", "calls"):
            ops = recording.ops(recorded)
            if not ops:
                continue
            if is_given(recorded):
                if given is not None:
                    _check_given(recording, recorded, given, verdicts)
                continue
            surroundings.enter(recorded.call.context)
            try:
                check = _Check(recording, recorded, ops, verdicts, tolerance, domains)
                waits = check.hangs_on_one_of(stimuli)
                excused |= check.run(not waits)
                if check.is_exact:
                    exact.add(recorded.rows[0])
                    if waits:
                        left.append(recorded)
            except Misfit as reason:
                verdicts.fails("replay", ops[0], str(reason))
            except Unreplayable as reason:
                for op in ops:
                    verdicts.could_not(op, f"not replayed: {reason}")
                verdicts.count("not_replayed", len(ops))
                unshown |= recording.rows_with_values(recorded)
                if isinstance(reason, _Another):
                    other |= recording.rows_with_values(recorded)
    return Replayed(excused, exact, unshown, other, left)


def show_dependence(
    recording: Recording, replayed: Replayed, others: Set[int], verdicts: Verdicts
) -> None:
    """Check dependence of the calls that were left.

    Where the one tensor that a call was given was another in a run, and its result was, too, it
    hangs on it: nothing else was given, and torch's own functions know of nothing else.

    Parameters
    ----------
    others
        Rows of which a run with other stimuli has shown another value.
    """
    domains = Domains()
    with Surroundings() as surroundings:
        for recorded in replayed.left:
            (row,), (op,) = recorded.rows, recorded.ops
            if row in others and not others.isdisjoint(recorded.call.sources):
                verdicts.count("dependence_edges")
                verdicts.holds("dependence", op)
                continue
            surroundings.enter(recorded.call.context)
            check = _Check(recording, recorded, [op], verdicts, None, domains)
            check.show_dependence(check.rerun(check.tensors))


def _check_given(recording: Recording, recorded: Recorded, given: Tape, verdicts: Verdicts) -> None:
    """Inputs, constants, edits: what the model is given now must be what was saved."""
    op, value = recorded.ops[0], given.values[recorded.rows[0]]
    if value is None or op not in recording.saved:
        return
    apart = recording.saved.apart(op, value.detach())
    verdicts.largest[op] = apart.largest
    if apart.same:
        verdicts.holds("replay", op)
    else:
        what = f"the saved {recording.rows[op]['kind']} is not the one given now"
        verdicts.fails("replay", op, f"{what}: {apart.reason}")


class _Check:
    """The checks of one call.

    Raises
    ------
    Misfit
        The frame's arguments are not those of the call.
    Unreplayable
        The call cannot be run again.
    """

    def __init__(
        self,
        recording: Recording,
        recorded: Recorded,
        ops: list[str],
        verdicts: Verdicts,
        tolerance: float | None,
        domains: Domains,
    ) -> None:
        self.domains = domains
        self.recording = recording
        self.recorded = recorded
        self.ops = ops
        self.verdicts = verdicts
        self.tolerance = tolerance
        self.arguments = recording.arguments(recorded)
        self.tensors = recording.tensors(self.arguments)
        self.rerun = recording.rerun(recorded)
        function = recorded.call.function
        #: Whether it gave each of its rows as it was saved and laid out.
        self.is_exact = False
        #: It differentiates what came before, so its arguments alone do not give its result.
        self.is_gradient = function.name == "grad" and not is_accessor(function.func)

    def hangs_on_one_of(self, stimuli: Mapping[int, str]) -> bool:
        """Whether it is of torch, and was given one of these rows, once, and made one of them."""
        recorded = self.recorded
        call, rows = recorded.call, recorded.rows
        if len(rows) != 1 or rows[0] not in stimuli or call.generator is not None:
            return False
        parents = [argument.op for argument in self.arguments if argument.op is not None]
        sources = [source for source in call.sources if source >= 0]
        if len(parents) != 1 or len(sources) != 1 or stimuli.get(sources[0]) != parents[0]:
            return False
        return self.domains.may_be_given_anything(call.function)

    def run(self, shows_dependence: bool = True) -> set[str]:
        """The rows whose replay is not bit for bit and has an excuse."""
        self._refuse_what_may_kill()
        try:
            result = self._result()
        except Unreplayable:
            raise
        except Exception as error:
            for op in self.ops:
                reason = f"the call fails: {type(error).__name__}: {error}"
                self.verdicts.fails("replay", op, reason)
            return set()
        saved = self._saved()
        if self.is_gradient and not self._are_same(result, saved):
            raise _Another(
                "the gradient is another if taken again: a hook, or what autograd saved, changes it"
            )
        inexact = {op for op, slot in saved if not self._is_same(result, slot, op)}
        all_seen = len(saved) == len(self.recorded.ops)
        self.is_exact = all_seen and not (inexact or self.is_gradient) and self._is_laid_out(result)
        if not (inexact or self.is_gradient) and (shows_dependence or not self.is_exact):
            since = perf_counter()
            self.show_dependence(result)
            self.verdicts.was_for("dependence", perf_counter() - since)
        return {op for op in inexact if not self.verdicts.failed("replay", op)}

    def _refuse_what_may_kill(self) -> None:
        """A kernel that may not check its arguments gets none that are known to be wrong."""
        if self.domains.may_be_given_anything(self.recorded.call.function):
            return
        verdicts, parents = self.verdicts, [a.op for a in self.arguments if a.op is not None]
        wrong = [op for op in parents if verdicts.failed("replay", op)]
        if wrong:
            raise Unreplayable(
                f"its parent {wrong[0]!r} has a wrong value, which its kernel may not check"
            )
        if any([verdicts.failed("invariants", op) for op in self.ops]):
            raise Unreplayable("its row is wrong, and its kernel may not check what it is given")

    def _result(self) -> list[Tensor]:
        if self.is_gradient:
            return differentiated(self.recording, self.recorded, self.arguments)
        return self.rerun(self.tensors)

    def _saved(self) -> list[tuple[str, int]]:
        """The rows whose value is there to compare with, and which result of the call each is."""
        rows, saved, made = self.recording.rows, self.recording.saved, self.recording.made
        return [
            (op, made[row].slot)
            for row, op in zip(self.recorded.rows, self.recorded.ops, strict=True)
            if op in rows and op in saved
        ]

    def _are_same(self, result: list[Tensor], saved: list[tuple[str, int]]) -> bool:
        """Whether all rows are what was saved; no verdict is given."""
        apart = self.recording.saved.apart
        within = self.tolerance or 0.0
        return all(
            [
                slot < len(result)
                and ((found := apart(op, result[slot].detach())).same or found.largest <= within)
                for op, slot in saved
            ]
        )

    def _is_same(self, result: list[Tensor], slot: int, op: str) -> bool:
        """Whether a row is bit for bit what was saved; the verdict is given either way."""
        verdicts = self.verdicts
        if slot >= len(result):
            verdicts.fails("replay", op, f"the call gave only {len(result)} tensors")
            return False
        value = result[slot]
        if value.requires_grad:
            value = value.detach()
        apart = self.recording.saved.apart(op, value)
        verdicts.largest[op] = apart.largest
        if apart.same:
            verdicts.holds("replay", op)
            return True
        excuse = self._excuse(slot, op, apart)
        if excuse:
            verdicts.holds("replay", op, excuse)
        else:
            verdicts.fails("replay", op, apart.reason)
        return False

    def _is_laid_out(self, result: list[Tensor]) -> bool:
        """Whether the result lies in memory as the saved value of each row is given."""
        recorded, rows, bits = self.recorded, self.recording.made, self.recording.saved.bits
        for row, op in zip(recorded.rows, recorded.ops, strict=True):
            known = rows[row]
            made = result[known.slot]
            strided = made.layout is torch.strided and not made.is_nested
            if not strided or made.stride() != tuple(known.stride):
                return False
            if bits_of(made) != bits.get(op, PLAIN):
                return False
        return True

    def _excuse(self, slot: int, op: str, apart: Difference) -> str:
        """Why a result may be this far from the saved value; empty if it may not."""
        if self.tolerance is not None and apart.largest <= self.tolerance:
            return f"within the tolerance of {self.tolerance}: {apart.reason}"
        saved = self.recording.saved
        if self.is_gradient or saved.is_rounded(op):
            return ""
        value = saved.tensor(op)
        reason = not_deterministic(self.rerun, self.tensors, slot, value, apart)
        self.verdicts.count("not_deterministic", bool(reason))
        return reason

    def show_dependence(self, result: list[Tensor]) -> None:
        """Change each parent, and see that the result changes."""
        verdicts, ops = self.verdicts, self.ops
        roles = [argument.role for argument in self.arguments]
        slots = self._slots_by_parent()
        if not slots:
            return
        untried = False
        verdicts.count("dependence_edges", len(slots))
        probed = Probed(self.rerun, self.tensors, result, roles, self.domains)
        for parent, places in slots.items():
            found = probed.dependence(places)
            if found is CHANGES:  # as of most
                continue
            role = roles[places[0]]
            if found.shown is None:
                untried = True
                for op in ops:
                    verdicts.not_run("dependence", op, f"on {parent!r} ({role}): {found.reason}")
            elif not found.shown:
                verdicts.fails("dependence", ops[0], f"on {parent!r}: {found.reason}")
            elif found.reason:
                verdicts.count("dependence_exempt")
                note = f"does not depend on {parent!r} ({role}): {found.reason}"
                verdicts.could_not(ops[0], note)
        for op in ops if not untried else ():
            verdicts.holds("dependence", op)

    def _slots_by_parent(self) -> dict[str, list[int]]:
        """A parent given in several arguments is one tensor, and is changed in all at once."""
        slots: dict[str, list[int]] = {}
        for slot, argument in enumerate(self.arguments):
            if argument.op is not None:
                slots.setdefault(argument.op, []).append(slot)
        return slots

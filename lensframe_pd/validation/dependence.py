"""Whether the result of a call depends on each tensor it was given.

The tensor is changed and the call run again. If every change leaves the result as it was, the
reason must be shown, not assumed: nothing of it is left (it was overwritten), no kernel reads its
values, or the value of another argument masks it. A kernel that may not check what it is given is
given only what it may have (`tape.domains`); where that shows nothing, it is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensframe_pd.replay.call import Rerun, laid_out
from lensframe_pd.tape.compare import farthest, same
from lensframe_pd.tape.config import arg_name
from lensframe_pd.tape.domains import Domain, Domains, divides
from lensframe_pd.tape.storage import bits_of
from lensframe_pd.validation.entries import by_entry, first_rows
from lensframe_pd.validation.metadata import may_read_the_kind_only, reads_values
from lensframe_pd.validation.probes import TURNED, numbers_beside, probes, turned

_DROWNS = 2**20  # a number beside which others are lost in rounding


class Dependence(NamedTuple):
    """What changing one tensor of a call did."""

    shown: bool | None
    """The result changed, or it is shown why it cannot; None if that could not be tried."""
    reason: str = ""
    """Why it cannot, or could not be tried; what was tried, if it could not be shown."""


CHANGES = Dependence(True)

#: Types of results whose numbers are others where they are not equal, but for NaN.
_PLAINLY_EQUAL = frozenset(
    (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
     torch.bool)
)  # fmt: skip
_SIGNED = frozenset((torch.int64, torch.int32, torch.int16, torch.int8))
_MANY = 2**16
_FAR = 0.05


class Probed:
    """A call, what it was given and gave, and what it may be given instead.

    Parameters
    ----------
    run
        Runs the call again on other tensors.
    tensors, result
        What it was given, and what `run(tensors)` gave.
    roles
        Name of the argument in each place.
    domains
        What is known of functions already.
    """

    def __init__(
        self,
        run: Rerun,
        tensors: Sequence[Tensor],
        result: list[Tensor],
        roles: Sequence[str],
        domains: Domains,
    ) -> None:
        self.domains = domains
        self.run = run
        self.tensors = tensors
        self.result = result
        self.roles = roles
        #: By place in the result whether there is no NaN, where that was asked.
        self._without_nan: dict[int, bool] = {}

    def dependence(self, slots: Sequence[int]) -> Dependence:
        """Whether the result depends on the one tensor that stands in all these places."""
        if self.follows_at_once(slots):  # so that there are elements
            return CHANGES
        if not any([t.numel() for t in self.result]):
            return Dependence(True, "the result has no elements")
        if not self.tensors[slots[0]].numel():
            return Dependence(True, "it has no elements")
        return self.on(slots)

    def on(self, slots: Sequence[int]) -> Dependence:
        if self.first_entry_follows(slots):
            return CHANGES
        unread = self.unread(slots)
        if unread is not None:
            return unread
        for other in self.others(slots):
            now = _result(self.run, _put(self.tensors, slots, other))
            if now is None or not _equal(now, self.result):  # who refuses a value has read it
                return CHANGES
        return self.exemption(slots)

    def first_entry_follows(self, slots: Sequence[int]) -> bool:
        """Whether the first entry of a large result is seen to follow that of the input.

        Where a call goes by entry, what the first entry gives for other values, by itself, is what
        it would be in the whole: if that is far from what it is, further than the kernels for one
        entry and for many round apart, the result would change. To see it takes the n-th part of
        the work, and to see it at its first rows less. Where it is not seen nothing is said,
        and the whole is tried.
        """
        tensor = self.tensors[slots[0]]
        if tensor.numel() < _MANY or not tensor.is_floating_point() or len(tensor) < 2:
            return False
        if len(slots) > 1 or len(self.result) != 1 or self.domain(slots) is not Domain.ANY:
            return False
        known = self.result[0].detach()
        if not known.dim() or not known.is_floating_point():
            return False
        of_entry = by_entry(self.run.call, self.tensors, known)
        if slots[0] not in of_entry:
            return False
        first = [t.detach()[:1] if k in of_entry else t for k, t in enumerate(self.tensors)]
        known = known[:1]
        read, n = first_rows(self.run.call, self.tensors, known, of_entry)
        if read:
            first = [t[:, :, :read] if k in of_entry else t for k, t in enumerate(first)]
            known = known[:, :, :n]
        now = _result(self.run, _put(first, slots, turned(first[slots[0]])))
        if now is None or len(now) != 1:
            return False
        made = now[0].detach()[:, :, :n] if read else now[0].detach()
        if made.shape != known.shape:
            return False
        return _FAR * farthest(known) < farthest(made - known) < math.inf

    def unread(self, slots: Sequence[int]) -> Dependence | None:
        """That of what is given only for what kind of tensor it is: no values need be tried.

        None where a kernel is seen to read them, and of other functions, where it is not looked.
        """
        if not may_read_the_kind_only(self.run.call.function.name, self.roles[slots[0]]):
            return None
        if reads_values(self.run, self.tensors, slots):
            return None
        return Dependence(True, f"only its {self.fact(slots)} is read")

    def follows_at_once(self, slots: Sequence[int]) -> bool:
        """Whether the result is another one for the first of the other values, as most are.

        That is the first of `others`, tried in few steps; where it shows nothing, all are tried.
        """
        tensor, result = self.tensors[slots[0]], self.result
        if type(tensor) is not Tensor or tensor.dtype not in TURNED:
            return False
        if tensor.numel() > _MANY or tensor.requires_grad or tensor.layout is not torch.strided:
            return False
        if self.domain(slots) is not Domain.ANY:
            return False
        other = turned(tensor)
        if self.may_trap([other, *self.tensors]):
            return False
        if other.stride() != tensor.stride() or tensor.is_neg() or tensor.is_conj():
            other = laid_out(other, tensor.stride(), bits_of(tensor))
        now = _result(self.run, _put(self.tensors, slots, other))
        if now is None or len(now) != len(result):
            return False
        return any(map(self._is_another, count(), now))

    def _is_another(self, place: int, made: Tensor) -> bool:
        """Whether a tensor of the result is seen at a glance to have other numbers than it had."""
        known = self.result[place]
        if type(made) is not Tensor or type(known) is not Tensor:
            return False
        if made.dtype is not known.dtype or known.dtype not in _PLAINLY_EQUAL:
            return False
        if made.layout is not torch.strided or known.layout is not torch.strided:
            return False
        if torch.equal(made, known):
            return False
        # numbers that are not equal are others, but for NaN, which is not equal to itself
        if place not in self._without_nan:
            self._without_nan[place] = torch.equal(known, known)
        return self._without_nan[place]

    def exemption(self, slots: Sequence[int]) -> Dependence:
        """Why no change of the values changed the result; the cheapest to show first."""
        run, tensors = self.run, self.tensors
        if run.call.function.name == "alias":
            return Dependence(True, "nothing of it is left where the alias looks")
        if run.writes(tensors) & set(slots):
            return Dependence(True, "the call overwrites all of it")
        if not reads_values(run, tensors, slots):
            return Dependence(True, f"only its {self.fact(slots)} is read")
        mask = self.mask(slots) or self.masking_number(slots)
        if mask:
            return Dependence(True, f"the value of {mask} leaves no room for it")
        if self.is_masked_by_dtype(slots):
            return Dependence(True, "its dtype leaves no room for it")
        domain = self.domain(slots)
        if domain is not Domain.ANY:
            return Dependence(None, f"{domain.value}, changes the result")
        if self.may_trap(tensors):
            return Dependence(None, "no other value was tried: the smallest integer is a trap")
        return Dependence(False, "no change of its values changes the result")

    def domain(self, slots: Sequence[int]) -> Domain:
        """The narrowest of the places where a tensor stands."""
        function, of = self.run.call.function, self.domains.of
        if len(slots) == 1:
            return of(function, self.roles[slots[0]], self.tensors[slots[0]].dtype)
        found = [of(function, self.roles[k], self.tensors[k].dtype) for k in slots]
        return max(found, key=[*Domain].index)

    def others(
        self,
        slots: Sequence[int],
        run: Rerun | None = None,
        around: Sequence[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Other values for the tensor in `slots`, where `run(around)` is what is asked about.

        They depend on the numbers that are beside it: what is equal to one is told apart.
        """
        call, around = (run or self.run).call, around or self.tensors
        beside = [t for k, t in enumerate(around) if k not in slots]
        numbers = numbers_beside((*call.args, *call.kwargs.values()), beside)
        found = probes(self.tensors[slots[0]], self.domain(slots), numbers)
        return (other for other in found if not self.may_trap([other, *around]))

    def may_trap(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the call, given these, might divide the smallest integer of a type by -1."""
        return divides(self.run.call.function) and any(map(_has_smallest, tensors))

    def mask(self, slots: Sequence[int]) -> str:
        """The other argument under whose other values this one matters."""
        if next(self.others(slots), None) is None:
            return ""
        for theirs in self.other_places(slots):
            own = self.tensors[theirs[0]]
            for value in self.others(theirs):
                if same(value, own):  # under which this one was seen not to matter
                    continue
                around = _put(self.tensors, theirs, value)
                if self.matters(self.run, around, slots):
                    return repr(self.roles[theirs[0]])
        return ""

    def masking_number(self, slots: Sequence[int]) -> str:
        """The number among the arguments, with another in its place, under which this matters."""
        if self.domain(slots) is not Domain.ANY:
            return ""
        if self.may_trap(self.tensors):
            return ""
        for name, run in _with_other_numbers(self.run):
            if self.matters(run, self.tensors, slots):
                return name
        return ""

    def is_masked_by_dtype(self, slots: Sequence[int]) -> bool:
        """Whether values of another dtype matter: no integer is NaN."""
        tensor = self.tensors[slots[0]]
        if (
            tensor.is_floating_point()
            or tensor.is_complex()
            or self.domain(slots) is not Domain.ANY
        ):
            return False
        around = _put(self.tensors, slots, tensor.double())
        probed = Probed(self.run, around, self.result, self.roles, self.domains)
        return probed.matters(self.run, around, slots)

    def matters(self, run: Rerun, around: Sequence[Tensor], slots: Sequence[int]) -> bool:
        """Whether a change of the tensor in `slots` changes what `run(around)` gives.

        That a value is refused says nothing here: the other argument may be to blame.
        """
        before = _result(run, around)
        if before is None:
            return False
        for mine in self.others(slots, run, around):
            now = _result(run, _put(around, slots, mine))
            if now is not None and not _equal(now, before):
                return True
        return False

    def other_places(self, slots: Sequence[int]) -> Iterable[list[int]]:
        """The places of each tensor that is not in `slots`: all of them, then one by one."""
        places: dict[int, list[int]] = {}
        for slot, other in enumerate(self.tensors):
            if slot not in slots:
                places.setdefault(id(other), []).append(slot)
        several = [found for found in places.values() if len(found) > 1]
        return [*places.values(), *([slot] for found in several for slot in found)]

    def fact(self, slots: Sequence[int]) -> str:
        """Which fact of a tensor whose values are not read the result follows."""
        tensor = self.tensors[slots[0]].detach()

        def follows(other: Tensor, fact: str) -> bool:
            now = _result(self.run, _put(self.tensors, slots, other))
            return now is None or _facts(now, fact) != _facts(self.result, fact)

        longer = [torch.cat([tensor, tensor], axis) for axis in range(tensor.dim())]
        if any(follows(other, "shape") for other in (*longer, tensor[None])):
            return "shape"
        other_dtype = torch.float64 if tensor.dtype is not torch.float64 else torch.float32
        if follows(tensor.to(other_dtype), "dtype"):
            return "dtype"
        elsewhere = _result(self.run, _put(self.tensors, slots, tensor.to("meta")))
        return "device" if elsewhere and all(t.is_meta for t in elsewhere) else "kind"


def _has_smallest(tensor: Tensor) -> bool:
    """Whether the smallest integer of its type is among its integers."""
    if tensor.dtype not in _SIGNED:
        return False
    return bool((tensor.detach() == torch.iinfo(tensor.dtype).min).any())


def _put(tensors: Sequence[Tensor], slots: Sequence[int], other: Tensor) -> list[Tensor]:
    changed = list(tensors)
    for slot in slots:
        changed[slot] = other
    return changed


def _result(run: Rerun, tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """What the call gives for these tensors; None if it refuses them."""
    try:
        return run(tensors)
    except Exception:  # torch raises every kind, and so may a function of the user's
        return None


def _equal(now: list[Tensor], result: list[Tensor]) -> bool:
    return len(now) == len(result) and all([same(a, b) for a, b in zip(now, result, strict=True)])


def _with_other_numbers(run: Rerun) -> Iterator[tuple[str, Rerun]]:
    """The call with another number in the place of one, and that number's name."""
    call = run.call
    for place, number in enumerate(call.args):
        name = arg_name(call.function.arg_names, place)
        for other in _next_to(number):
            changed = call._replace(args=(*call.args[:place], other, *call.args[place + 1 :]))
            yield f"{name!r}, {number},", Rerun(changed, run.rows, run.bits, run.switches)
    for name, number in call.kwargs.items():
        for other in _next_to(number):
            changed = call._replace(kwargs={**call.kwargs, name: other})
            yield f"{name!r}, {number},", Rerun(changed, run.rows, run.bits, run.switches)


def _next_to(value: Any) -> tuple[Any, ...]:
    if type(value) is bool:
        return (not value,)
    if type(value) not in (int, float):
        return ()
    drowns = not abs(value) < _DROWNS  # as of NaN: what is next to it drowns the same
    return (value + 1, value - 1, *(map(type(value), range(3)) if drowns else ()))


def _facts(tensors: list[Tensor], fact: str) -> list[Any]:
    return [getattr(tensor, fact) for tensor in tensors]

"""Whether the result of a call depends on each tensor it was given.

The tensor is changed and the call run again. If every change leaves the result as it was, the
reason must be shown, not assumed: nothing of it is left (it was overwritten), the value of
another argument masks it, or only its shape or dtype is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensframe_pd.replay.call import Rerun, laid_out
from lensframe_pd.tape.compare import same
from lensframe_pd.tape.storage import bits_of
from lensframe_pd.tape.tape import Call


class Dependence(NamedTuple):
    """What changing one tensor of a call did."""

    shown: bool
    """The result changed, or it is shown why it cannot."""
    reason: str = ""
    """Why it cannot; what was tried, if that could not be shown."""


CHANGES = Dependence(True)


def dependence(
    run: Rerun,
    tensors: Sequence[Tensor],
    slots: Sequence[int],
    result: list[Tensor],
    roles: Sequence[str],
) -> Dependence:
    """Whether `result`, which `run(tensors)` gave, depends on the tensor in `slots`.

    Parameters
    ----------
    run
        Runs the call again on other tensors.
    slots
        The places of one and the same tensor among `tensors`.
    roles
        Name of the argument in each place.
    """
    tensor = tensors[slots[0]]
    if not any([t.numel() for t in result]):
        return Dependence(True, "the result has no elements")
    if not tensor.numel():
        return Dependence(True, "it has no elements")
    for other in changed(tensor, run.call):
        now = _result(run, _put(tensors, slots, other))
        if now is None or not _equal(now, result):  # who refuses a value has read it
            return CHANGES
    return _exemption(run, tensors, slots, result, roles)


def _exemption(
    run: Rerun,
    tensors: Sequence[Tensor],
    slots: Sequence[int],
    result: list[Tensor],
    roles: Sequence[str],
) -> Dependence:
    """Why no change of the values changed the result; the cheapest to show first."""
    if run.writes(tensors) & set(slots):
        return Dependence(True, "the call overwrites all of it")
    mask = _mask(run, tensors, slots, roles)
    if mask:
        return Dependence(True, f"the value of {mask} leaves no room for it")
    fact = _only_metadata(run, tensors, slots, result)
    if fact:
        return Dependence(True, f"only its {fact} is read")
    return Dependence(False, "no change of its values changes the result")


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


def changed(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    """Other values for a tensor, in its layout; the quickest and most telling first."""
    for other in _others(tensor.detach(), call):
        other = laid_out(other.to(tensor.dtype), tensor.stride(), bits_of(tensor))
        yield other.requires_grad_() if tensor.requires_grad else other


def _others(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    """Values that differ in whatever a function may read: sign, order, size, one special number."""
    if tensor.dtype is torch.bool:
        return _other_bools(tensor)
    if tensor.is_floating_point() or tensor.is_complex():
        return _other_floats(tensor, call)
    return _other_integers(tensor.long(), call)


def _other_bools(tensor: Tensor) -> Iterator[Tensor]:
    yield ~tensor
    yield torch.ones_like(tensor)
    yield torch.zeros_like(tensor)
    yield _noise(tensor, 0, 2) > 0


def _other_floats(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    yield torch.add(torch.full_like(tensor, 1.37), tensor, alpha=-0.73)
    finite = tensor[tensor.isfinite()].abs()
    reach = max(float(finite.max()), 1.0) if finite.numel() else 1.0
    yield _noise(tensor, -reach, reach)  # the first keeps every order, turned round
    for number in (*_numbers(call), torch.inf, -torch.inf, torch.nan):
        yield torch.full_like(tensor, number)


def _other_integers(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    low, high = int(tensor.min()), int(tensor.max())
    if high > low:  # within their range first: as indices they are all allowed
        yield (tensor - low + 1) % (high - low + 1) + low
        yield tensor.flip([*range(tensor.dim())])
    yield tensor + 1
    yield tensor - 1
    yield -1 - tensor
    limits = torch.iinfo(tensor.dtype)
    for number in _numbers(call):
        if limits.min <= number <= limits.max:
            yield torch.full_like(tensor, int(number))


def _noise(tensor: Tensor, low: float, high: float) -> Tensor:
    """The same numbers each time, drawn without moving any generator of the process."""
    generator = torch.Generator(tensor.device).manual_seed(0)
    kind = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    noise = torch.rand(tensor.shape, generator=generator, dtype=kind, device=tensor.device)
    return noise * (high - low) + low


def _numbers(call: Call) -> Iterator[float]:
    """Numbers among the arguments, and those beside them: what a comparison may look for."""
    given = [v for v in (*call.args, *call.kwargs.values()) if type(v) in (int, float)]
    yield from dict.fromkeys(n + step for n in given for step in (0, 1, -1))


def _mask(run: Rerun, tensors: Sequence[Tensor], slots: Sequence[int], roles: Sequence[str]) -> str:
    """The other argument under whose other values this one matters."""
    tensor = tensors[slots[0]]
    for theirs in _other_places(tensors, slots):
        for value in changed(tensors[theirs[0]], run.call):
            around = _put(tensors, theirs, value)
            before = _result(run, around)
            if before is not None and _matters(run, around, slots, tensor, before):
                return repr(roles[theirs[0]])
    return ""


def _other_places(tensors: Sequence[Tensor], slots: Sequence[int]) -> Iterable[list[int]]:
    """The places of each tensor that is not in `slots`."""
    places: dict[int, list[int]] = {}
    for slot, other in enumerate(tensors):
        if slot not in slots:
            places.setdefault(id(other), []).append(slot)
    return places.values()


def _matters(
    run: Rerun,
    around: Sequence[Tensor],
    slots: Sequence[int],
    tensor: Tensor,
    before: list[Tensor],
) -> bool:
    """Whether a change of `tensor` changes `before`, which `run(around)` gave.

    That a value is refused says nothing here: the other argument may be to blame.
    """
    for mine in changed(tensor, run.call):
        now = _result(run, _put(around, slots, mine))
        if now is not None and not _equal(now, before):
            return True
    return False


def _only_metadata(
    run: Rerun, tensors: Sequence[Tensor], slots: Sequence[int], result: list[Tensor]
) -> str:
    """Which fact of the tensor, other than its values, the result follows; empty if none."""
    tensor = tensors[slots[0]].detach()

    def follows(other: Tensor, fact: str) -> bool:
        now = _result(run, _put(tensors, slots, other))
        return now is None or _facts(now, fact) != _facts(result, fact)

    longer = [torch.cat([tensor, tensor], axis) for axis in range(tensor.dim())]
    if any(follows(other, "shape") for other in (*longer, tensor[None])):
        return "shape"
    other_dtype = torch.float64 if tensor.dtype is not torch.float64 else torch.float32
    if follows(tensor.to(other_dtype), "dtype"):
        return "dtype"
    elsewhere = _result(run, _put(tensors, slots, tensor.to("meta")))
    if elsewhere is not None and all(t.is_meta for t in elsewhere):
        return "device"
    return ""


def _facts(tensors: list[Tensor], fact: str) -> list[Any]:
    return [getattr(tensor, fact) for tensor in tensors]

"""Whether the result of a call depends on each tensor it was given.

The tensor is changed and the call run again. If every change leaves the result as it was, the
reason must be shown, not assumed: nothing of it is left (it was overwritten), the value of
another argument masks it, or only its shape or dtype is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lensframe_pd.replay.call import Rerun, laid_out
from lensframe_pd.tape.compare import same
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
        if _changes(run, _put(tensors, slots, other), result):
            return CHANGES
    if run.written & set(slots):
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


def _changes(run: Rerun, tensors: Sequence[Tensor], result: list[Tensor]) -> bool:
    try:
        now = run(tensors)
    except Exception:
        return True  # the call refuses this value, so it reads it
    return not _equal(now, result)


def _equal(now: list[Tensor], result: list[Tensor]) -> bool:
    return len(now) == len(result) and all([same(a, b) for a, b in zip(now, result, strict=True)])


def changed(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    """Other values for a tensor, in its layout; the quickest and most telling first."""
    for other in _others(tensor.detach(), call):
        other = laid_out(other.to(tensor.dtype), tensor.stride())
        yield other.requires_grad_() if tensor.requires_grad else other


def _others(tensor: Tensor, call: Call) -> Iterator[Tensor]:
    if tensor.dtype is torch.bool:
        yield ~tensor
        yield torch.ones_like(tensor)
        yield torch.zeros_like(tensor)
        yield _noise(tensor, 0, 2) > 0
    elif tensor.is_floating_point() or tensor.is_complex():
        yield torch.add(torch.full_like(tensor, 1.37), tensor, alpha=-0.73)
        finite = tensor[tensor.isfinite()].abs()
        reach = max(float(finite.max()), 1.0) if finite.numel() else 1.0
        yield _noise(tensor, -reach, reach)
        for number in (*_numbers(call), torch.inf, -torch.inf, torch.nan):
            yield torch.full_like(tensor, number)
    else:
        tensor, limits = tensor.long(), torch.iinfo(tensor.dtype)
        low, high = int(tensor.min()), int(tensor.max())
        if high > low:
            yield (tensor - low + 1) % (high - low + 1) + low
            yield tensor.flip([*range(tensor.dim())])
        yield tensor + 1
        yield tensor - 1
        yield -1 - tensor
        for number in _numbers(call):
            if limits.min <= number <= limits.max:
                yield torch.full_like(tensor, int(number))


def _noise(tensor: Tensor, low: float, high: float) -> Tensor:
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
    places: dict[int, list[int]] = {}
    for slot, other in enumerate(tensors):
        if slot not in slots:
            places.setdefault(id(other), []).append(slot)
    for their_slots in places.values():
        for theirs in changed(tensors[their_slots[0]], run.call):
            around = _put(tensors, their_slots, theirs)
            try:
                before = run(around)
            except Exception:
                continue
            for mine in changed(tensor, run.call):
                try:
                    now = run(_put(around, slots, mine))
                except Exception:
                    continue
                if not _equal(now, before):
                    return repr(roles[their_slots[0]])
    return ""


def _only_metadata(
    run: Rerun, tensors: Sequence[Tensor], slots: Sequence[int], result: list[Tensor]
) -> str:
    """Which fact of the tensor, other than its values, the result follows; empty if none."""
    tensor = tensors[slots[0]].detach()
    longer = [torch.cat([tensor, tensor], axis) for axis in range(tensor.dim())]
    for other in (*longer, tensor[None]):
        try:
            now = run(_put(tensors, slots, other))
        except Exception:
            return "shape"
        if [t.shape for t in now] != [t.shape for t in result]:
            return "shape"
    dtype = torch.float64 if tensor.dtype is not torch.float64 else torch.float32
    try:
        now = run(_put(tensors, slots, tensor.to(dtype)))
    except Exception:
        return "dtype"
    if [t.dtype for t in now] != [t.dtype for t in result]:
        return "dtype"
    try:
        now = run(_put(tensors, slots, tensor.to("meta")))
    except Exception:
        return ""
    return "device" if all(t.is_meta for t in now) else ""

"""Why a call run again may give another value: measured, never assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor

from lensframe_pd.replay.call import Rerun
from lensframe_pd.tape.compare import Difference, difference
from lensframe_pd.tape.storage import placed

_REPEATS = 6
_HELD = 6
_SPARE = 4
_SHIFTS = 16
_ROUNDING = 2**10  # units in the last place of the largest element


def not_deterministic(
    rerun: Rerun, tensors: Sequence[Tensor], slot: int, value: Tensor, apart: Difference
) -> str:
    """Why the call may have given `value` and now does not; empty if nothing shows that it may.

    Parameters
    ----------
    rerun, tensors, slot
        The call, its arguments, and which of its results is looked at.
    value, apart
        The saved value, and how far from it the call's result is.
    """
    if _uninitialised(rerun, tensors, slot, value):
        return "its memory is not initialised: torch fills it only in its deterministic mode"
    if rerun.call.function.random:
        return ""  # its generator is in the state it was in
    first = rerun(tensors)[slot]
    if not _is_comparable(first, value):
        return ""  # neither rounding nor chance makes it another kind of tensor
    spread = max(difference(rerun(tensors)[slot], first).largest for _ in range(_REPEATS))
    if spread > 0 and apart.largest <= 2 * spread:
        return (
            f"the kernel is not deterministic: on the same values it differs by {spread:.3g}, "
            f"here by {apart.largest:.3g}"
        )
    if apart.largest > _ROUNDING * _last_place(value):
        return ""  # no rounding is that large
    for moved in _elsewhere(tensors):
        if difference(rerun(moved)[slot], value).same:
            return (
                "the kernel rounds by where in memory its arguments lie: elsewhere it gives the "
                f"saved value, here it differs by {apart.largest:.3g}"
            )
    return ""


def _uninitialised(rerun: Rerun, tensors: Sequence[Tensor], slot: int, value: Tensor) -> bool:
    """Whether it gives `value` but for fresh memory, which torch's deterministic mode fills."""
    try:
        with fresh_memory_filled():
            filled = rerun(tensors)[slot]
    except Exception:  # it has no deterministic form
        return False
    now = rerun(tensors)[slot]
    if not (_is_comparable(now, value) and _is_comparable(filled, value)):
        return False
    fresh = _is_fill(filled) & ~_is_always_fill(rerun, tensors, slot, now)
    return bool(fresh.any()) and difference(_without(now, fresh), _without(value, fresh)).same


def _is_always_fill(rerun: Rerun, tensors: Sequence[Tensor], slot: int, now: Tensor) -> Tensor:
    """Where it gives NaN, or the largest integer, by itself and not by what memory held."""
    always, held = _is_fill(now), []
    for _ in range(_HELD):
        if not bool(always.any()):
            break
        # fresh memory is what others let go of last: it may be NaN, of these it is not
        spare = [torch.zeros_like(now) for _ in range(_SPARE)]
        del spare
        held.append(rerun(tensors)[slot])  # not let go of, so that the next lies elsewhere
        always &= _is_fill(held[-1])
    return always


def _is_comparable(result: Tensor, value: Tensor) -> bool:
    """Whether a result could be `value` but for its numbers."""
    mine, saved = ((t.shape, t.dtype, t.layout, t.is_meta) for t in (result, value))
    return mine == saved


def _is_fill(result: Tensor) -> Tensor:
    if result.is_floating_point() or result.is_complex():
        return result.isnan()
    if result.dtype is torch.bool:
        return result
    return result == torch.iinfo(result.dtype).max


def _without(result: Tensor, places: Tensor) -> Tensor:
    return result.detach().masked_fill(places, 0)


@contextmanager
def fresh_memory_filled() -> Iterator[None]:
    """Torch writes NaN, or the largest integer, into memory that nothing has written."""
    deterministic: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        deterministic.fill_uninitialized_memory = True
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill


def _last_place(value: Tensor) -> float:
    """The unit in the last place of the largest element; 0 for numbers that are never rounded."""
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    return float(value.abs().nan_to_num(0, 0, 0).max()) * torch.finfo(value.dtype).eps


def _elsewhere(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same values at other addresses relative to an aligned one, one tensor at a time."""
    for place, tensor in enumerate(tensors):
        for n in range(_SHIFTS if tensor.numel() else 0):
            moved = placed(tensor.detach(), tensor.stride(), n)
            yield [*tensors[:place], moved, *tensors[place + 1 :]]

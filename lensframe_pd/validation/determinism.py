"""Why a call run again may give another value: measured, never assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor

from lensframe_pd.replay.call import Rerun
from lensframe_pd.tape.compare import Difference, difference
from lensframe_pd.tape.storage import placed

_REPEATS = 6
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
    if _uninitialised(rerun, tensors, slot):
        return "its memory is not initialised: torch fills it only in its deterministic mode"
    if rerun.call.function.random:
        return ""  # its generator is in the state it was in
    first = rerun(tensors)[slot]
    spread = max(difference(rerun(tensors)[slot], first).largest for _ in range(_REPEATS))
    if spread > 0 and apart.largest <= 2 * spread:
        return (
            f"the kernel is not deterministic: on the same values it differs by {spread:.3g}, "
            f"here by {apart.largest:.3g}"
        )
    if apart.largest > _ROUNDING * _largest(value):
        return ""
    for moved in _elsewhere(tensors):
        if difference(rerun(moved)[slot], value).same:
            return (
                "the kernel rounds by where in memory its arguments lie: elsewhere it gives the "
                f"saved value, here it differs by {apart.largest:.3g}"
            )
    return ""


def _uninitialised(rerun: Rerun, tensors: Sequence[Tensor], slot: int) -> bool:
    """Whether torch's deterministic mode, which fills fresh memory, fills this result."""
    deterministic: Any = torch.utils.deterministic
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


def _largest(value: Tensor) -> float:
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    return float(value.abs().nan_to_num(0, 0, 0).max()) * torch.finfo(value.dtype).eps


def _elsewhere(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same values at other addresses relative to an aligned one, one tensor at a time."""
    for place, tensor in enumerate(tensors):
        for n in range(_SHIFTS if tensor.numel() else 0):
            moved = placed(tensor.detach(), tensor.stride(), n)
            yield [*tensors[:place], moved, *tensors[place + 1 :]]

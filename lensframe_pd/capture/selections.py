"""Which entries of tensors a call takes: the integers and masks among its own tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lensframe_pd.tape.storage import unwrapped

_MOST_SELECTED = 2**20  # entries of an index
_SELECTING = frozenset((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def selection_of(args: Any, kwargs: Any) -> dict[int, Tensor]:
    """Copies of the integers and masks among the tensors of a call, but for the first tensor."""
    return {
        k: tensor.detach().clone()
        for k, tensor in enumerate(_in_order((*args, *kwargs.values())))
        if k and tensor.dtype in _SELECTING and _is_small(tensor)
    }


def _in_order(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, in the order of the slots of a template."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _in_order(value)
        elif isinstance(value, slice):
            yield from _in_order((value.start, value.stop, value.step))
        elif isinstance(value, dict):
            yield from _in_order(value.values())


def _is_small(tensor: Tensor) -> bool:
    """Whether these are entries to pick that can be had, and kept at little cost."""
    own = type(tensor) is Tensor or type(tensor) is Parameter
    if not own or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    return tensor.numel() <= _MOST_SELECTED and unwrapped(tensor) is tensor

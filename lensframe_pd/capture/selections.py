"""Which entries of tensors a call takes: the integers and masks among its own tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lensframe_pd.tape.contents import ATOMS
from lensframe_pd.tape.dispatch import unwatched
from lensframe_pd.tape.storage import unwrapped

_MOST_SELECTED = 2**20  # entries of an index
_SELECTING = frozenset((torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def selection_of(first: int, args: Any, kwargs: Any) -> dict[int, Tensor]:
    """Copies of the integers and masks among the tensors of a call that say what it takes.

    The `first` tensor may be the first of them.
    """
    tensors: list[Tensor] = []
    _add_in_order((*args, *kwargs.values()), tensors)
    if not first and len(tensors) > 1:
        return {}  # `where` of two tensors: each entry is of one of them, and stays where it is
    return {
        k: _copied(tensor)
        for k, tensor in enumerate(tensors)
        if k >= first and tensor.dtype in _SELECTING and _can_be_had(tensor)
    }


def _copied(tensor: Tensor) -> Tensor:
    """A copy; an axis that a few entries are spread along is spread again."""
    with unwatched():
        return _narrowed(tensor.detach()).clone().expand(tensor.shape)


def _narrowed(tensor: Tensor) -> Tensor:
    """Without the repetitions along axes that were expanded."""
    if 0 not in tensor.stride():
        return tensor
    spread = zip(tensor.stride(), tensor.shape, strict=True)
    return tensor[tuple([slice(0, 1) if not step and n else slice(None) for step, n in spread])]


def _add_in_order(values: Iterable[Any], found: list[Tensor]) -> None:
    """The tensors among arguments, in the order of the slots of a template."""
    for value in values:
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            found.append(value)
        elif id(kind) in ATOMS:  # before torch's own `isinstance`, which is dear
            continue
        elif isinstance(value, (tuple, list)):
            _add_in_order(value, found)
        elif isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, slice):
            _add_in_order((value.start, value.stop, value.step), found)
        elif isinstance(value, dict):
            _add_in_order(value.values(), found)


def _can_be_had(tensor: Tensor) -> bool:
    """Whether the entries are there, and kept at little cost."""
    own = type(tensor) is Tensor or type(tensor) is Parameter
    if not own or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    if unwrapped(tensor) is not tensor:
        return False
    return tensor.numel() <= _MOST_SELECTED or _narrowed(tensor).numel() <= _MOST_SELECTED

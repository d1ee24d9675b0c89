"""Whether anybody in Python still refers to a tensor, or only autograd's graph does.

What autograd keeps for the backward holds the memory of a tensor as a variable of the user's does.
But nobody can write it there, so that a value in that memory needs no copy while the graph is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from weakref import ref

import torch
from torch import Tensor


def held_by_python(tensors: Iterable[tuple[Callable[[], Tensor | None], int]]) -> set[int] | None:
    """The storages of those tensors that Python refers to; None where that cannot be told.

    Parameters
    ----------
    tensors
        Each as what gives it while it lives, with the address of its storage.
    """
    asking = _asking()
    if asking is None:
        return None
    return {storage for alive, storage in tensors if _references(alive) > asking}


def _references(alive: Callable[[], Tensor | None]) -> int:
    """How many references there are to a tensor in Python; 0 if it is gone.

    Torch itself has one as long as something besides the Python object refers to the tensor.
    """
    tensor = alive()
    if tensor is None:
        return 0
    if type(tensor) is not Tensor:  # its class may answer otherwise
        return sys.maxsize
    shared = torch.Tensor._use_count(tensor) > 1  # type: ignore[attr-defined]
    return sys.getrefcount(tensor) - int(shared)


@cache
def _asking() -> int | None:
    """How many references asking makes; None where this torch counts in another way."""
    x = torch.ones(1, requires_grad=True)
    with torch.enable_grad():
        only_saved, saved, only_held = x * 1, x * 1, x * 1
        graph = [only_saved * only_saved, saved * saved]
    alive = ref(only_saved)
    del only_saved
    asking = _references(alive)
    counts = _references(ref(saved)), _references(ref(only_held))
    del graph
    return asking if asking and counts == (asking + 1, asking + 1) else None

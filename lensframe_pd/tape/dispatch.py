"""Modes that see ATen operators: ours, without torch's compiler around them, and others'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

n_modes = torch._C._len_torch_dispatch_stack
"""How many modes see what this thread does."""


class Dispatched(TorchDispatchMode):
    """A dispatch mode whose operators run as they are.

    Torch wraps the method of every other mode so that its compiler leaves it alone, and for that
    imports the compiler at the first operator, which takes a second, and enters its guard at each.
    Nothing is compiled where these modes are on.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class unwatched:
    """No mode sees what is done inside, as where values are copied.

    A model may count operators, or make a graph of them, by a mode of its own: it gets what it gets
    without a trace.
    """

    __slots__ = ("_modes",)

    def __enter__(self) -> None:
        self._modes = [_pop_mode() for _ in range(n_modes())] if n_modes() else []

    def __exit__(self, *_: object) -> None:
        for mode in reversed(self._modes):
            _push_mode(mode)


def detached(tensor: Tensor) -> Tensor:
    """`tensor.detach()`, which no mode sees that there may be."""
    try:
        with unwatched():
            return tensor.detach()
    except RuntimeError:  # a subclass that is nothing without its mode
        return tensor.detach()

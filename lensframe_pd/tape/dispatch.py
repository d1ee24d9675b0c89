"""Modes that see ATen operators, without torch's compiler around them."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Dispatched(TorchDispatchMode):
    """A dispatch mode whose operators run as they are.

    Torch wraps the method of every other mode so that its compiler leaves it alone, and for that
    imports the compiler at the first operator, which takes a second, and enters its guard at each.
    Nothing is compiled where these modes are on.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

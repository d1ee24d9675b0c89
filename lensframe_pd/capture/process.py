"""Switches of the whole process while models are traced: the first sets them, the last undoes.

Several threads may trace at once, and a switch that each set and undid by itself would be left as
the one found it that ended last.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from lensframe_pd.collector import set_aside

_lock = threading.Lock()
_FRAMES = 200  # the tracer's own, above the model's innermost call


class _Switches:
    """What is set now, and by how many traces."""

    def __init__(self) -> None:
        self._users = 0
        self._undo = ExitStack()
        self._eager = False

    def enter(self) -> None:
        if not self._users:
            self._undo.enter_context(_deeper())
            self._undo.enter_context(set_aside())
        if not self._eager and "torch._dynamo" in sys.modules:
            # Compiled parts run as their eager selves, whose operations are seen.
            self._undo.enter_context(torch.compiler.set_stance("force_eager"))
            self._eager = True
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._eager = False
            self._undo.close()


@contextmanager
def _deeper() -> Iterator[None]:
    """With a forward hook anywhere, torch calls a module through four frames instead of three."""
    before = sys.getrecursionlimit()
    limit = before * 4 // 3 + _FRAMES
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        if sys.getrecursionlimit() == limit:  # else the model has set it since
            sys.setrecursionlimit(before)


_switches = _Switches()


@contextmanager
def switched() -> Iterator[None]:
    """Compiled code runs eagerly, and modules may be nested as deep as without a trace."""
    with _lock:
        _switches.enter()
    try:
        yield
    finally:
        with _lock:
            _switches.leave()

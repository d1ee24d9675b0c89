"""Switches of the whole process while models are traced: the first sets them, the last undoes.

Several threads may trace at once, and a switch that each set and undid by itself would be left as
the one found it that ended last.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

import torch

from lensframe_pd.collector import aside

_FRAMES = 200  # the tracer's own, above the model's innermost call


class _Switched:
    """What is set now, and by how many traces."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        #: The recursion limit before and now.
        self._limits = (0, 0)
        self._eager: ExitStack | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._go_deeper()
                aside.enter()
            if self._eager is None and "torch._dynamo" in sys.modules:
                # Compiled parts run as their eager selves, whose operations are seen.
                self._eager = ExitStack()
                self._eager.enter_context(torch.compiler.set_stance("force_eager"))
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if self._eager is not None:
                self._eager.close()
                self._eager = None
            aside.leave()
            if sys.getrecursionlimit() == self._limits[1]:  # else the model has set it since
                sys.setrecursionlimit(self._limits[0])

    def _go_deeper(self) -> None:
        """With a forward hook anywhere, torch calls a module through four frames, not three."""
        before = sys.getrecursionlimit()
        self._limits = (before, before * 4 // 3 + _FRAMES)
        sys.setrecursionlimit(self._limits[1])


_switched = _Switched()


def switched() -> _Switched:
    """Compiled code runs eagerly, and modules may be nested as deep as without a trace."""
    return _switched

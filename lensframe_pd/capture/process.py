"""Switches while models are traced. Those of the whole process the first sets, the last undoes.

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
        self._scripts = _Scripts()

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
        self._scripts.as_written()

    def __exit__(self, *_: object) -> None:
        self._scripts.as_before()
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


class _Scripts(threading.local):
    """Whether scripted code is optimised in this thread.

    Torch rewrites it after its first runs, so that each would have other operators, and some that
    nobody wrote. As it was written it computes the same.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def as_written(self) -> None:
        self._before.append(torch._C._get_graph_executor_optimize())
        torch._C._set_graph_executor_optimize(False)

    def as_before(self) -> None:
        before = self._before.pop()
        if not torch._C._get_graph_executor_optimize():  # else the model has set it since
            torch._C._set_graph_executor_optimize(before)


_switched = _Switched()


def switched() -> _Switched:
    """Compiled and scripted code runs as written; modules nest as deep as without a trace."""
    return _switched

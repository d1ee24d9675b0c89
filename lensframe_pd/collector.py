"""The garbage collector, which looks through all there is again and again while tables grow."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """A table is tens of thousands of small objects, none of them garbage: do not look for it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_OWED = 8  # collections of what a run made, for one of all that there is
_OF_TAPE = 6  # times as many new objects before the collector looks: most are the tape's
_LATER = 2**30  # collections of what is young before one of all


class _Aside:
    """Sets aside, while something runs, what was there before: told after each collection.

    A tape is many objects, none of them garbage, and makes the collector of cycles look again and
    again through all that was imported. So once what is young has been looked through, it is set
    aside with all that is older: what the model makes from there on is looked through as ever.
    And it begins to look after several times as many new objects, as most of them are the tape's:
    so it looks about as often in terms of the model's own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        #: Whether there is something aside: ours, or somebody else's, who would lose it.
        self._ours = self._theirs = False
        self._owed = 0.0
        #: What makes the collector look, before and while something runs.
        self._thresholds = ((0, 0, 0), (0, 0, 0))
        #: What part of a collection of all that there is one of what is young stands for.
        self._part = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase != "stop" or info["generation"] < 1 or self._theirs:
            return
        if not self._ours:
            self._theirs = gc.get_freeze_count() > 0
            self._ours = not self._theirs
        if self._ours:
            self._owed += 1 if info["generation"] > 1 else self._part
            gc.freeze()

    def enter(self, later: bool = False) -> None:
        """Begin; `later` puts off till after the end that all there is is looked through."""
        with self._lock:
            if not self._users:
                gc.callbacks.append(self)
                before = gc.get_threshold()
                now = (before[0] * _OF_TAPE, before[1], _LATER if later else before[2])
                self._thresholds = before, now
                self._part = 1 / max(1, before[2]) if later else 0.0
                gc.set_threshold(*now)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            gc.callbacks.remove(self)
            found = zip(*self._thresholds, gc.get_threshold(), strict=True)
            # what is not as it was set, the model has set
            gc.set_threshold(*[before if n == now else n for before, now, n in found])
            if self._ours:
                gc.unfreeze()
            self._ours = self._theirs = False
            if self._owed < _OWED:
                return
            self._owed = 0.0
        gc.collect()


#: What is there already is no garbage that the collector of cycles looks for in a long run.
aside = _Aside()


@contextmanager
def set_aside() -> Iterator[None]:
    """What is there already is not looked through meanwhile, which once takes longer than a model.

    Where that is due it is so afterwards. What is made meanwhile is looked through as in a run.
    """
    aside.enter(later=True)
    try:
        yield
    finally:
        aside.leave()

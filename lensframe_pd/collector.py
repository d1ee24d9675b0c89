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


class _Aside:
    """Whether this package has set things aside, for how many."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.ours = False


_aside = _Aside()


@contextmanager
def set_aside() -> Iterator[None]:
    """What is there already is no garbage that the collector of cycles looks for.

    A tape is many objects, none of them garbage, and makes it look again and again through all
    that was imported. What the model makes meanwhile is looked through as ever.
    """
    with _aside.lock:
        # Where somebody else has set things aside, they would lose it. (To count is slow: once.)
        if not _aside.users:
            _aside.ours = gc.get_freeze_count() == 0
            if _aside.ours:
                gc.freeze()
        _aside.users += 1
    try:
        yield
    finally:
        with _aside.lock:
            _aside.users -= 1
            if not _aside.users and _aside.ours:
                gc.unfreeze()

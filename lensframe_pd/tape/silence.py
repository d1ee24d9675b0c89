"""Warnings of one thread kept quiet, whatever other threads do meanwhile."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_lock = threading.Lock()


class _Silence:
    """A filter of warnings that lets those of other threads pass.

    Filters are the whole process's. In the place of its message the one added here has this
    object, which the warnings module asks whether a text matches.
    """

    def __init__(self) -> None:
        self._users = 0
        self._here = threading.local()
        #: The filter that is added.
        self.own: Any = ("ignore", self, Warning, None, 0)
        self._added_to: Any = None

    def match(self, text: str) -> bool:
        return any([pattern.match(text) for pattern in getattr(self._here, "patterns", ())])

    def enter(self, pattern: re.Pattern[str]) -> None:
        self._here.patterns = [*getattr(self._here, "patterns", ()), pattern]
        self._users += 1
        if self._users == 1:
            self._added_to = warnings.filters
        if self.own not in warnings.filters:
            warnings.filters.insert(0, self.own)  # type: ignore[attr-defined]

    def leave(self) -> None:
        self._here.patterns = self._here.patterns[:-1]
        self._users -= 1
        if not self._users:
            lists: list[Any] = [self._added_to, warnings.filters]
            for filters in lists:  # `catch_warnings` puts lists back
                with suppress(ValueError):
                    filters.remove(self.own)
            self._added_to = None


_silence = _Silence()


@contextmanager
def silenced(message: str = "") -> Iterator[None]:
    """Warnings of this thread whose text begins as the pattern says are not shown."""
    pattern = re.compile(message, re.IGNORECASE)
    with _lock:
        _silence.enter(pattern)
    try:
        yield
    finally:
        with _lock:
            _silence.leave()


def filters_of_others() -> list[Any]:
    """The filters of the process, without the one that this module adds."""
    everybodys: list[Any] = [*warnings.filters]
    if everybodys and everybodys[0] is _silence.own:  # as most often, where there is one
        del everybodys[0]
        return everybodys
    return [item for item in everybodys if item[1] is not _silence]


def put_filters(filters: list[Any]) -> None:
    """Set the filters of the process, but for the one that this module adds."""
    everybodys: Any = warnings.filters
    own = [item for item in everybodys if item[1] is _silence]
    everybodys[:] = own + filters  # in place: who is inside `catch_warnings` holds the list

"""What is found of a code object once, for all runs: it never changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import CodeType
from typing import TypeVar

Found = TypeVar("Found")

_MOST = 2**14


def once_per_code(find: Callable[[CodeType], Found]) -> Callable[[CodeType], Found]:
    """A function that keeps what it found of each code object.

    They are known by their id, and held so that it stays theirs: the hash of code is that of all
    that is in it.
    """
    known: dict[int, tuple[CodeType, Found]] = {}

    @wraps(find)
    def found(code: CodeType) -> Found:
        here = known.get(id(code))
        if here is None:
            if len(known) >= _MOST:
                known.clear()
            here = known[id(code)] = code, find(code)
        return here[1]

    return found

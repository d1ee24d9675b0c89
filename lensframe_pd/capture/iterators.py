"""Iterators of the standard library, copied at the place where they stand."""

from __future__ import annotations

from collections.abc import Iterable
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from lensframe_pd.tape.contents import class_attribute, class_module
from lensframe_pd.tape.silence import silenced

_MODULES = frozenset(("builtins", "itertools", "_collections"))
_SEQUENCES = (list, tuple, str, bytes, range)


class Uncopyable(Exception):
    """This iterator cannot be copied: a generator's frame, for one."""


def iterates(kind: type) -> bool:
    """Whether objects of a class are iterators that keep their place where no walk can look."""
    if kind is GeneratorType or kind is AsyncGeneratorType:
        return True
    return class_module(kind) in _MODULES and class_attribute(kind, "__next__") is not None


def copied(iterator: Any, copies: dict[int, Any]) -> Any:
    """An iterator that goes on from where this one stands, and does not move it.

    The iterators it draws from are copied too; what they run over is not.

    Parameters
    ----------
    copies
        Copies by the id of the original, so that an iterator two others draw from stays one.

    Raises
    ------
    Uncopyable
        It, or one it draws from, cannot be copied.
    """
    if id(iterator) not in copies:
        copies[id(iterator)] = _rebuilt(iterator, copies)
    return copies[id(iterator)]


def moved(iterator: Any, copy: Any) -> bool:
    """Whether an iterator may have moved since it was copied."""
    left = class_attribute(type(iterator), "__length_hint__")
    return left is None or left(iterator) != class_attribute(type(copy), "__length_hint__")(copy)


def _rebuilt(iterator: Any, copies: dict[int, Any]) -> Any:
    own_copy = class_attribute(type(iterator), "__copy__")
    if own_copy is not None:  # a tee
        return own_copy(iterator)
    # Python 3.12 and 3.13 warn that itertools will lose this
    with silenced():
        try:
            make, args, *state = iterator.__reduce__()
            if make is iter and len(args) == 1 and type(args[0]) not in _SEQUENCES:
                raise Uncopyable("a user's code would run")
            copy = make(*_with_copies(args, copies))
            if state and state[0] is not None:
                copy.__setstate__(_state(state[0], copies))
        except Exception as error:
            raise Uncopyable(str(error)) from error
    return copy


def _state(state: Any, copies: dict[int, Any]) -> Any:
    if type(state) is not tuple:
        return state
    parts = _with_copies(state, copies)
    return tuple([[*part] if type(part) is list else part for part in parts])  # a cycle adds to it


def _with_copies(values: Iterable[Any], copies: dict[int, Any]) -> list[Any]:
    """Arguments or state of an iterator, with copies of the iterators among them."""
    made = []
    for value in values:
        if iterates(type(value)):
            made.append(copied(value, copies))
        elif type(value) is tuple and any(
            map(iterates, map(type, value))
        ):  # what a chain runs over
            made.append(tuple(_with_copies(value, copies)))
        else:
            made.append(value)
    return made

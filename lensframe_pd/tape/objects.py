"""All that can be reached from an object: the tensors in a result, the modules of a model.

No code of the objects' classes runs, as in `contents`.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any

from torch import Tensor, nn

from lensframe_pd.tape.contents import ATOMS, CODE, Child, children, is_bare, key_text

Trail = tuple[Any, ...]
"""The keys that lead to an object, the last one outside: `((), "a"), 0)`; empty at the start."""


def is_value(value: Any) -> bool:
    """Whether it is a number, a text or the like, or a tuple of these."""
    kind = type(value)
    if id(kind) in ATOMS:
        return True
    return kind is tuple and all([id(type(part)) in ATOMS for part in value])


def walk(
    found: Iterable[Child],
    stop: tuple[type, ...] = (),
    depth: int = sys.maxsize,
    bare: list[Any] | None = None,
) -> Iterator[tuple[Trail, Any, Any]]:
    """Everything that can be reached from `found`, depth first: trail, key and object.

    An object is entered once, a tensor met as often as it is held; values (numbers, text) are left
    out.

    Parameters
    ----------
    stop
        Types of objects that are met but not entered.
    depth
        How many containers and objects deep.
    bare
        Takes what `is_bare`, which is left out then: most of what modules hold.
    """
    closed = (Tensor, *stop)
    seen: dict[int, Any] = {}  # holds the objects, so that their ids stay theirs
    trail: Trail = ()
    stack = [(trail, iter(found))]
    while stack:
        trail, waiting = stack[-1]
        for key, value in waiting:
            kind = type(value)
            if id(kind) in ATOMS or id(value) in seen:
                continue
            if is_bare(value):
                seen[id(value)] = value
                if bare is None:
                    yield trail, key, value
                else:
                    bare.append(value)
                continue
            yield trail, key, value
            if not issubclass(kind, closed) and len(stack) <= depth:
                seen[id(value)] = value
                stack.append(((trail, key), iter(children(value))))
                break
        else:
            stack.pop()


def joined(trail: Trail, key: Any = "") -> str:
    """A trail and a last key as one path: `hidden_states.0`."""
    keys = [key]
    while trail:
        trail, above = trail
        keys.append(above)
    return ".".join([text for text in map(key_text, reversed(keys)) if text])


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of containers and objects, with where it stands.

    Containers, dataclasses, named tuples, any other objects, and the results that
    `functools.lru_cache` keeps are entered; modules, functions and methods are not. An object met
    twice is entered once.
    """
    if issubclass(type(value), Tensor):
        yield path, value
        return
    last, before = None, ""
    for trail, key, found in walk(((path, value),), (nn.Module, *CODE)):
        if issubclass(type(found), Tensor):
            if trail is not last:  # most often there are several in one tuple
                last, before = trail, joined(trail)
            here = key_text(key)
            yield f"{before}.{here}" if before and here else before + here, found


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors that `tensors_in` finds, without their places: of results of most calls quick."""
    kind = type(value)
    if kind is Tensor:
        return [value]
    if kind is tuple or kind is list:  # with None for what was not asked for, maybe
        others = [part for part in value if type(part) is not Tensor]
        if not others:
            return [*value]
        if all([id(type(part)) in ATOMS for part in others]):
            return [part for part in value if type(part) is Tensor]
    return [tensor for _, tensor in tensors_in(value)]


def submodules(root: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """As `root.named_modules(prefix=prefix)`, for any depth of nesting, and no path twice.

    A name with a dot in it, which only `_modules["a.b"] = ...` can give, may read like the path of
    another module; then it has a number: `a.b_2`.
    """
    found: dict[int, tuple[str, nn.Module]] = {}
    taken: set[str] | None = None
    waiting = [(prefix, root)]
    while waiting:
        here = path, module = waiting.pop()
        if id(module) in found:
            continue
        found[id(module)] = here
        held = module._modules
        if not held:
            continue
        before = f"{path}." if path else ""
        if "." in "".join(held.keys()):
            taken = _undotted_paths(root, prefix) if taken is None else taken
            below = _numbered(before, held, taken)
        else:
            below = [(before + name, child) for name, child in held.items() if child is not None]
        waiting += reversed(below)
    return [*found.values()]


def _numbered(
    before: str, held: Mapping[str, nn.Module | None], taken: set[str]
) -> list[tuple[str, nn.Module]]:
    """Modules that are held below a path, of whose names some have a dot."""
    below = []
    for name, child in held.items():
        here = before + name
        if "." in name:
            here = free_name(here, taken)
            taken.add(here)
        if child is not None:
            below.append((here, child))
    return below


def _undotted_paths(root: nn.Module, prefix: str) -> set[str]:
    """The paths of modules of whose names none has a dot."""
    paths: dict[int, str] = {}
    waiting = [(prefix, root)]
    while waiting:
        path, module = waiting.pop()
        if id(module) not in paths:
            paths[id(module)] = path
            before = f"{path}." if path else ""
            below = module._modules.items()
            waiting += [(before + n, m) for n, m in below if m is not None and "." not in n]
    return {*paths.values()}


def free_name(name: str, taken: Container[str]) -> str:
    """`name`, numbered if it is taken: `linear`, `linear_2`."""
    numbered = (f"{name}_{n}" for n in count(2))
    return next(filter(lambda free: free not in taken, chain((name,), numbered)))

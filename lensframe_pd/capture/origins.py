"""Where a tensor came from that no traced call made: the model's state, a closure, a global."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Container, Iterable, Iterator
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lensframe_pd.capture.attributes import USUAL, Own
from lensframe_pd.capture.roots import belongings
from lensframe_pd.errors import OURS
from lensframe_pd.tape.contents import CACHE, Child, attributes, cell_content, class_dict, mro
from lensframe_pd.tape.objects import joined, walk
from lensframe_pd.tape.storage import Unswapped

_TORCH = os.path.dirname(torch.__file__) + os.sep
_CLOSED = (nn.Module, FunctionType)


class Origins:
    """Names tensors that existed before the trace; what it cannot name is a broken link.

    Parameters
    ----------
    state
        Tensors that the model holds, with their names.
    ends
        Code that runs the model: whoever called that, such as a notebook's kernel, is not asked.
    """

    def __init__(self, state: Iterable[tuple[str, Tensor]], ends: Container[CodeType]) -> None:
        self._ends = ends
        self._state: dict[int, tuple[Callable[[], Tensor | None], str]] = {
            id(tensor): (Unswapped(tensor), path) for path, tensor in state
        }
        #: Rows of constants nobody could name.
        self.unknown: list[int] = []

    def name(self, tensor: Tensor) -> str | None:
        alive, path = self._state.get(id(tensor), (None, None))
        return path if alive is not None and alive() is tensor else None

    def find(self, tensor: Tensor, frame: FrameType | None) -> str | None:
        """The name under which the model, or the code that runs, holds `tensor`."""
        found = self.name(tensor)
        while found is None and frame is not None and frame.f_code not in self._ends:
            file = frame.f_code.co_filename
            if not file.startswith(OURS):
                # torch's own frames hold what a module has just returned, whatever made it
                where = _kept_globally if file.startswith(_TORCH) else _reachable
                found = next((p for p, value in where(frame) if value is tensor), None)
            frame = frame.f_back
        if found is not None:
            held = isinstance(tensor, Parameter)  # others may be gone before the run is over
            self._state[id(tensor)] = (Unswapped(tensor) if held else ref(tensor), found)
        return found

    def forget(self) -> None:
        """The run is over: refer to no tensor any more."""
        self._state.clear()


def _reachable(frame: FrameType) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the closure, the globals and the object that a frame's code uses."""
    code = frame.f_code
    if code.co_argcount:  # self, cls, or what a function is given in its place
        name = code.co_varnames[0]
        owner = frame.f_locals.get(name)
        yield from _within(owner, name)
        yield from _of_classes(owner)
    for name in code.co_freevars:
        yield from _within(frame.f_locals.get(name), name)
    for name in _names(code):
        if name in frame.f_globals:
            yield from _within(frame.f_globals[name], name)


def _kept_globally(frame: FrameType) -> Iterator[tuple[str, Any]]:
    """What the module of a frame keeps for all its functions."""
    yield from list(frame.f_globals.items())


def _names(code: CodeType) -> Iterator[str]:
    """Names that code reads; a comprehension or a lambda in it has code of its own."""
    yield from code.co_names
    for part in code.co_consts:
        if type(part) is CodeType:
            yield from _names(part)


def _within(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    kind = type(value)
    if kind is FunctionType:
        found: Iterable[Child] = [(name, cache) for cache in _caches(value)]
    elif issubclass(kind, type):
        found = [(name, dict(class_dict(value)))]
    else:
        found = [(name, value)]
    return _tensors(found)


def _of_classes(owner: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that the classes of an object, and of what it holds, have for all their objects."""
    if issubclass(type(owner), type):
        kinds = [owner]
    else:
        held = (child for child in attributes(owner) if child[0] not in USUAL)
        kinds = [type(owner), *(type(value) for _, _, value in walk(held, _CLOSED))]
    return _tensors(
        (f"{base.__name__}.{name}", value)
        for base in _bases(kinds)
        for name, value in list(class_dict(base).items())
    )


def _bases(kinds: Iterable[type]) -> Iterable[type]:
    """The classes and all that they inherit from, each once."""
    return {id(base): base for kind in kinds for base in mro(kind)}.values()


def extra_tensors(own: Iterable[Own]) -> Iterator[tuple[str, Tensor]]:
    """Tensors the modules keep outside parameters and buffers: state, caches, constants.

    A tensor that several hold has the name the first gives it.
    """
    seen: set[int] = set()
    for path, tensor in _tensors([(path, value) for path, value, _ in own]):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield path, tensor


def cached_by_methods(kinds: Iterable[type]) -> Iterator[tuple[str, Tensor]]:
    """Tensors that methods of classes of modules keep under `functools.lru_cache`."""
    found: list[Child] = []
    for base in _bases(kinds):
        if base is nn.Module or not issubclass(base, nn.Module):
            continue
        for name, method in list(class_dict(base).items()):
            if type(method) is FunctionType:  # as most, and most of those have no closure
                caches = _caches_in(method.__closure__) if method.__closure__ else None
            else:
                caches = None if id(type(method)) in _NO_CACHES else _caches(method)
            if caches:
                found += [(f"{base.__name__}.{name}", cache) for cache in caches]
    return _tensors(found)


_NO_CACHES = frozenset(map(id, (int, bool, float, str, type(None), dict, list, tuple, property)))


def held_by_callable(function: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a callable holds: in its owner, its closure and its defaults."""
    return _tensors(belongings(function))


def _caches(method: Any) -> list[Any]:
    """The caches around a method, a decorator of somebody else's between or not."""
    if issubclass(type(method), (staticmethod, classmethod)):
        method = method.__func__
    if type(method) is CACHE:
        return [method]
    return _caches_in(method.__closure__ or ()) if type(method) is FunctionType else []


def _caches_in(closure: Iterable[CellType]) -> list[Any]:
    try:
        return [cell.cell_contents for cell in closure if type(cell.cell_contents) is CACHE]
    except ValueError:  # some are not filled yet
        held = [content for cell in closure for content in cell_content(cell)]
        return [content for content in held if type(content) is CACHE]


def _tensors(found: Iterable[Child]) -> Iterator[tuple[str, Tensor]]:
    """Tensors in named objects, those behind methods included."""
    for trail, key, value in walk(found, _CLOSED):
        if issubclass(type(value), Tensor):
            yield joined(trail, key), value

"""Where a tensor came from that no traced call made: the model's state, a closure, a global."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import FrameType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from lensframe_pd.errors import OURS
from lensframe_pd.tape.objects import CACHE, tensors_in

_TORCH = os.path.dirname(torch.__file__) + os.sep


class Origins:
    """Names tensors that existed before the trace; what it cannot name is a broken link."""

    def __init__(self, state: Iterable[tuple[str, Tensor]]) -> None:
        self._state: dict[int, tuple[Callable[[], Tensor | None], str]] = {
            id(tensor): (ref(tensor), path) for path, tensor in state
        }
        #: Rows of constants nobody could name.
        self.unknown: list[int] = []

    def name(self, tensor: Tensor) -> str | None:
        alive, path = self._state.get(id(tensor), (None, None))
        return path if alive is not None and alive() is tensor else None

    def find(self, tensor: Tensor, frame: FrameType | None) -> str | None:
        """The name under which the model, or the code that runs, holds `tensor`."""
        found = self.name(tensor)
        while found is None and frame is not None:
            # torch's own frames hold what a module has just returned, whatever made it
            if not frame.f_code.co_filename.startswith((_TORCH, OURS)):
                found = next((p for p, value in _reachable(frame) if value is tensor), None)
            frame = frame.f_back
        if found is not None:
            self._state[id(tensor)] = (ref(tensor), found)
        return found


def _reachable(frame: FrameType) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the closure, the globals and the object that a frame's code uses."""
    code = frame.f_code
    if code.co_argcount and code.co_varnames[0] == "self":
        yield from _within(frame.f_locals.get("self"), "self")
    for name in code.co_freevars:
        yield from _within(frame.f_locals.get(name), name)
    for name in code.co_names:
        if name in frame.f_globals:
            yield from _within(frame.f_globals[name], name)


def _within(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, type):
        yield from tensors_in(dict(vars(value)), name)
    elif isinstance(value, FunctionType):
        for cache in _caches(value):
            yield from tensors_in(cache, name)
    elif not isinstance(value, ModuleType):
        yield from tensors_in(value, name)


def cached_by_methods(modules: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Tensors that methods of the modules keep under `functools.lru_cache`."""
    for cls in {type(module) for module in modules}:
        if cls not in _CACHES:
            own = [c for c in cls.__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
            _CACHES[cls] = [
                (f"{c.__name__}.{name}", cache)
                for c in own
                for name, method in list(vars(c).items())
                for cache in _caches(method)
            ]
        for name, cache in _CACHES[cls]:
            yield from tensors_in(cache, name)


_CACHES: WeakKeyDictionary[type, list[tuple[str, Any]]] = WeakKeyDictionary()


def _caches(method: Any) -> Iterator[Any]:
    """The caches around a method, a decorator of somebody else's between or not."""
    method = getattr(method, "__func__", method)  # of a static or class method
    if isinstance(method, CACHE):
        yield method
    elif isinstance(method, FunctionType):
        for cell in method.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                if isinstance(cell.cell_contents, CACHE):
                    yield cell.cell_contents


def held_by_callable(function: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors among the defaults of a function and the attributes of its owner."""
    owner = getattr(function, "__self__", None if hasattr(function, "__code__") else function)
    if not isinstance(owner, (nn.Module, ModuleType)):
        yield from tensors_in(dict(getattr(owner, "__dict__", {})))
    yield from tensors_in(dict(enumerate(getattr(function, "__defaults__", None) or ())), "default")
    yield from tensors_in(getattr(function, "__kwdefaults__", None) or {})

"""What a callable works with: its modules, by the names it knows them by, and what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from lensframe_pd.tape.contents import (
    CODE,
    attributes,
    cell_content,
    class_attribute,
    class_dict,
    partial_parts,
)
from lensframe_pd.tape.objects import joined, submodules, walk

_WRAPPED = "_orig_mod"
"""What a wrapper of `torch.compile` calls the module inside."""
_WRAPPER = "OptimizedModule"
"""The class of such a wrapper."""
_DEPTH = 2  # containers and objects, from a name the callable uses down to a module


def find_roots(model: Any) -> dict[str, nn.Module]:
    """The modules a callable works with, by path prefix; its own module has the prefix ''."""
    own = _module_behind(model)
    if own is not None:
        return {"": own}
    roots: dict[str, nn.Module] = {}
    for name, value in (*belongings(model), *_globals_of(model)):
        for path, module in _modules_in(value, name):
            roots.setdefault(path, module)
    return roots


def named_modules(roots: dict[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    """Every module under the roots once, by the first path that leads to it.

    Paths are without the wrappers of `torch.compile`.
    """
    named = [here for prefix, root in roots.items() for here in submodules(root, prefix)]
    if len(roots) > 1:
        first: dict[int, tuple[str, nn.Module]] = {}
        for here in named:
            first.setdefault(id(here[1]), here)
        named = [*first.values()]
    if any([_WRAPPED in path for path, _ in named]):
        return [(plain_path(path), module) for path, module in named]
    return named


def module_aliases(
    roots: dict[str, nn.Module], named: list[tuple[str, nn.Module]]
) -> dict[str, str]:
    """The other paths of modules that are held more than once, with the path that names them.

    Only those where a module is held: what is below an alias has aliases through it.
    """
    held = len(roots) + sum(map(len, [module._modules for _, module in named]))
    if held == len(named):  # each at one place, as in most models
        return {}
    path_of = {id(module): path for path, module in named}
    places = [*roots.items()]
    for path, module in named:
        before = f"{path}." if path else ""
        below = module._modules.items()
        places += [(plain_path(before + name), m) for name, m in below if m is not None]
    names = {*path_of.values()}
    return {place: path_of[id(module)] for place, module in places if place not in names}


def plain_path(path: str) -> str:
    """A module or parameter path without the wrappers of `torch.compile`."""
    if _WRAPPED not in path:
        return path
    return ".".join(part for part in path.split(".") if part != _WRAPPED)


def is_compile_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ == _WRAPPER and _WRAPPED in module._modules


def has_compile_wrapper(named: Iterable[tuple[str, nn.Module]], kinds: Iterable[type]) -> bool:
    """Whether one of these modules, which are of these classes, is one."""
    if _WRAPPER not in [kind.__name__ for kind in kinds]:
        return False
    return any([is_compile_wrapper(module) for _, module in named])


def belongings(function: Any) -> Iterator[tuple[str, Any]]:
    """What a callable holds: arguments of a partial, its owner's attributes, closure, defaults."""
    while issubclass(type(function), partial):
        function, args, keywords = partial_parts(function)
        own = _module_behind(function)
        if own is not None:
            yield "", own
        yield from ((f"args.{i}", value) for i, value in enumerate(args))
        yield from dict.items(keywords)
    owner, code = _owner_and_code(function)
    if issubclass(type(owner), type):  # of a class method
        yield from list(class_dict(owner).items())
    elif owner is not None and not issubclass(type(owner), nn.Module):
        yield from attributes(owner)
    if code is not None:
        for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=True):
            yield from ((name, value) for value in cell_content(cell))
        yield "default", code.__defaults__
        yield "", code.__kwdefaults__


def _code_of(function: Any) -> Any:
    """The function of Python's that a callable comes down to."""
    while issubclass(type(function), partial):
        function, _, _ = partial_parts(function)
    return _owner_and_code(function)[1]


def globals_of(function: Any) -> dict[str, Any]:
    """The global variables that the code of a callable sees."""
    code = _code_of(function)
    return {} if code is None else code.__globals__


def _globals_of(function: Any) -> Iterator[tuple[str, Any]]:
    """The global variables that the code of a callable names."""
    code = _code_of(function)
    if code is not None:
        known = code.__globals__
        yield from ((name, known[name]) for name in code.__code__.co_names if name in known)


def _owner_and_code(function: Any) -> tuple[Any, FunctionType | None]:
    """The object that a callable is or belongs to, and the function that runs."""
    owner: Any = function
    if type(function) is FunctionType:
        owner = None
    elif type(function) is MethodType:
        owner, function = function.__self__, function.__func__
    else:
        function = class_attribute(type(function), "__call__")
    return owner, function if type(function) is FunctionType else None


def _module_behind(function: Any) -> nn.Module | None:
    """The module that a callable is, or is a method of."""
    owner: Any = function.__self__ if type(function) is MethodType else function
    if not issubclass(type(owner), nn.Module):
        return None
    inside: nn.Module = owner
    if _WRAPPED in owner._modules:  # of a ScriptModule they are no dict
        inside = owner._modules[_WRAPPED]
    return inside


def _modules_in(value: Any, name: str) -> Iterator[tuple[str, nn.Module]]:
    for trail, key, found in walk(((name, value),), (nn.Module, *CODE), _DEPTH):
        module = _module_behind(found)
        if module is not None:
            yield joined(trail, key), module
        elif issubclass(type(found), CODE):
            # a helper, or what a decorator wraps: its modules have the names that it uses
            for inner, child in (*belongings(found), *_globals_of(found)):
                if issubclass(type(child), nn.Module):
                    yield inner, child

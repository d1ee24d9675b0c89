"""What one object holds, looked at without running any code of its class.

Containers are read with the methods of the builtin types, other objects by their instance
dictionary and slots: no `__getitem__`, `__iter__`, `__len__`, property or `__getattr__` of a user's
class is called. `isinstance` and the hash of a class would do that too (`__class__` may be a
property, a metaclass may have a `__hash__`), so types are asked with `issubclass(type(...), ...)`,
by `is_base` where the base is an abstract class, and known by their id.
"""

from __future__ import annotations

import _io
import ctypes
import gc
import threading
import weakref
from collections import ChainMap, OrderedDict, UserDict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache, partial
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Child = tuple[Any, Any]
"""Where something stands in an object, and the thing itself.

The key is a name or a position; "" for what stands in the object's own place, as the dictionary
inside a `UserDict` does.
"""

#: Type of a function under `functools.lru_cache`.
CACHE = type(lru_cache(lambda: None))

CODE = (FunctionType, MethodType, BuiltinFunctionType)
"""Callables that are code: what they hold is no part of an argument or a result."""


def children(value: Any) -> Iterable[Child]:
    """What an object of any kind holds directly: keys and values, in order.

    Items come first, then attributes. Values, classes, Python modules, tensors, weak references,
    threads, files, and objects of libraries that never hold a model's tensors have no children.
    Functions have: their closure, defaults and attributes.
    """
    kind = type(value)
    if kind is tuple or kind is list:
        return enumerate(value)
    if kind is dict:
        return _named(value)
    if is_closed(value):
        return ()
    facts = _facts_of(kind)
    items = facts.read(value)
    if not facts.attributes:
        return items
    more = attributes(value)
    if not is_base(dict, kind):
        return items + more
    held = dict(items)
    # a ModelOutput has each of its items as an attribute too
    return items + [(name, v) for name, v in more if not (name in held and held[name] is v)]


def is_bare(value: Any) -> bool:
    """Whether it is an empty dictionary, ordered or not, or an empty set.

    So are four of five that modules hold.
    """
    kind = type(value)
    if kind is dict or kind is set:
        return not value
    # To ask for its `__dict__` makes it one, for good: a kilobyte for each module of the model.
    return kind is OrderedDict and not value and not any(gc.get_referents(value))


def is_closed(value: Any) -> bool:
    """Whether it is of a kind that is not looked into."""
    kind = type(value)
    if kind is FunctionType:
        return _of_library(dict.get(value.__globals__, "__name__"))
    return id(kind) in ATOMS or _facts_of(kind).closed


def attributes(value: Any) -> list[Child]:
    """The instance dictionary and the slots of an object; the fields of a dataclass first."""
    facts = _facts_of(type(value))
    own = instance_dict(value)
    held: list[Child] = [] if own is None else dict_items(own)
    for name, slot in slots(type(value)) if facts.slotted else ():
        held += [(name, content) for content in slot_content(value, slot)]
    if facts.fields:
        place = {name: k for k, name in enumerate(facts.fields)}
        held.sort(key=lambda child: place.get(child[0], len(place)))
    return held


def is_all_in_dict(kind: type) -> bool:
    """Whether all attributes of its objects are in their `plain_dict`, and in its order."""
    facts = _facts_of(kind)
    return facts.own_dict and not facts.slotted and not facts.fields


def plain_dict(value: Any) -> dict[str, Any] | None:
    """As `instance_dict`, where the class `is_all_in_dict`; None for other mappings."""
    own = _attribute(value, "__dict__")
    return own if type(own) is dict else None


def instance_dict(value: Any) -> dict[str, Any] | None:
    """The dictionary of an object's attributes, None if it has none."""
    if _facts_of(type(value)).own_dict:
        return _attribute(value, "__dict__")  # type: ignore[no-any-return]
    return _generic_dict(ctypes.py_object(value), None) if _dict_offset(type(value)) else None


# `value.__dict__` could be a property of the class; this is what `object` itself would give. Its
# argument is wrapped by the caller: ctypes would ask for its `__class__`, which could be one too.
_dict_offset = type.__dict__["__dictoffset__"].__get__
_attribute = object.__getattribute__
_generic_dict = ctypes.pythonapi.PyObject_GenericGetDict
_generic_dict.argtypes = [ctypes.py_object, ctypes.c_void_p]
_generic_dict.restype = ctypes.py_object


def slots(kind: type) -> list[tuple[str, MemberDescriptorType]]:
    """The slots that a class and its bases declare."""
    return [
        (name, member)
        for vars_of_base in map(class_dict, mro(kind))
        if "__slots__" in vars_of_base
        for name, member in vars_of_base.items()
        if type(member) is MemberDescriptorType
    ]


def slot_content(value: Any, slot: MemberDescriptorType) -> list[Any]:
    """What is in a slot, nothing if it was not set."""
    try:
        return [slot.__get__(value)]
    except AttributeError:
        return []


def dict_items(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """The items of a dictionary of any kind, in order."""
    ordered = issubclass(type(value), OrderedDict)
    # it hashes its keys on the way, which only for these is not a user's code
    if ordered and all([id(type(key)) in ATOMS for key in dict.keys(value)]):
        return list(OrderedDict.items(value))  # type: ignore[arg-type]
    return list(dict.items(value))


def _of_library(module: Any) -> bool:
    """Whether objects and functions of a module never hold a model's tensors or its state."""
    if type(module) is not str:
        return False
    parts = module.split(".", 2)
    return parts[0] in _LIBRARIES or ".".join(parts[:2]) in _LIBRARIES


_LIBRARIES = frozenset(
    "builtins numpy pandas xarray threading _thread logging io _io re enum inspect PIL "
    "lensframe_pd torch._dynamo torch._inductor torch._library torch._ops torch.fx "
    "torch.library".split()
)

_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type,
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format,
)  # fmt: skip
ATOMS = frozenset(map(id, _PLAIN))
_LEAVES = (
    *(kind for kind in _PLAIN if kind not in (type(None), type(Ellipsis))),
    Tensor, ModuleType, threading.Thread, _io._IOBase,
    weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType,
)  # fmt: skip

# What `type` itself has to say of a class; a metaclass may have properties of these names.
mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
class_dict: Callable[[type], MappingProxyType[str, Any]] = type.__dict__["__dict__"].__get__
class_module: Callable[[type], Any] = type.__dict__["__module__"].__get__
is_base: Callable[[type, type], bool] = type.__subclasscheck__


def class_attribute(kind: type, name: str) -> Any:
    """What the class or the first of its bases that has it holds under a name."""
    for base in mro(kind):
        held = class_dict(base)
        if name in held:
            return held[name]
    return None


def _named(value: dict[Any, Any]) -> list[Child]:
    items = dict_items(value)
    if all([type(key) is str for key, _ in items]):
        return items
    return [(key_text(key, i), child) for i, (key, child) in enumerate(items)]


def key_text(key: Any, position: int = 0) -> str:
    """The text of a key; its position where `str` would run a user's code."""
    kind = type(key)
    if kind is str or kind is int:
        return str(key)
    if is_base(Enum, kind) and class_attribute(kind, "__str__") is Enum.__str__:
        return f"{kind.__name__}.{dict(attributes(key))['_name_']}"
    if is_base(str, kind):
        return str.__str__(key)
    parts = key if kind is tuple else (key,)
    of_library = [id(type(part)) in ATOMS or class_module(type(part)) == "numpy" for part in parts]
    return str(key) if all(of_library) else str(position)


class _Facts(NamedTuple):
    """What is known of a class, without holding it."""

    alive: Callable[[], type | None]
    closed: bool
    read: Callable[[Any], list[Child]]
    attributes: bool
    """Whether its objects have any besides the items that are read."""
    slotted: bool
    own_dict: bool
    """Whether `__dict__` of its objects is their dictionary, and not something a class made."""
    fields: tuple[str, ...]
    """Of a dataclass."""


def _facts_of(kind: type) -> _Facts:
    key = id(kind)
    facts = _known.get(key)
    if facts is None or facts.alive() is not kind:
        facts = _known[key] = _find_facts(kind)
    return facts


_known: dict[int, _Facts] = {}


def _find_facts(kind: type) -> _Facts:
    key = id(kind)
    alive = weakref.ref(kind, lambda _: _known.pop(key, None))
    read = next((read for base, read in _READERS if is_base(base, kind)), None)
    leaf = id(kind) in ATOMS or any([is_base(base, kind) for base in _LEAVES])
    closed = leaf or (read is None and _of_library(class_module(kind)))
    slotted = bool(slots(kind))
    bare = id(kind) in _BARE or not (slotted or _dict_offset(kind))
    fields = class_attribute(kind, "__dataclass_fields__")
    names = tuple(fields) if type(fields) is dict else ()
    own_dict = type(class_attribute(kind, "__dict__")) is GetSetDescriptorType
    return _Facts(alive, closed, read or _nothing, not bare, slotted, own_dict, names)


# Readers of the items of one kind each; what an object has besides them are its attributes.


def _nothing(value: Any) -> list[Child]:
    return []


def _tuple(value: Any) -> list[Child]:
    items = list(tuple.__iter__(value))
    fields = class_attribute(type(value), "_fields")
    named = type(fields) is tuple and len(fields) == len(items)
    return list(zip(fields, items, strict=True)) if named else list(enumerate(items))


def _list(value: Any) -> list[Child]:
    return list(enumerate(list.__iter__(value)))


def _set(value: Any) -> list[Child]:
    base = set if is_base(set, type(value)) else frozenset
    return list(enumerate(base.__iter__(value)))


def _deque(value: Any) -> list[Child]:
    return list(enumerate(deque.__iter__(value)))


def _user_dict(value: Any) -> list[Child]:
    """What stands behind a `UserDict` stands in its place."""
    return [("", child) for name, child in attributes(value) if name == "data"]


def _chain(value: Any) -> list[Child]:
    """The maps of a `ChainMap` in its place, the last first: so their items are in its order."""
    maps = [child for name, child in attributes(value) if name == "maps"]
    held = [child for inside in maps for _, child in children(inside)]
    return [("", child) for child in reversed(held)]


def _partial(value: Any) -> list[Child]:
    func, args, keywords = partial_parts(value)
    return [("args", args), ("", keywords), ("func", func)]


def partial_parts(value: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Function, arguments and keyword arguments of a `functools.partial`."""
    held = class_dict(partial)
    func, args, keywords = [held[name].__get__(value) for name in ("func", "args", "keywords")]
    return func, args, keywords


def _method(value: Any) -> list[Child]:
    return [("__self__", value.__self__), ("__func__", getattr(value, "__func__", None))]


def _function(value: Any) -> list[Child]:
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    return [*cells, ("default", value.__defaults__), ("", value.__kwdefaults__)]


def _cell(value: Any) -> list[Child]:
    return [("", content) for content in cell_content(value)]


def cell_content(cell: Any) -> list[Any]:
    """What a closure's cell holds, nothing if it was not filled yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _proxy(value: Any) -> list[Child]:
    return [("", mapping) for mapping in gc.get_referents(value)]


def _cache(value: Any) -> list[Child]:
    """Results that a function under `functools.lru_cache` keeps."""
    results: list[Any] = []
    for referent in gc.get_referents(value):
        # without a bound they are in a dict, else in a linked list
        results += dict.values(referent) if type(referent) is dict else [referent]
    return [("cache", results)]


def _module(value: Any) -> list[Child]:
    """A module's parameters, buffers and modules stand in its own place, as their paths say."""
    if not _facts_of(type(value)).slotted:
        own = instance_dict(value)
        if type(own) is dict and own.keys() >= _MEMBERS:
            return [("", own[name]) for name in filter(_MEMBERS.__contains__, own)]
    return [("", child) for name, child in attributes(value) if name in _MEMBERS]


_MEMBERS = frozenset(("_parameters", "_buffers", "_modules"))
_BARE = frozenset(map(id, (OrderedDict, CACHE, BuiltinFunctionType)))  # `__dict__`, but empty
_READERS: tuple[tuple[type, Callable[[Any], list[Child]]], ...] = (
    (dict, _named),
    (tuple, _tuple),
    (list, _list),
    (set, _set),
    (frozenset, _set),
    (deque, _deque),
    (nn.Module, _module),
    (FunctionType, _function),
    (MethodType, _method),
    (BuiltinFunctionType, _method),
    (partial, _partial),
    (CellType, _cell),
    (CACHE, _cache),
    (MappingProxyType, _proxy),
    (UserDict, _user_dict),
    (ChainMap, _chain),
)

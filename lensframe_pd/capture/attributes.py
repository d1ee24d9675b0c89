"""What modules keep in their attributes, beside what every module has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from torch import nn

from lensframe_pd.tape.contents import ATOMS, attributes, is_all_in_dict, key_text, plain_dict
from lensframe_pd.tape.objects import is_value

USUAL = frozenset(nn.Module().__dict__)
"""The attributes that every module has."""
Own = tuple[str, Any, type]
"""An attribute of a module: its path, what it is, and the class of the module."""


class Attributes(NamedTuple):
    """What modules keep beside what every module has; no numbers, no texts, nothing empty."""

    own: list[Own]
    hooks: list[Own]
    """What runs before and after their forwards, without paths."""
    kinds: list[type]
    """Their classes, each once."""


_NONE = type(None)


def attributes_of(named: Iterable[tuple[str, nn.Module]]) -> Attributes:
    """What the modules keep, each run anew: so in few steps for all but odd ones."""
    found = Attributes([], [], [])
    in_dict: dict[int, bool] = {}  # by id: a metaclass may have a hash
    for path, module in named:
        kind = type(module)
        is_in_dict = in_dict.get(id(kind))
        if is_in_dict is None:
            is_in_dict = in_dict[id(kind)] = is_all_in_dict(kind)
            found.kinds.append(kind)
        held = plain_dict(module) if is_in_dict else None
        layout = None if held is None else _layout_of(held)
        if held is None or layout is None:
            _add_each(found, path, module)
            continue
        before, after, *values = layout.pick([*held.values()])
        if before or after:
            _add_hooks(found, (before, after), kind)
        for k, value in enumerate(values):
            what = type(value)
            if what is int or what is bool or what is _NONE or what is float or what is str:
                continue  # as most
            if id(what) not in ATOMS and _holds_more(value):
                name = layout.names[k]
                found.own.append((f"{path}.{name}" if path else name, value, kind))
    return found


def own_attributes(named: Iterable[tuple[str, nn.Module]]) -> list[Own]:
    """Those of `attributes_of` that are no hooks."""
    return attributes_of(named).own


def _add_each(found: Attributes, path: str, module: nn.Module) -> None:
    """As `attributes_of`, of one module of any kind."""
    before = f"{path}." if path else ""
    for name, value in attributes(module):
        is_usual = type(name) is str and name in USUAL
        if not is_usual and id(type(value)) not in ATOMS and _holds_more(value):
            found.own.append((before + key_text(name), value, type(module)))
    _add_hooks(found, (module._forward_pre_hooks, module._forward_hooks), type(module))


def _add_hooks(found: Attributes, hooks: Iterable[dict[int, Any]], kind: type) -> None:
    found.hooks.extend([("", hook, kind) for some in hooks for hook in some.values()])


def _holds_more(value: Any) -> bool:
    """Whether it is neither an empty container nor a tuple of values."""
    kind = type(value)
    if kind is tuple:
        if 1 <= len(value) <= 2 and type(value[0]) is int is type(value[-1]):
            return False  # as kernel sizes are, told in few steps
        return not is_value(value)
    return bool(value) if kind is dict or kind is list or kind is set else True


class _Layout(NamedTuple):
    """Where, in the dictionary of a module, what not every module has is."""

    names: tuple[str, ...]
    pick: Callable[[list[Any]], tuple[Any, ...]]
    """Of all values gives the hooks before and after the forward, then what has these names."""


def _layout_of(held: dict[str, Any]) -> _Layout | None:
    """None for a module which lacks what others have, as a ScriptModule does."""
    try:
        names = _SEPARATOR.join(held)  # asks no key anything, whatever text it is
    except TypeError:
        return None
    layout, n = _read(names)
    return layout if n == len(held) else None


_SEPARATOR = "\0"


@lru_cache(maxsize=2**12)
def _read(names: str) -> tuple[_Layout | None, int]:
    """The layout of dictionaries with these names, and how many names that are."""
    every = names.split(_SEPARATOR)
    if len({*every}) < len(every) or not {*every} >= {*_HOOKS}:
        return None, len(every)
    own = tuple([name for name in every if name not in USUAL])
    pick: Any = itemgetter(*map(every.index, (*_HOOKS, *own)))
    return _Layout(own, pick), len(every)


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")

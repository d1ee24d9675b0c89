"""A nest of containers with other tensors in some places."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


class Unbuilt(Exception):
    """A tensor stands in an object that cannot be made anew; the text says in which kind."""


def with_others(value: Any, instead: Mapping[int, Tensor]) -> Any:
    """`value` with other tensors, given by the id of those they stand for.

    Tuples (named ones too), lists, dicts and dataclasses are made anew where they hold one, and
    only there; what they are made of besides is the same.

    Raises
    ------
    Unbuilt
        One of the tensors is in none of these.
    """
    found: set[int] = set()
    new = _with(value, instead, found)
    if not {*instead} <= found:
        raise Unbuilt(type(value).__qualname__)
    return new


def _with(value: Any, instead: Mapping[int, Tensor], found: set[int]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in instead:
            return value
        found.add(id(value))
        return instead[id(value)]
    if isinstance(value, (tuple, list)):
        parts = [_with(part, instead, found) for part in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        items = {key: _with(part, instead, found) for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        items = {f.name: _with(getattr(value, f.name), instead, found) for f in fields(value)}
    else:
        return value
    return _changed(value, items)


def _changed(value: Any, items: dict[Any, Any]) -> Any:
    """A dict, a dataclass, or what is both, with these parts where they are others."""
    is_dict = isinstance(value, dict)
    changed = {k: v for k, v in items.items() if v is not _part(value, k, is_dict)}
    if not changed:
        return value
    new = copy.copy(value)
    for key, part in changed.items():
        if is_dict:
            new[key] = part
        if is_dataclass(value):
            object.__setattr__(new, key, part)
    return new


def _part(value: Any, key: Any, is_dict: bool) -> Any:
    return value[key] if is_dict else getattr(value, key)

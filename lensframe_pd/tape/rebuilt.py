"""A nest of containers and objects with other tensors in some places."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lensframe_pd.tape.contents import ATOMS, CODE, instance_dict


class Unbuilt(Exception):
    """A tensor stands in an object that cannot be made anew; the text says in which kind."""


def with_others(value: Any, instead: Mapping[int, Tensor]) -> Any:
    """`value` with other tensors, given by the id of those they stand for.

    Tuples (named ones too), lists, dicts and objects with attributes are made anew where they hold
    one, and only there; what they are made of besides is the same.

    Raises
    ------
    Unbuilt
        One of the tensors is in none of these.
    """
    kind = type(value)
    is_flat = (kind is tuple or kind is list) and {*map(type, value)} == {Tensor}
    if instead and is_flat and {*instead} <= {*map(id, value)}:  # as what most calls give
        return kind(map(instead.get, map(id, value), value))
    rebuilt = _Rebuilt(instead)
    new = rebuilt.of(value)
    if not {*instead} <= rebuilt.found:
        raise Unbuilt(type(value).__qualname__)
    return new


class _Rebuilt:
    def __init__(self, instead: Mapping[int, Tensor]) -> None:
        self._instead = instead
        self.found: set[int] = set()
        #: What was made of each object that was met; itself while it is being looked at.
        self._made: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        kind = type(value)
        if issubclass(kind, Tensor):
            if id(value) not in self._instead:
                return value
            self.found.add(id(value))
            return self._instead[id(value)]
        if id(kind) in ATOMS or issubclass(kind, (nn.Module, *CODE)):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = value, value
            self._made[id(value)] = value, self._anew(value)
        return self._made[id(value)][1]

    def _anew(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            parts = [self.of(part) for part in value]
            if all(a is b for a, b in zip(parts, value, strict=True)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        items = self._changed(value) if isinstance(value, dict) else {}
        attributes = self._changed(instance_dict(value) or {})
        if not items and not attributes:
            return value
        return _with(value, items, attributes)

    def _changed(self, parts: dict[Any, Any]) -> dict[Any, Any]:
        """Those that are made anew."""
        new = {key: self.of(part) for key, part in dict.items(parts)}
        return {key: part for key, part in new.items() if part is not dict.__getitem__(parts, key)}


def _with(value: Any, items: dict[Any, Any], attributes: dict[str, Any]) -> Any:
    """The object again, with these parts of a dict, and these attributes."""
    if isinstance(value, dict):
        new: Any = copy.copy(value)
        if isinstance(value, OrderedDict):  # a class may put its own keys in another order
            for key in OrderedDict.keys(value):
                OrderedDict.move_to_end(new, key)
    else:
        try:
            new = object.__new__(type(value))
        except TypeError:
            raise Unbuilt(type(value).__qualname__) from None
        instance_dict(new).update(instance_dict(value) or {})  # type: ignore[union-attr]
    for key, part in items.items():
        dict.__setitem__(new, key, part)
    for name, part in attributes.items():
        object.__setattr__(new, name, part)
    return new

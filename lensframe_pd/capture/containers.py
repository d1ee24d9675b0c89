"""What objects hold, and where random generators stand, kept so that it can be put back."""

from __future__ import annotations

import array
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import chain
from operator import is_
from types import CellType
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from lensframe_pd.capture.iterators import iterates
from lensframe_pd.tape.contents import (
    cell_content,
    dict_items,
    instance_dict,
    slot_content,
    slots,
)


class _Kind(NamedTuple):
    """How the objects that a kind of container holds are read and written, as a flat list."""

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], None]


class Place(NamedTuple):
    """One container and what it held."""

    owner: Any
    kind: _Kind
    content: list[Any]

    def is_empty(self) -> bool:
        """Whether it is a plain container, none of a user's class, that held nothing."""
        return not self.content and type(self.owner) in _PLAIN

    def stands(self) -> bool:
        """Whether it holds the very objects it held."""
        now = self.kind.read(self.owner)
        return len(now) == len(self.content) and all(map(is_, now, self.content))

    def restore(self, fresh: dict[int, Any]) -> None:
        content = [fresh.get(id(v), v) for v in self.content] if fresh else self.content
        now = self.kind.read(self.owner)
        if len(now) != len(content) or not all(map(is_, now, content)):
            self.kind.write(self.owner, content)


class Dictionaries:
    """Plain dictionaries and what they held: most of what objects hold, looked at all together."""

    def __init__(self) -> None:
        self._owners: list[dict[Any, Any]] = []
        self._sizes: list[int] = []
        self._keys: list[Any] = []
        self._values: list[Any] = []

    def add(self, owner: dict[Any, Any]) -> None:
        """One more, with what it holds now."""
        self._owners.append(owner)
        self._sizes.append(len(owner))
        self._keys += owner
        self._values += owner.values()

    def values(self) -> list[Any]:
        """All that they held."""
        return self._values

    def stand(self) -> bool:
        """Whether each holds the very objects it held, in the order it held them."""
        owners = self._owners
        if [*map(len, owners)] != self._sizes:
            return False
        keys, values = chain.from_iterable(owners), chain.from_iterable(map(dict.values, owners))
        return all(map(is_, keys, self._keys)) and all(map(is_, values, self._values))

    def restore(self, fresh: dict[int, Any]) -> None:
        """Put back what they held, with the objects of `fresh` for those of these ids."""
        end = 0
        for owner, size in zip(self._owners, self._sizes, strict=True):
            begin, end = end, end + size
            content = [*self._keys[begin:end], *self._values[begin:end]]
            Place(owner, _DICT, content).restore(fresh)


class Layout(NamedTuple):
    """Where objects of a class hold others."""

    alive: Callable[[], type | None]
    kinds: list[_Kind]
    slots: list[Any]
    is_ordinary: bool
    """Whether they are no tensors, arrays, iterators or random generators."""


def layout_of(kind: type) -> Layout:
    """Of a class, which is looked at once and not held."""
    found = _layouts.get(id(kind))
    if found is None or found.alive() is not kind:
        found = _layouts[id(kind)] = _find_layout(kind)
    return found


_layouts: dict[int, Layout] = {}


def _find_layout(kind: type) -> Layout:
    key = id(kind)
    alive = ref(kind, lambda _: _layouts.pop(key, None))
    kinds = [how for base, how in _KINDS if issubclass(kind, base)]
    known = (Tensor, np.ndarray, bytearray, array.array, *(base for base, _ in _GENERATORS))
    is_ordinary = not (issubclass(kind, known) or iterates(kind))
    return Layout(alive, kinds, [slot for _, slot in slots(kind)], is_ordinary)


def places_in(value: Any, layout: Layout, plain: Dictionaries) -> list[Place]:
    """Where an object can be made to hold something else; dictionaries are added to the `plain`."""
    if type(value) is dict:
        plain.add(value)
        return []
    found = [Place(value, how, how.read(value)) for how in layout.kinds]
    own = instance_dict(value)
    if type(own) is dict:
        plain.add(own)
    elif own is not None:
        found.append(Place(own, _DICT, _DICT.read(own)))
    for slot in layout.slots:
        place = (value, slot)
        found.append(Place(place, _SLOT, _SLOT.read(place)))
    return found


class Draws(NamedTuple):
    """How the state of a kind of random generator is taken and put back."""

    state: Callable[[Any], Any]
    put: Callable[[Any, Any], object]


def draws_of(value: Any) -> Draws | None:
    """None for what is no random generator, or one of the process, which is everybody's."""
    kind = type(value)
    if id(value) in _OF_THE_PROCESS or issubclass(kind, random.SystemRandom):
        return None
    return next((draws for base, draws in _GENERATORS if issubclass(kind, base)), None)


def _put_bits(generator: Any, state: Any) -> None:
    generator.state = state


_GENERATORS: tuple[tuple[type, Draws], ...] = (
    (torch.Generator, Draws(torch.Generator.get_state, torch.Generator.set_state)),
    (random.Random, Draws(random.Random.getstate, random.Random.setstate)),
    (np.random.BitGenerator, Draws(lambda g: g.state, _put_bits)),
    (
        np.random.Generator,
        Draws(lambda g: g.bit_generator.state, lambda g, s: _put_bits(g.bit_generator, s)),
    ),
    (
        np.random.RandomState,
        Draws(np.random.RandomState.get_state, np.random.RandomState.set_state),
    ),
)
# Those that `Generators` puts back: they may be reached from a model as well.
_OF_THE_PROCESS = frozenset(
    map(id, (torch.default_generator, np.random.mtrand._rand, random._inst))
)


def _read_dict(value: dict[Any, Any]) -> list[Any]:
    """Its keys, then its values."""
    if not dict.__len__(value):  # as most of a module's are
        return []
    if type(value) is dict:
        return [*value, *value.values()]
    items = dict_items(value)
    return [key for key, _ in items] + [held for _, held in items]


def _write_dict(value: dict[Any, Any], content: list[Any]) -> None:
    base: Any = OrderedDict if issubclass(type(value), OrderedDict) else dict
    base.clear(value)
    half = len(content) // 2
    for key, held in zip(content[:half], content[half:], strict=True):
        base.__setitem__(value, key, held)


def _write_set(value: set[Any], content: list[Any]) -> None:
    set.clear(value)
    set.update(value, content)


def _write_deque(value: deque[Any], content: list[Any]) -> None:
    deque.clear(value)
    deque.extend(value, content)


def _write_slot(place: tuple[Any, Any], content: list[Any]) -> None:
    owner, slot = place
    for held in content:
        slot.__set__(owner, held)
    if not content:
        slot.__delete__(owner)


def _write_cell(cell: CellType, content: list[Any]) -> None:
    for held in content:
        cell.cell_contents = held
    if not content:
        del cell.cell_contents


_DICT = _Kind(_read_dict, _write_dict)
_SLOT = _Kind(lambda place: slot_content(*place), _write_slot)
_PLAIN = (dict, OrderedDict, list, set, deque)
_KINDS: tuple[tuple[type, _Kind], ...] = (
    (dict, _DICT),
    (list, _Kind(lambda v: [*list.__iter__(v)], lambda v, c: list.__setitem__(v, slice(None), c))),
    (set, _Kind(lambda v: [*set.__iter__(v)], _write_set)),
    (deque, _Kind(lambda v: [*deque.__iter__(v)], _write_deque)),
    (CellType, _Kind(cell_content, _write_cell)),
)

"""All that some objects hold, kept so that it can be put back in place."""

from __future__ import annotations

import array
import operator
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from types import CellType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from lensframe_pd.capture.iterators import Uncopyable, copied, is_iterator, moved
from lensframe_pd.collector import collector_paused
from lensframe_pd.tape.compare import parts_of, same
from lensframe_pd.tape.contents import (
    Child,
    cell_content,
    dict_items,
    instance_dict,
    is_bare,
    is_closed,
    slot_content,
    slots,
)
from lensframe_pd.tape.objects import joined, walk
from lensframe_pd.tape.regions import region_of
from lensframe_pd.tape.storage import SPARSE, same_view, storage_of


class Snapshot:
    """Everything reachable from named objects: `restore` puts it back in place, as often as asked.

    Tensors get their data and shape back, NumPy arrays and buffers of bytes their data, random
    generators and iterators their place, containers their items, and objects their attributes; no
    code of a user's class runs. Objects of libraries that never hold a model's state are not
    entered.

    Attributes
    ----------
    unrestorable
        Path and type of what has a place of its own that cannot be put back, as a generator.
    """

    def __init__(self, objects: Iterable[Child]) -> None:
        self.unrestorable: list[tuple[str, str]] = []
        self._tensors: dict[int, _Kept] = {}
        self._places: list[_Place] = []
        self._empty: list[Any] = []
        self._memories: list[_Memory] = []
        self._draws: dict[int, tuple[Any, _Draws, Any]] = {}
        self._iterators: dict[int, tuple[Any, Any]] = {}  # with a copy that is never moved
        with collector_paused():
            self._keep_all(objects)

    def _keep_all(self, objects: Iterable[Child]) -> None:
        iterators = {}
        layouts: dict[type, _Layout] = {}
        for trail, key, value in walk(objects):
            if is_bare(value):
                self._empty.append(value)
                if type(value) is OrderedDict:
                    self._empty.append(value.__dict__)
                continue
            layout = layouts.get(type(value))
            if layout is None:
                layout = layouts[type(value)] = _layout(value)
            if layout.is_ordinary:
                if not is_closed(value):
                    self._places += _places(value, layout)
            elif issubclass(type(value), Tensor):
                self._keep(value)
                self._places += _places(value, layout)
            elif is_iterator(value):
                iterators[id(value)] = value, joined(trail, key)
            elif (draws := _draws_of(value)) is not None:
                self._draws[id(value)] = value, draws, draws.state(value)
            elif (memory := _memory_of(value)) is not None:
                self._memories.append(memory)
            elif not is_closed(value):
                self._places += _places(value, layout)
        self._keep_iterators(iterators)
        # a glance is enough for those
        self._empty += [place.owner for place in self._places if place.is_empty()]
        self._places = [place for place in self._places if not place.is_empty()]

    def unchanged(self, tensor: Tensor) -> bool:
        """Whether this tensor still holds what it held then."""
        kept = self._tensors.get(id(tensor))
        return kept is not None and kept.unchanged()

    def unmoved(self, tensor: Tensor) -> bool:
        """Whether it is known to lie where it lay then, with each bit as it was."""
        kept = self._tensors.get(id(tensor))
        return kept is not None and kept.unmoved()

    def holds(self, key: int) -> bool:
        """Whether a tensor with this id was there then; ids of those stay theirs."""
        return key in self._tensors

    def everything(self) -> Collection[int]:
        """The ids of all tensors."""
        return self._tensors.keys()

    def restore(self, unmoved: Collection[int] = ()) -> None:
        """Put all back.

        Parameters
        ----------
        unmoved
            Ids of tensors that were just seen to be `unmoved`, with nothing run since: their memory
            is not gone through once more.
        """
        fresh = self._fresh()
        for container in self._empty:
            if container:
                container.clear()
        for place in self._places:
            place.restore(fresh)
        for source, draws, state in self._draws.values():
            draws.put(source, state)
        for memory in self._memories:
            memory.restore()
        for key, kept in self._tensors.items():
            kept.restore(key in unmoved)

    def _keep(self, tensor: Tensor | None) -> None:
        while tensor is not None and id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = kept = _Kept(tensor)
            for part in kept.parts:
                self._keep(part)
            tensor = tensor.grad if tensor.is_leaf else None

    def _keep_iterators(self, found: dict[int, tuple[Any, str]]) -> None:
        """Copy the iterators that stand where another can be put in their place."""
        if not found:
            return
        replaceable = {id(content) for place in self._places for content in place.content}
        copies: dict[int, Any] = {}
        for key, (iterator, path) in found.items():
            try:
                if key not in replaceable:
                    raise Uncopyable("it stands in a tuple")
                self._iterators[key] = iterator, copied(iterator, copies)
            except Uncopyable:
                self.unrestorable.append((path, type(iterator).__name__))

    def _fresh(self) -> dict[int, Any]:
        """What stands in the place of each iterator, by its id: itself if it has not moved."""
        copies: dict[int, Any] = {}
        return {
            key: copied(copy, copies) if moved(iterator, copy) else iterator
            for key, (iterator, copy) in self._iterators.items()
        }


class _Kept:
    """One tensor, with a copy of its data; the data of one made of others are those others'."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.alias: Tensor | None = None
        self.copy: Tensor | None = None
        self.parts: list[Tensor] = []
        self._bits: tuple[Tensor | None, Tensor | None] = None, None
        if isinstance(tensor, UninitializedTensorMixin):
            return
        self.requires_grad, self.grad = tensor.requires_grad, None
        if tensor.is_leaf:
            self.grad = tensor.grad
        with torch.no_grad():
            self.parts = parts_of(tensor)
            if not self.parts or tensor.layout in SPARSE:
                self.alias = tensor.detach()
                self.copy = self.alias.clone()
                if not self.parts:
                    self._storage, self._high = storage_of(self.alias), region_of(self.alias).high
                    self._bits = _bits(self.alias), _bits(self.copy)

    def unchanged(self) -> bool:
        return self.copy is not None and same(self.tensor, self.copy)

    def unmoved(self) -> bool:
        mine, theirs = self._bits
        if self.alias is None or mine is None or theirs is None or not self._lies(self.alias):
            return False
        return torch.equal(mine, theirs)  # a version counter does not see every write

    def _lies(self, alias: Tensor) -> bool:
        """Whether its memory and its shape are those it had: not after `.data = ...`, `t_()`."""
        tensor = self.tensor
        if storage_of(tensor) != self._storage or not same_view(tensor, alias):
            return False
        return alias.untyped_storage().nbytes() >= self._high

    def restore(self, unmoved: bool = False) -> None:
        tensor = self.tensor
        if isinstance(tensor, UninitializedTensorMixin):
            return
        if self.alias is not None and self.copy is not None and not unmoved:
            with torch.no_grad():
                self._restore_data(self.alias, self.copy)
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad

    def _restore_data(self, alias: Tensor, copy: Tensor) -> None:
        if self.parts:
            if _addresses(parts_of(self.tensor)) != _addresses(self.parts):
                self.tensor.data = alias
            return
        if self.unmoved():
            return
        if storage_of(self.tensor) != self._storage or not same_view(self.tensor, alias):
            self.tensor.data = alias
        storage = alias.untyped_storage()
        if storage.nbytes() < self._high:
            storage.resize_(self._high)
        mine, theirs = self._bits
        if not (same(alias, copy) if mine is None or theirs is None else torch.equal(mine, theirs)):
            alias.copy_(copy)


def _bits(tensor: Tensor) -> Tensor | None:
    """The same memory as whole numbers, None where that cannot be seen as such at all times."""
    kind = _WHOLE.get(tensor.element_size()) if type(tensor) is Tensor else None
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.dim() > 0
    if kind is None or not plain or not (tensor.is_floating_point() or tensor.dtype in _INTEGERS):
        return None
    return None if tensor.is_neg() else tensor.view(kind)


_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


class _Memory(NamedTuple):
    """An array of numbers or bytes that torch does not own, with a copy of its data."""

    owner: Any
    copy: Any

    def restore(self) -> None:
        owner, copy = self.owner, self.copy
        if issubclass(type(owner), np.ndarray):
            if _bytes_of(owner) != _bytes_of(copy):
                owner[...] = copy
        elif owner != copy:
            owner[:] = copy


def _memory_of(value: Any) -> _Memory | None:
    """None for what is no array, or one that cannot be written."""
    kind = type(value)
    if issubclass(kind, np.ndarray):
        plain = np.ndarray.view(value, np.ndarray)  # what a subclass overrides is not asked
        if plain.dtype.hasobject or not plain.flags.writeable:
            return None
        return _Memory(plain, plain.copy())
    if kind is bytearray or kind is array.array:
        return _Memory(value, value[:])
    return None


def _bytes_of(values: np.ndarray[Any, Any]) -> bytes:
    """NaN and -0.0 are what they are, too."""
    return values.tobytes()


class _Kind(NamedTuple):
    """How the objects that a kind of container holds are read and written, as a flat list."""

    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], None]


class _Place(NamedTuple):
    """One container and what it held."""

    owner: Any
    kind: _Kind
    content: list[Any]

    def is_empty(self) -> bool:
        """Whether it is a plain container, none of a user's class, that held nothing."""
        return not self.content and type(self.owner) in _PLAIN

    def restore(self, fresh: dict[int, Any]) -> None:
        content = [fresh.get(id(v), v) for v in self.content] if fresh else self.content
        now = self.kind.read(self.owner)
        if len(now) != len(content) or not all(map(operator.is_, now, content)):
            self.kind.write(self.owner, content)


class _Layout(NamedTuple):
    """Where objects of a class hold others."""

    kinds: list[_Kind]
    slots: list[Any]
    is_ordinary: bool
    """Whether they are no tensors, arrays, iterators or random generators."""


def _layout(value: Any) -> _Layout:
    """Of the class of an object."""
    kind = type(value)
    kinds = [how for base, how in _KINDS if issubclass(kind, base)]
    known = (Tensor, np.ndarray, bytearray, array.array, *(base for base, _ in _GENERATORS))
    is_ordinary = not (issubclass(kind, known) or is_iterator(value))
    return _Layout(kinds, [slot for _, slot in slots(kind)], is_ordinary)


def _places(value: Any, layout: _Layout) -> list[_Place]:
    """Where an object can be made to hold something else."""
    found = [_Place(value, how, how.read(value)) for how in layout.kinds]
    own = instance_dict(value)
    if own is not None:
        found.append(_Place(own, _DICT, _DICT.read(own)))
    for slot in layout.slots:
        place = (value, slot)
        found.append(_Place(place, _SLOT, _SLOT.read(place)))
    return found


class _Draws(NamedTuple):
    """How the state of a kind of random generator is taken and put back."""

    state: Callable[[Any], Any]
    put: Callable[[Any, Any], object]


def _draws_of(value: Any) -> _Draws | None:
    """None for what is no random generator, or one of the process, which is everybody's."""
    kind = type(value)
    if id(value) in _OF_THE_PROCESS or issubclass(kind, random.SystemRandom):
        return None
    return next((draws for base, draws in _GENERATORS if issubclass(kind, base)), None)


def _put_bits(generator: Any, state: Any) -> None:
    generator.state = state


_GENERATORS: tuple[tuple[type, _Draws], ...] = (
    (torch.Generator, _Draws(torch.Generator.get_state, torch.Generator.set_state)),
    (random.Random, _Draws(random.Random.getstate, random.Random.setstate)),
    (np.random.BitGenerator, _Draws(lambda g: g.state, _put_bits)),
    (
        np.random.Generator,
        _Draws(lambda g: g.bit_generator.state, lambda g, s: _put_bits(g.bit_generator, s)),
    ),
    (
        np.random.RandomState,
        _Draws(np.random.RandomState.get_state, np.random.RandomState.set_state),
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

"""All that some objects hold, kept so that it can be put back in place."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lensframe_pd.capture.containers import (
    Dictionaries,
    Draws,
    Place,
    draws_of,
    layout_of,
    places_in,
)
from lensframe_pd.capture.iterators import Uncopyable, copied, iterates, moved
from lensframe_pd.capture.memory import KeptTensor, KeptTogether, Memory, memory_of
from lensframe_pd.collector import collector_paused
from lensframe_pd.tape.contents import Child, is_closed
from lensframe_pd.tape.objects import joined, walk


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
        #: By id; of those that are kept together which of them.
        self._tensors: dict[int, KeptTensor | int] = {}
        self._together = KeptTogether()
        self._dicts = Dictionaries()
        self._places: list[Place] = []
        self._empty: list[Any] = []
        self._bare: list[Any] = []
        self._memories: list[Memory] = []
        self._draws: dict[int, tuple[Any, Draws, Any]] = {}
        self._iterators: dict[int, tuple[Any, Any]] = {}  # with a copy that is never moved
        with collector_paused(), torch.no_grad():
            self._keep_all(objects)
            self._together.copy()

    def _keep_all(self, objects: Iterable[Child]) -> None:
        iterators, places, dicts = {}, self._places, self._dicts
        for trail, key, value in walk(objects, bare=self._bare):
            kind = type(value)
            layout = layout_of(kind)
            if layout.is_ordinary:
                if not is_closed(value):
                    places += places_in(value, layout, dicts)
            elif issubclass(kind, Tensor):
                self._keep(value)
                places += places_in(value, layout, dicts)
            elif iterates(kind):
                iterators[id(value)] = value, joined(trail, key)
            elif (draws := draws_of(value)) is not None:
                self._draws[id(value)] = value, draws, draws.state(value)
            elif (memory := memory_of(value)) is not None:
                self._memories.append(memory)
            elif not is_closed(value):
                places += places_in(value, layout, dicts)
        self._keep_iterators(iterators)
        # a glance is enough for those
        self._empty += [place.owner for place in places if place.is_empty()]
        self._places = [place for place in places if not place.is_empty()]

    def unchanged(self, tensor: Tensor) -> bool:
        """Whether this tensor still holds what it held then."""
        kept = self._kept(id(tensor))
        return kept is not None and kept.unchanged()

    def unmoved(self, tensor: Tensor) -> bool:
        """Whether it is known to lie where it lay then, with each bit as it was."""
        kept = self._kept(id(tensor))
        return kept is not None and kept.unmoved()

    def _kept(self, key: int) -> KeptTensor | None:
        kept = self._tensors.get(key)
        return self._together[kept] if type(kept) is int else kept  # type: ignore[return-value]

    def holds(self, key: int) -> bool:
        """Whether a tensor with this id was there then; ids of those stay theirs."""
        return key in self._tensors

    def everything(self) -> Collection[int]:
        """The ids of all tensors."""
        return self._tensors.keys()

    def stands(self) -> bool:
        """Whether containers and objects hold what they held, and each tensor is `unmoved`.

        False as well where that is not known at a glance, as of iterators.
        """
        if self._iterators or any(self._empty) or any(self._bare):
            return False
        if any(self._attributes()):
            return False
        if not self._dicts.stand() or not all([place.stands() for place in self._places]):
            return False
        alone = [kept for kept in self._tensors.values() if type(kept) is KeptTensor]
        return all([kept.stands() for kept in alone]) and self._together.stand()

    def restore(self, unmoved: Collection[int] = (), stands: bool = False) -> None:
        """Put all back.

        Parameters
        ----------
        unmoved
            Ids of tensors that were just seen to be `unmoved`, with nothing run since: their memory
            is not gone through once more.
        stands
            Whether all was just seen to stand, with nothing run since.
        """
        for source, draws, state in self._draws.values():
            draws.put(source, state)
        for memory in self._memories:
            memory.restore()
        if stands or self.stands():
            return
        fresh = self._fresh()
        for container in (*self._empty, *self._bare):
            if container:
                container.clear()
        for given in self._attributes():
            given.clear()
        self._dicts.restore(fresh)
        for place in self._places:
            place.restore(fresh)
        those_stand = self._together.stand()
        for key, kept in self._tensors.items():
            if type(kept) is KeptTensor:
                kept.restore(key in unmoved)
            elif type(kept) is int and not those_stand:
                self._together[kept].restore(key in unmoved)

    def _attributes(self) -> list[Any]:
        """The attributes of what was bare, while it is empty: an OrderedDict may be given some.

        They are not asked for by name, which would make each its `__dict__`.
        """
        return gc.get_referents(*self._bare)

    def _keep(self, tensor: Tensor | None) -> None:
        while tensor is not None and id(tensor) not in self._tensors:
            place = self._together.take(tensor)
            if place is not None:
                self._tensors[id(tensor)] = place
            else:
                self._tensors[id(tensor)] = kept = KeptTensor(tensor)
                for part in kept.parts:
                    self._keep(part)
            tensor = tensor.grad if tensor.is_leaf else None

    def _keep_iterators(self, found: dict[int, tuple[Any, str]]) -> None:
        """Copy the iterators that stand where another can be put in their place."""
        if not found:
            return
        in_places = chain.from_iterable([place.content for place in self._places])
        replaceable = {*map(id, chain(self._dicts.values(), in_places))}
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

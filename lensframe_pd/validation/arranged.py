"""The stimuli among the arguments of a model, given in other orders and put back.

An order names for each place the stimulus that stands there: `[1, 0, 2]` exchanges two, `[1, 1, 2]`
replaces one by its neighbour. All that has an entry for each stimulus goes along.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lensframe_pd.tape.compare import same
from lensframe_pd.tape.contents import CODE, children
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.storage import placed

Order = Sequence[int]

_UNITS = 4
_NEARER = 0.37  # the part of the way between two stimuli, which no model is likely to go


class Blended(NamedTuple):
    """A place, and the stimulus with which the one that it is given is blended."""

    place: int
    other: int


class Unarrangeable(Exception):
    """The arguments cannot be given in this order; the text says why."""


class Arranged:
    """The arguments of a model that have an entry for each of n stimuli.

    Tensors keep being the objects they are and get other data; nothing else is copied.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], n: int) -> None:
        self.n = n
        self._entries = [_entry(value, n) for value in _with_entries([*args, *kwargs.values()], n)]

    def __len__(self) -> int:
        return len(self._entries)

    def give(
        self, order: Order, contents_only: bool = False, blended: Blended | None = None
    ) -> None:
        """Put the stimuli in this order.

        Parameters
        ----------
        contents_only
            Leave what says how long or whether, so that shapes stay: masks, and a number each.
        blended
            The place whose stimulus is blended with another: its numbers lie between theirs, so
            that the model takes them, and no stimulus has them.

        Raises
        ------
        Unarrangeable
            Some of them cannot be, or none can be blended.
        """
        for entry in self._entries:
            if not (contents_only and entry.is_switch):
                entry.give(order)
        if blended is not None and not any([entry.blend(*blended) for entry in self._entries]):
            raise Unarrangeable("nothing lies between two stimuli")

    def nudge(self, seed: int) -> None:
        """Move their numbers by a few units in the last place, which rounding might do as well."""
        for entry in self._entries:
            entry.nudge(seed)

    def restore(self) -> None:
        for entry in self._entries:
            entry.restore()


def _nudge(tensor: Tensor, seed: int) -> None:
    """Have other data, as what it has may be the caller's."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    drawn = torch.Generator().manual_seed(seed)
    units = torch.randint(-_UNITS, _UNITS + 1, tensor.shape, generator=drawn).to(tensor)
    with torch.inference_mode(tensor.is_inference()):
        moved = tensor.detach() * (1 + units * torch.finfo(tensor.dtype).eps)
        tensor.data = placed(moved, tensor.stride(), 0)


def _blend(given: Tensor, other: Tensor) -> bool:
    """Write between two stimuli over the one that is given; whether it is another than both."""
    if given.is_floating_point() or given.is_complex():
        between = given.lerp(other, _NEARER)
    else:  # of numbers without a sign, only the smaller can be taken from the larger
        low, high = given.minimum(other), given.maximum(other)
        between = low + (high - low) // 3
    if same(between, given) or same(between, other):
        return False
    with torch.inference_mode(given.is_inference()):
        given.copy_(between)
    return True


def _with_entries(values: list[Any], n: int) -> Iterator[Any]:
    """The tensors, arrays, lists and packed sequences of n, each once; not what is inside them."""
    seen: dict[int, Any] = {}
    waiting = values[::-1]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if id(value) in seen or issubclass(kind, (nn.Module, *CODE)):
            continue
        seen[id(value)] = value
        if issubclass(kind, (Tensor, np.ndarray, PackedSequence)) or kind is list:
            if _extent(value) == n:
                yield value
                continue
            if issubclass(kind, PackedSequence):
                continue
        waiting += [child for _, child in children(value)][::-1]


def _extent(value: Any) -> int:
    """How many entries there are; of a list of tensors those of the tensors, if they have them."""
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, list):
        inner = {_extent(v) if isinstance(v, Tensor) else -1 for v in value}
        return -1 if inner == {len(value)} else len(value)
    nested = isinstance(value, Tensor) and value.is_nested  # it has no one shape
    return int(value.shape[0]) if value.ndim and not nested else -1


def _entry(value: Any, n: int) -> _Tensor | _List | _Array | _Packed:
    if isinstance(value, Tensor):
        return _Tensor(value)
    if isinstance(value, np.ndarray):
        return _Array(value)
    return _Packed(value, n) if isinstance(value, PackedSequence) else _List(value)


class _Tensor:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.own = tensor.detach()

    @property
    def is_switch(self) -> bool:
        own = self.own
        if own.dim() == 1 or own.dtype is torch.bool:
            return True
        whole = not (own.is_floating_point() or own.is_complex())
        return whole and bool(((own == 0) | (own == 1)).all())

    def give(self, order: Order) -> None:
        self.take(self.own, order)

    def take(self, value: Tensor, order: Order | None = None) -> None:
        """Have a copy of this value instead, or of its entries in this order."""
        for tensor in (self.own, value):
            odd = type(tensor) is not Tensor or tensor.layout is not torch.strided
            if odd or tensor.is_quantized or tensor.is_meta:
                form = "quantized" if tensor.is_quantized else tensor.device.type
                kind = f"{form} {str(tensor.layout).removeprefix('torch.')}"
                raise Unarrangeable(
                    f"the data of a {type(tensor).__name__} ({kind}) cannot be exchanged"
                )
        with torch.inference_mode(self.own.is_inference()):
            picked = value
            if order is not None:
                picked = value.index_select(0, torch.tensor(order, device=value.device))
            laid_out = placed(picked, value.stride(), 0)
            # where entries share memory, they cannot in another order
            self._tensor.data = laid_out if same(laid_out, picked) else picked.clone()

    def blend(self, place: int, other: int) -> bool:
        """Blend the stimulus at a place with another, if they are contents."""
        if self.is_switch and not self.own.is_floating_point():
            return False
        return _blend(self._tensor.data[place], self.own[other])

    def blend_whole(self, other: _Tensor) -> bool:
        """The same where each tensor is one stimulus."""
        given = self._tensor.data
        return given.shape == other.own.shape and given.dim() > 0 and _blend(given, other.own)

    def nudge(self, seed: int) -> None:
        _nudge(self._tensor, seed)

    def restore(self) -> None:
        with torch.inference_mode(self.own.is_inference()):
            self._tensor.data = self.own


class _List:
    """Items with tensors take each other's data, as the same tensor twice would be one input."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._own = [*values]
        self._tensors = [[_Tensor(t) for t in tensors_of(value)] for value in values]

    @property
    def is_switch(self) -> bool:
        return all(isinstance(value, (bool, int, float, type(None))) for value in self._own)

    def give(self, order: Order) -> None:
        if not any(self._tensors):
            list.__setitem__(self._values, slice(None), [self._own[k] for k in order])
            return
        if len({*map(len, self._tensors)}) > 1:
            raise Unarrangeable("a list has items with different numbers of tensors")
        for i, k in enumerate(order):
            for here, there in zip(self._tensors[i], self._tensors[k], strict=True):
                here.take(there.own)

    def blend(self, place: int, other: int) -> bool:
        pairs = zip(self._tensors[place], self._tensors[other], strict=True)
        return any([here.blend_whole(there) for here, there in pairs])

    def nudge(self, seed: int) -> None:
        for tensor in itertools.chain(*self._tensors):
            tensor.nudge(seed)

    def restore(self) -> None:
        list.__setitem__(self._values, slice(None), self._own)
        for tensor in itertools.chain(*self._tensors):
            tensor.restore()


class _Array:
    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self._own = array.copy()

    @property
    def is_switch(self) -> bool:
        return self._own.ndim == 1 or self._own.dtype == np.bool_

    def give(self, order: Order) -> None:
        if not self._array.flags.writeable:
            raise Unarrangeable("one of them is a NumPy array that cannot be written")
        self._array[...] = self._own[list(order)]

    def blend(self, place: int, other: int) -> bool:
        kind = self._own.dtype.kind
        if kind not in "fciu" or (self.is_switch and kind != "f"):
            return False
        return _blend(
            torch.from_numpy(self._array[place, ...]), torch.from_numpy(self._own[other, ...])
        )

    def nudge(self, seed: int) -> None:
        if self._array.flags.writeable and self._own.dtype.kind in "fc":
            units = np.random.default_rng(seed).integers(-_UNITS, _UNITS + 1, self._own.shape)
            self._array[...] *= 1 + units * np.finfo(self._own.dtype).eps

    def restore(self) -> None:
        if self._array.flags.writeable:
            self._array[...] = self._own


class _Packed:
    """Sequences keep their lengths: a replaced one takes its neighbour's steps in a circle."""

    is_switch = False

    def __init__(self, packed: PackedSequence, n: int) -> None:
        self._packed = packed
        self._indices = (packed.sorted_indices, packed.unsorted_indices)
        self._own = [None if t is None else t.detach().clone() for t in self._indices]
        self._data = packed.data.detach()
        numbers = torch.arange(len(self._data), device=self._data.device)
        places, lengths = pad_packed_sequence(
            PackedSequence(numbers, packed.batch_sizes, *self._indices), batch_first=True
        )
        #: Of each sequence, in the caller's order, where in the data its steps are.
        self._steps = [places[i, : lengths[i]].tolist() for i in range(n)]

    def give(self, order: Order) -> None:
        unlike = len({*map(len, self._steps)}) > 1
        if sorted(order) == [*range(len(order))] and unlike:
            self._reorder(order)
            return
        source = [0] * len(self._data)
        for i, k in enumerate(order):
            for t, place in enumerate(self._steps[i]):
                source[place] = self._steps[k][t % len(self._steps[k])]
        self._packed.data.data = self._data[torch.tensor(source, device=self._data.device)]

    def _reorder(self, order: Order) -> None:
        """The data lie by length and stay; who is who is in the indices."""
        by_length, by_caller = self._indices
        if by_length is None or by_caller is None or self._own[1] is None:
            raise Unarrangeable("sequences of several lengths, which were packed as sorted")
        self._packed.data.data = self._data
        picked = self._own[1][torch.tensor(order, device=self._own[1].device)]
        by_caller.data = picked
        by_length.data = picked.argsort()

    def blend(self, place: int, other: int) -> bool:
        return False  # between sequences of several lengths there is none

    def nudge(self, seed: int) -> None:
        _nudge(self._packed.data, seed)

    def restore(self) -> None:
        self._packed.data.data = self._data
        for tensor, own in zip(self._indices, self._own, strict=True):
            if tensor is not None and own is not None:
                tensor.data = own

"""The data of tensors, of arrays and of bytes, kept so that it can be put back in place."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from lensframe_pd.tape.compare import BITS, parts_of, same, widest
from lensframe_pd.tape.regions import region_of
from lensframe_pd.tape.storage import SPARSE, is_wrapped, same_view, storage_of, view_of


class KeptTensor:
    """One tensor, with a copy of its data; the data of one made of others are those others'.

    Made where autograd follows nothing.
    """

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
        self.parts = parts_of(tensor)
        if not self.parts or tensor.layout in SPARSE:
            self.alias = tensor.detach()
            self.copy = self.alias.clone()
            if not self.parts:
                self._view = view_of(self.alias)
                self._storage, self._high = storage_of(self.alias), region_of(self.alias).high
                self._bits = _bits_of_both(self.alias, self.copy)

    def unchanged(self) -> bool:
        return self.copy is not None and same(self.tensor, self.copy)

    def unmoved(self) -> bool:
        mine, theirs = self._bits
        if self.alias is None or mine is None or theirs is None or not self._lies(self.alias):
            return False
        return torch.equal(mine, theirs)  # a version counter does not see every write

    def stands(self) -> bool:
        """Whether it is unmoved, and autograd treats it as it did."""
        tensor = self.tensor
        if not self.unmoved() or tensor.requires_grad != self.requires_grad:
            return False
        return not tensor.is_leaf or tensor.grad is self.grad

    def _lies(self, alias: Tensor) -> bool:
        """Whether its memory and its shape are those it had: not after `.data = ...`, `t_()`."""
        tensor = self.tensor
        if storage_of(tensor) != self._storage or view_of(tensor) != self._view:
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


class KeptTogether:
    """Small tensors as most are: kept like a `KeptTensor` each, with one copy of the data of all.

    A model has thousands. Of each there is the view of its memory as whole numbers, and how it lay;
    that is a third of the memory and of the time.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._mine: list[Tensor] = []
        #: Of each its storage, its view, where it ends in the storage, and its facts for autograd.
        self._lay: list[tuple[Any, ...]] = []
        self._copies: list[Tensor] = []

    def take(self, tensor: Tensor) -> int | None:
        """Keep it as the k-th, from before `copy`; None for one that is large, or another kind."""
        kind = type(tensor)
        if not (kind is Tensor or kind is Parameter) or is_wrapped(tensor) or tensor.is_nested:
            return None
        alias = tensor.detach()
        if not _is_seen(alias) or not 0 < alias.numel() <= _SMALL or not alias.data_ptr():
            return None
        mine = widest(alias)
        if mine is None:
            return None
        end = (alias.storage_offset() + alias.numel()) * alias.element_size()
        grad = tensor.grad if tensor.is_leaf else None
        self._tensors.append(tensor)
        self._mine.append(mine)
        self._lay.append((storage_of(alias), view_of(alias), end, tensor.requires_grad, grad))
        return len(self._mine) - 1

    def copy(self) -> None:
        """Copy the data of all."""
        self._copies = [torch.cat(some) for some in self._at_once()]

    def _at_once(self) -> Iterator[list[Tensor]]:
        """So many that a copy of them takes little memory."""
        for begin in range(0, len(self._mine), _MANY):
            yield self._mine[begin : begin + _MANY]

    def stand(self) -> bool:
        """Whether each `stands`."""
        for tensor, mine, lay in zip(self._tensors, self._mine, self._lay, strict=True):
            storage, view, end, requires_grad, grad = lay
            if storage_of(tensor) != storage or view_of(tensor) != view:
                return False
            if mine.untyped_storage().nbytes() < end or tensor.requires_grad != requires_grad:
                return False
            if tensor.is_leaf and tensor.grad is not grad:
                return False
        pairs = zip(self._at_once(), self._copies, strict=True)
        return all(torch.equal(torch.cat(some), copy) for some, copy in pairs)

    def __getitem__(self, k: int) -> KeptTensor:
        """The k-th as it would be kept alone."""
        begin = k // _MANY * _MANY
        start = sum([mine.numel() for mine in self._mine[begin:k]])
        mine = self._mine[k]
        theirs = self._copies[k // _MANY][start : start + mine.numel()]
        storage, view, end, requires_grad, grad = self._lay[k]
        _, shape, _, dtype, *_ = view
        alias, copy = (bits.view(dtype).view(shape) for bits in (mine, theirs))
        kept = KeptTensor.__new__(KeptTensor)
        kept.tensor, kept.alias, kept.copy, kept.parts = self._tensors[k], alias, copy, []
        kept.requires_grad, kept.grad = requires_grad, grad
        kept._view, kept._storage, kept._high, kept._bits = view, storage, end, (mine, theirs)
        return kept


_SMALL = 2**14  # elements
_MANY = 2**8  # tensors


def _bits_of_both(tensor: Tensor, copy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The memory of each as whole numbers, as few as both can be seen as.

    None where that cannot be seen as such at all times.
    """
    if not (_is_seen(tensor) and _is_seen(copy)):
        return None, None
    fewer = widest(tensor), widest(copy)
    if fewer[0] is not None and fewer[1] is not None:
        return fewer
    kind = BITS[tensor.element_size()]
    return tensor.view(kind), copy.view(kind)


def _is_seen(tensor: Tensor) -> bool:
    """Whether its numbers lie in memory as they are, and can be seen as whole ones."""
    if type(tensor) is not Tensor or not tensor.is_cpu or tensor.layout is not torch.strided:
        return False
    if not (tensor.is_floating_point() or tensor.dtype in _SEEN):
        return False
    return tensor.element_size() in BITS and not (tensor.is_neg() or tensor.is_conj())


_SEEN = frozenset(
    (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64)
)


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


class Memory(NamedTuple):
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


def memory_of(value: Any) -> Memory | None:
    """None for what is no array, or one that cannot be written."""
    kind = type(value)
    if issubclass(kind, np.ndarray):
        plain = np.ndarray.view(value, np.ndarray)  # what a subclass overrides is not asked
        if plain.dtype.hasobject or not plain.flags.writeable:
            return None
        return Memory(plain, plain.copy())
    if kind is bytearray or kind is array.array:
        return Memory(value, value[:])
    return None


def _bytes_of(values: np.ndarray[Any, Any]) -> bytes:
    """NaN and -0.0 are what they are, too."""
    return values.tobytes()

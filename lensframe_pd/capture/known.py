"""What a run knows of one tensor, by its `id`: an object that is there as long as the tensor is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self
from weakref import ref

from torch import Tensor

from lensframe_pd.tape.storage import Unswapped, content_of, is_plain


class Known(ref[Tensor]):
    """What is known of a tensor, and whether it lives: called, gives the tensor or None.

    One object for both, as one is made for each row.

    Attributes
    ----------
    source
        Its row, or `-1 - k` for the k-th held parameter or buffer.
    storage
        Address of its storage, 0 where it has none.
    content
        Address of the content of a plain tensor that is held here, by which it is known at once.
    """

    __slots__ = ("source", "storage")

    source: int
    storage: int
    content: ClassVar[int] = 0

    @classmethod
    def of(cls, tensor: Tensor, source: int, storage: int) -> Self:
        known = cls(tensor)
        known.source, known.storage = source, storage
        return known


class KnownHeld(Unswapped):
    """`Known` of a tensor that is held here."""

    __slots__ = ("content", "source", "storage")

    def __init__(self, tensor: Tensor, source: int, storage: int, plain: bool | None = None):
        self.tensor = tensor  # all at once: there is one of each parameter
        self._is_plain = is_plain(tensor) if plain is None else plain
        self._content = tensor._cdata if self._is_plain else content_of(tensor)
        self.source = source
        self.storage = storage
        self.content = self._content if plain else 0


class HeldIn:
    """Which of `Tape.held` lie in a storage: told once a write asks, as few runs write any."""

    def __init__(self) -> None:
        #: The address of the storage of each, 0 where it has none.
        self.storages: list[int] = []
        self._places: dict[int, list[int]] = {}
        self._n_placed = 0

    def places(self, storage: int) -> Sequence[int]:
        for k in range(self._n_placed, len(self.storages)):
            self._places.setdefault(self.storages[k], []).append(k)
        self._n_placed = len(self.storages)
        return self._places.get(storage, ())

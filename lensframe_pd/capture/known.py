"""What a run knows of one tensor, by its `id`: an object that is there as long as the tensor is."""

from __future__ import annotations

from typing import ClassVar, Self
from weakref import ref

from torch import Tensor

from lensframe_pd.tape.storage import Unswapped


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
        super().__init__(tensor, plain)
        self.source = source
        self.storage = storage
        self.content = self._content if plain else 0

"""The writes into one storage, and which of them a tensor that lies in it has yet to see."""

from __future__ import annotations

import sys
from math import gcd
from typing import NamedTuple

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lensframe_pd.tape.regions import Form, Region, covers, disjoint_copies, overlap, region_of
from lensframe_pd.tape.storage import unwrapped


class Write(NamedTuple):
    """One write into a storage: the row it gave, and where it wrote."""

    row: int
    region: Region


class Writes:
    """The writes into one storage.

    Parameters
    ----------
    tensor
        One that lies in it.
    """

    __slots__ = ("_pieces", "_storage", "high", "log", "low")

    def __init__(self, tensor: Tensor) -> None:
        # While this is held the storage's address is not given to another one.
        self._storage = StorageWeakRef(unwrapped(tensor).untyped_storage())
        self.log: list[Write] = []
        self.low, self.high = sys.maxsize, 0
        self._pieces: _Pieces | None = None

    def add(self, row: int, tensor: Tensor) -> None:
        """The call of `row` wrote `tensor`."""
        region = region_of(tensor)
        log = self.log
        if not log:
            self._pieces = _Pieces(row, region)
        elif self._pieces is not None and not self._pieces.add(row, region):
            self._pieces = None
        while log and _replaces(region, log[-1].region):
            log.pop()  # covered by this one, which has it among its ancestors
        log.append(Write(row, region))
        self.low, self.high = min(self.low, region.low), max(self.high, region.high)

    def since(self, row: int, tensor: Tensor) -> list[tuple[int, int]]:
        """Rows after `row` that wrote where `tensor` reads, the last one of each region.

        With each, the first byte it wrote.
        """
        if not self.log or self.log[-1].row <= row:
            return []
        region = region_of(tensor)
        if region.low >= self.high or self.low >= region.high:
            return []
        if self._pieces is not None and self._pieces.fits(region):
            last = self._pieces.last.get(region.low)
            return [(last, region.low)] if last is not None and last > row else []
        newer: dict[Region, int] = {}
        for write in reversed(self.log):
            if write.row <= row:
                break
            if write.region not in newer and overlap(write.region, region):
                newer[write.region] = write.row
        return [(last, written.low) for written, last in newer.items()][::-1]


class _Pieces:
    """Writes of one form that share no byte or all: a write of one piece concerns only that piece.

    So a thousand rows or columns written one by one cost a thousand look-ups, not a million.
    """

    __slots__ = ("_first", "_form", "_last", "_step", "last")

    def __init__(self, row: int, region: Region) -> None:
        self._form: Form = region.form
        self._first = self._last = region.low
        self._step = 0
        #: First byte of a piece to the row that wrote it last.
        self.last = {region.low: row}

    def add(self, row: int, region: Region) -> bool:
        """Note a write; False if it is no such piece."""
        if not self.fits(region):
            return False
        if region.low not in self.last:
            self._first, self._last, self._step = self._with(region.low)
        self.last[region.low] = row
        return True

    def fits(self, region: Region) -> bool:
        """Whether it is one of the pieces, or shares no byte with any."""
        if region.form != self._form:
            return False
        if region.low in self.last:
            return True
        first, last, step = self._with(region.low)
        return not step or disjoint_copies(self._form, step, (last - first) // step + 1)

    def _with(self, low: int) -> tuple[int, int, int]:
        """Bounds and distance of the pieces, another one among them."""
        step = gcd(self._step, abs(low - self._first))
        return min(self._first, low), max(self._last, low), step


def _replaces(region: Region, other: Region) -> bool:
    """Whether one region has all of the other, as far as that is told at once."""
    return region == other or (not region.form.steps and covers(region, other))

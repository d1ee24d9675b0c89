"""What repeats in a sequence: the same things in the same order, at once after one another."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 32  #: things that one repetition may have: it is looked at for each number up to this


class Period(NamedTuple):
    """Where it begins, how many things one repetition has, and how many there are."""

    start: int
    length: int
    times: int

    @property
    def end(self) -> int:
        return self.start + self.length * self.times


def periods(things: Sequence[Hashable]) -> Iterator[Period]:
    """What repeats, from the left: at each place what reaches farthest, the shortest of those.

    Examples
    --------
    >>> [tuple(period) for period in periods("xababac")]
    [(1, 2, 2)]
    """
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(thing, len(numbers)) for thing in things])
    reach = np.zeros(len(codes), "int64")  # how much what begins here takes, and its length
    best = np.ones(len(codes), "int64")
    for length in range(1, min(LONGEST, len(codes) // 2) + 1):
        taken = (_run_lengths(codes[:-length] == codes[length:]) // length + 1) * length
        better = (taken > reach[:-length]) & (taken > length)
        reach[:-length][better] = taken[better]
        best[:-length][better] = length
    start = 0
    while start < len(codes):
        if reach[start]:
            length = int(best[start])
            yield Period(start, length, int(reach[start]) // length)
        start += max(1, int(reach[start]))


def _run_lengths(
    holds: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """From each place on, in how many it holds without a break."""
    places = np.arange(len(holds))
    breaks = np.where(holds, len(holds), places)
    following: np.ndarray[tuple[int], np.dtype[np.int64]] = np.minimum.accumulate(breaks[::-1])
    return following[::-1] - places

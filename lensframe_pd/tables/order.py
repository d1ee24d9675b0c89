"""Which stimulus each entry of an axis comes from.

An axis that carries stimuli has a number for each of its entries; sent through the same
selection, repetition or reordering as the values, the numbers say at any later row whether its
entries still stand in the order of the stimuli.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.schema import STIMULUS

Numbers = np.ndarray[Any, np.dtype[np.int64]]

NONE = -1
"""The number of an entry, or of a tensor, that no stimulus went into."""
MIXED = -2
"""The number of an entry, or of a tensor, that several stimuli went into, or it is not known which.

A tensor that is mixed as a whole has no stimuli along any axis.
"""
ALL = -3
"""The number of a tensor that all stimuli went into alike: in another order they give the same."""
PLACED = -4
"""The number of a tensor whose entries along the axis of the stimuli were made with what stands at
their places there, and into which all stimuli may have gone, too.

Each entry is of its own stimulus still; but what is made of all of them depends on their order.
"""
OF_ALL = (ALL, PLACED)
"""The numbers of tensors that all stimuli may have gone into, and that still may have ids."""


class Order:
    """The numbers along an axis whose entries are not just the stimuli from first to last."""

    __slots__ = ("_hash", "numbers")

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self._hash = hash(numbers.tobytes())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Order):
            return NotImplemented
        return self is other or np.array_equal(self.numbers, other.numbers)

    def __repr__(self) -> str:
        return f"Order({self.numbers.tolist()})"


class Merged(NamedTuple):
    """An axis that a reshape made of several: it has no name, but can be split again."""

    parts: tuple[tuple[Any, int], ...]
    """Name and extent of each."""


Name = str | Order | Merged | None
"""What is known of an axis; `"stimulus"` stands for the stimuli from first to last."""
Names = tuple[Name, ...]


def carries(name: Name) -> bool:
    """Whether the entries of an axis come from stimuli that are known."""
    if name is None or type(name) is str:
        return name == STIMULUS
    if isinstance(name, Merged):
        return any([carries(part) for part, _ in name.parts])
    return True


def fits(name: Name, extent: int, n: int) -> bool:
    """Whether an axis of this extent can be that, with `n` stimuli: a part of it is it no more."""
    if name == STIMULUS:
        return extent == n
    if isinstance(name, Merged):
        return math.prod([n for _, n in name.parts]) == extent
    return not isinstance(name, Order) or len(name.numbers) == extent


def plain(name: Name) -> str | None:
    """The name of an axis, where it has one that says nothing of stimuli."""
    return name if type(name) is str and name != STIMULUS else None


def numbers(name: Name, extent: int) -> Numbers:
    """The number of each entry along an axis.

    Examples
    --------
    >>> numbers("stimulus", 3).tolist(), numbers("channel", 2).tolist()
    ([0, 1, 2], [-1, -1])
    >>> numbers(Merged((("stimulus", 2), ("head", 3))), 6).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    if isinstance(name, Order):
        return name.numbers
    if isinstance(name, Merged):
        shape = [n for _, n in name.parts]
        grid = np.full(shape, NONE)
        for k, (part, n) in enumerate(name.parts):
            along = numbers(part, n).reshape([n if j == k else 1 for j in range(len(shape))])
            grid = together(grid, np.broadcast_to(along, shape))
        return grid.reshape(-1)
    return np.arange(extent) if name == STIMULUS else np.full(extent, NONE)


def named(along: Numbers, n: int, otherwise: Name = None) -> Name:
    """What an axis is by the numbers along it, with `n` stimuli in all.

    Examples
    --------
    >>> named(np.array([0, 1, 2]), 3), named(np.array([2, 0]), 3), named(np.array([-1]), 3, "x")
    ('stimulus', Order([2, 0]), 'x')
    """
    if not len(along) or bool((along == NONE).all()):
        return plain(otherwise)
    if len(along) == n and bool((along == np.arange(n)).all()):
        return STIMULUS
    return Order(np.ascontiguousarray(along, dtype=np.int64))


def together(a: Numbers, b: Numbers) -> Numbers:
    """Numbers of entries that two entries each went into: none gives way, unlike are mixed.

    Examples
    --------
    >>> together(np.array([0, 1, -1]), np.array([0, 2, 2])).tolist()
    [0, -2, 2]
    """
    return np.where(a == NONE, b, np.where((b == NONE) | (a == b), a, MIXED))


def of_both(a: int, b: int) -> int:
    """The number of what two tensors went into."""
    if a == b or b == NONE:
        return a
    if a == NONE:
        return b
    if a in OF_ALL and b in OF_ALL:
        return PLACED
    if b in OF_ALL:
        return a
    return b if a in OF_ALL else MIXED


def of_all(numbers: Sequence[int]) -> int:
    """The number of what several entries or tensors went into."""
    found = NONE
    for number in numbers:
        found = of_both(found, number)
    return found


def of_axis(name: Name, extent: int, n: int) -> int:
    """The number of what all the entries along an axis went into, each in the same way.

    Examples
    --------
    >>> of_axis("stimulus", 3, 3), of_axis(Order(np.array([1, 1])), 2, 3), of_axis("channel", 4, 3)
    (-3, 1, -1)
    >>> of_axis(Order(np.array([1, 0, 1])), 3, 3)
    -2
    """
    if not carries(name):
        return NONE
    found, counts = np.unique(numbers(name, extent), return_counts=True)
    counts = counts[found != NONE]
    found = found[found != NONE]
    if len(found) < 2:
        return int(found[0]) if len(found) else NONE
    even = len(found) == n and found[0] >= 0 and bool((counts == counts[0]).all())
    return ALL if even else MIXED


def by_axis(grid: Numbers, n: int) -> list[Name] | None:
    """Each axis of a grid of numbers, where one axis alone decides them; None where none does.

    Examples
    --------
    >>> by_axis(np.array([[0, 0, 0], [1, 1, 1]]), 2)
    ['stimulus', None]
    >>> by_axis(np.array([[0, 1], [1, 0]]), 2)
    """
    names: list[Name] = [None] * grid.ndim
    if not grid.size or bool((grid == NONE).all()):
        return names
    for k in range(grid.ndim):
        along = grid[tuple([slice(None) if j == k else slice(0, 1) for j in range(grid.ndim)])]
        if bool((grid == along).all()):
            names[k] = named(along.reshape(-1), n)
            return names
    return None

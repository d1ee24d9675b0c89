"""Kendall's counts of items with weights: sorted once, whatever the weights.

Two items are discordant if they come in another order in one ranking than in the other. Laid out
in the order of the first and ranked by the second, they are the inversions of a permutation, the
same in every bootstrap sample: only the weights change. The permutation is parted by halves of the
ranks again and again, as in a wavelet matrix; what is summed at each parting is, for every item of
a lower half, the weight of the upper half before it. Boxes of few ranks are left to a product.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Places = NDArray[np.intp]
_BOX = 64
"""Ranks that are parted no further, at most."""
_PRODUCTS = 2**20
"""Elements of the matrices of boxes made at a time: 8 MB."""
_KEPT = 2**25
"""Places of partings kept for the next samples, of 12 bytes each; else they are made again."""


class Concordance(NamedTuple):
    """Numbers of pairs of items, one of each sample."""

    net: Counts
    """Concordant less discordant."""
    all: Counts
    """Ties too."""
    untied: tuple[Counts, Counts]
    """Those that differ in the first ranking, and in the second."""


class Rankings:
    """Two rankings of the same items.

    Parameters
    ----------
    first, second
        Of each item the place of its value among the different values, from 0.
    """

    def __init__(self, first: Places, second: Places) -> None:
        n = len(first)
        self._order = np.lexsort((second, first))
        a, b = first[self._order], second[self._order]
        new = np.ones(n, dtype=bool)
        new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        joint = np.empty(n, dtype=np.intp)
        joint[self._order] = np.cumsum(new) - 1
        self._groups = (first, second, joint)
        # What ties in the second is ranked as in the first, and so is no inversion.
        ranks = np.empty(n, dtype=np.intp)
        ranks[np.argsort(b, kind="stable")] = np.arange(n)
        self._levels = max(0, int(np.ceil(np.log2(n / _BOX))))
        self._box = -(-n // 2**self._levels)
        # Filled up to whole boxes: at the end, of the highest ranks, never with a weight.
        self._ranks = np.concatenate([ranks, np.arange(n, self._box << self._levels)])
        self._kept: dict[int, _Parting] = {}

    def concordance(self, weights: Counts) -> Concordance:
        """The counts if each item were there `weights[sample, item]` times."""
        n = weights.sum(axis=1)
        first, second, joint = (n**2 - _squares(group, weights) for group in self._groups)
        net = (first + second - joint) // 2 - 2 * self._discordant(weights)
        return Concordance(net, n * (n - 1) // 2, (first // 2, second // 2))

    def _discordant(self, weights: Counts) -> Counts:
        ranks = self._ranks
        held = np.zeros((len(weights), len(ranks)), dtype=np.int64)
        for own, given in zip(held, weights, strict=True):
            own[: len(given)] = given[self._order]
        found = np.zeros(len(weights), dtype=np.int64)
        for level in reversed(range(self._levels)):
            parting = self._parting(level, ranks)
            found += _across(parting, held)
            ranks = ranks[parting.to]
        return found + _within(ranks.reshape(-1, self._box), held)

    def _parting(self, level: int, ranks: Places) -> _Parting:
        if level in self._kept:
            return self._kept[level]
        found = _parted(ranks, self._box << level)
        if len(ranks) * self._levels <= _KEPT:
            self._kept[level] = found
        return found


class _Parting(NamedTuple):
    """How nodes, stretches of ranks in the order of the first ranking, are parted into halves."""

    to: Places
    """Old places in the new order: the lower halves of all nodes, then the upper."""
    before: Places
    """For each in a lower half, where the sum of what of the upper is before it stands."""
    size: int
    """Items of a half."""


def _parted(ranks: Places, size: int) -> _Parting:
    upper = (ranks // size) % 2 == 1
    lower = np.flatnonzero(~upper)
    nodes = len(lower) // size
    before = np.cumsum(upper.reshape(nodes, 2 * size), axis=1).reshape(-1)[lower]
    before += np.repeat(np.arange(nodes) * (size + 1), size)
    return _Parting(np.concatenate([lower, np.flatnonzero(upper)]), before, size)


def _across(parting: _Parting, held: Counts) -> Counts:
    """Inversions between the halves of each node; the weights held are parted in place."""
    half = len(parting.before)
    nodes = half // parting.size
    moved = np.empty(2 * half, dtype=np.int64)
    # Sums of each node begin with 0, as an item may have none before it.
    sums = np.zeros((nodes, parting.size + 1), dtype=np.int64)
    found = np.empty(len(held), dtype=np.int64)
    for k, own in enumerate(held):
        # Into a given array `take` copies twice unless it may clip; no place is outside.
        np.take(own, parting.to, out=moved, mode="clip")
        own[:] = moved
        np.cumsum(moved[half:].reshape(nodes, -1), axis=1, out=sums[:, 1:])
        found[k] = moved[:half] @ sums.reshape(-1).take(parting.before)
    return found


def _within(boxes: Places, held: Counts) -> Counts:
    """Inversions within boxes, by a product of each; floats, as those are quick, and exact here."""
    n, size = boxes.shape
    weights = held.reshape(len(held), n, size).transpose(1, 0, 2)
    found = np.zeros(len(held))
    step = max(1, _PRODUCTS // size**2)
    for k in range(0, n, step):
        ranks, own = boxes[k : k + step], weights[k : k + step].astype(np.float64)
        inverted = np.tril(ranks[:, :, None] < ranks[:, None, :]).astype(np.float64)
        found += np.einsum("bsi,bsi->s", own @ inverted, own)
    return found.astype(np.int64)


def _squares(groups: Places, weights: Counts) -> Counts:
    """Sums of the squared weights of what ties."""
    n = int(groups.max()) + 1
    if n == len(groups):
        return np.asarray(np.einsum("si,si->s", weights, weights))
    each = (np.bincount(groups, own, n).astype(np.int64) for own in weights)
    return np.array([own @ own for own in each], dtype=np.int64)

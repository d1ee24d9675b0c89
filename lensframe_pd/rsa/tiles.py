"""Centred kernel alignment of layers whose kernels have no room: summed tile by tile.

A tile is the part of a kernel between two blocks of stimuli. HSIC needs of two kernels the sum of
their products, and of each its row sums, so that no kernel is ever there as a whole. Of layers
with few features both come from the covariances of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensValueError
from lensframe_pd.quantities import quantity
from lensframe_pd.rsa.blockwise import Centre, centre_of, centre_within, products
from lensframe_pd.rsa.covariances import covariances, have_room
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.stores import RowBlocks

_FOR_TILES = 0.6
"""Part of the memory that two blocks of a layer and the tiles of all layers take."""
_MOST = 16
"""Tiles of a layer side by side, at most."""


def alignments(
    layers: Sequence[RowBlocks], pairs: Sequence[tuple[int, int]], debiased: bool
) -> tuple[list[float], list[float]]:
    """Linear CKA of pairs of layers, each given by its place; and of each its HSIC with itself.

    That is 0 of layers that do not vary, and not finite of those that hold NaN or infinity; their
    CKA is NaN.

    References
    ----------
    Song et al. (2012), JMLR 13:1393, eq. 5, for the unbiased HSIC.
    """
    itself = [(k, k) for k in range(len(layers))]
    sums = _Sums(layers, {*pairs, *itself}, debiased)
    with np.errstate(invalid="ignore", divide="ignore"):
        if have_room(layers, sums.of_products, layers[0].memory):
            sums.add_features()
        else:
            sums.add_tiles()
    own = [sums.hsic(*pair) for pair in itself]
    there = [0 < norm < math.inf for norm in own]
    found = [
        sums.hsic(a, b) / math.sqrt(own[a]) / math.sqrt(own[b])
        if there[a] and there[b]
        else math.nan
        for a, b in pairs
    ]
    return found, own


class _Sums:
    """What HSIC is made of, for some pairs of layers."""

    def __init__(
        self, layers: Sequence[RowBlocks], pairs: set[tuple[int, int]], debiased: bool
    ) -> None:
        self.layers, self.debiased = layers, debiased
        self.n = layers[0].shape[0]
        self.of_products = dict.fromkeys(pairs, 0.0)
        self.of_rows = [np.zeros(self.n) for _ in layers]

    def hsic(self, a: int, b: int) -> float:
        """That of two kernels, but for a factor that is the same for all."""
        n, of_products = self.n, self.of_products[a, b]
        first, second = self.of_rows[a], self.of_rows[b]
        totals = first.sum() * second.sum()
        if self.debiased:
            return float(
                of_products + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * (first @ second)
            )
        return float(of_products + totals / n**2 - 2 / n * (first @ second))

    def add_features(self) -> None:
        """Add all at once, from products of the features about their mean.

        Rows of such a kernel sum to 0. Without its diagonal they sum to less by that: then layers
        are read for their mean first.
        """
        centres = [centre_of(layer) for layer in self.layers] if self.debiased else None
        found = covariances(self.layers, centres, self.of_products)
        self.of_products = found.products
        if self.debiased:
            lengths = found.lengths
            self.of_rows = [-of_rows for of_rows in lengths]
            for a, b in self.of_products:
                self.of_products[a, b] -= float(lengths[a] @ lengths[b])

    def add_tiles(self) -> None:
        """Add every tile on and below the diagonal, those below for both sides."""
        spans, beside = _work(self.layers)
        centres: list[Centre | None] = [None] * len(self.layers)
        for i, own in enumerate(counted(spans, "cka", "rows of blocks")):
            for start in range(0, i + 1, beside):
                others = spans[start : min(start + beside, i + 1)]
                self._add_beside(centres, own, others)

    def _add_beside(
        self, centres: list[Centre | None], own: slice, others: Sequence[slice]
    ) -> None:
        """Add some tiles of all layers, which are gone when this is done."""
        tiles = [self._tiles(k, centres, own, others) for k in range(len(self.layers))]
        for k, other in enumerate(others):
            self._add([of_layer[k] for of_layer in tiles], own, other)

    def _tiles(
        self, k: int, centres: list[Centre | None], own: slice, others: Sequence[slice]
    ) -> list[Array]:
        layer, found = self.layers[k], list[Array]()
        rows = layer.read(own)
        centre = centres[k] = centres[k] or centre_within(rows)  # that of the first block, for all
        for other in others:
            of_other = rows if other == own else layer.read(other)
            tile = np.empty((len(rows), len(of_other)))
            products(rows, of_other, centre.taken_off, layer.memory, tile)
            if other == own and self.debiased:
                np.fill_diagonal(tile, 0)
            found.append(tile)
            del of_other  # before the next is read
        return found

    def _add(self, tiles: list[Array], own: slice, other: slice) -> None:
        below = own != other
        for a, b in self.of_products:
            self.of_products[a, b] += (1 + below) * float(np.vdot(tiles[a], tiles[b]))
        for of_rows, tile in zip(self.of_rows, tiles, strict=True):
            of_rows[own] += tile.sum(axis=1)
            if below:
                of_rows[other] += tile.sum(axis=0)


def _work(layers: Sequence[RowBlocks]) -> tuple[list[slice], int]:
    """Blocks of stimuli, and how many tiles side by side, such that least is read.

    More tiles side by side leave less room for a block, and let one be read for all of them.
    """
    widest = max(layers, key=lambda layer: layer.shape[1] * layer.dtype.itemsize)
    n, one = widest.shape[0], widest.shape[1] * widest.dtype.itemsize
    room = _FOR_TILES * widest.memory
    found: list[tuple[float, int, int]] = []
    for beside in range(1, _MOST + 1):
        of_tiles = 8 * len(layers) * beside
        most = int((math.sqrt(one**2 + of_tiles * room) - one) / of_tiles)
        if most:
            found.append((_reads(-(-n // most), beside), beside, most))
    if not found:
        raise LensValueError(
            f"two stimuli of {widest.of} take {quantity(2 * one, 'B')}; give more memory=, such "
            f"as {math.ceil((4 * one + 16 * len(layers)) / _FOR_TILES)}, or pool="
        )
    _, beside, most = min(found)
    return widest.cut(most), beside


def _reads(blocks: int, beside: int) -> float:
    """How often a layer is read."""
    made = sum(-(-(i + 1) // beside) + i for i in range(blocks))
    return made / blocks

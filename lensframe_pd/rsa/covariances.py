"""Products of linear kernels from the covariances of features, where these are few.

The sum of all products of two kernels, stimulus x stimulus, is the squared norm of the products of
their features, feature x feature. So layers of few features, as pooled ones are, need no kernels,
however many the stimuli, and are read once for it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from lensframe_pd.bars import counted
from lensframe_pd.rsa.blockwise import Centre, centre_within
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.stores import RowBlocks

_FOR_COVARIANCES = 0.4
"""Part of the memory that the products of features take, of all pairs of layers."""
_FOR_ROWS = 0.25
"""Part of it that the rows take that are worked on, of all layers, as float64."""
_FEW = 2**20
"""Elements that are worked on at a time."""
Pair = tuple[int, int]


class Covariances(NamedTuple):
    """What the kernels of some layers make of one another."""

    products: dict[Pair, float]
    """The sum of the products of two kernels."""
    lengths: list[Array]
    """The diagonals of the kernels: the squared lengths of the rows."""


def have_room(layers: Sequence[RowBlocks], pairs: Collection[Pair], memory: int) -> bool:
    """Whether the products of the features of all pairs can be there at once."""
    widths = [layer.shape[1] for layer in layers]
    products = sum(widths[a] * widths[b] for a, b in _unordered(pairs))
    return 8 * products <= _FOR_COVARIANCES * memory and 8 * sum(widths) <= _FOR_ROWS * memory


def covariances(
    layers: Sequence[RowBlocks], centres: Sequence[Centre] | None, pairs: Collection[Pair]
) -> Covariances:
    """Of layers about their means, which are read side by side, once.

    Parameters
    ----------
    layers
        The layers, of the same stimuli.
    centres
        Their means. None: products are those about the means, and lengths about those of the
        first rows.
    pairs
        Places of layers.
    """
    widths = [layer.shape[1] for layer in layers]
    sums = {(a, b): np.zeros((widths[a], widths[b])) for a, b in _unordered(pairs)}
    lengths = [np.zeros(layers[0].shape[0]) for _ in layers]
    widest = max(layers, key=lambda layer: layer.shape[1])
    most = int(_FOR_ROWS * widest.memory / 8 / max(1, sum(widths)))
    totals = [np.zeros(width) for width in widths]
    for rows in counted([*widest.cut(max(1, most))], "cka", "blocks"):
        read = [layer.read(rows) for layer in layers]
        centres = [centre_within(values) for values in read] if centres is None else centres
        blocks = [c.taken_off(values, slice(None)) for c, values in zip(centres, read, strict=True)]
        del read
        _add_rows(rows, blocks, sums, lengths)
        for total, block in zip(totals, blocks, strict=True):
            total += block.sum(axis=0)
    for (a, b), products in sums.items():
        # nothing but rounding where the centres are the means
        _take_off(products, totals[a], totals[b] / layers[0].shape[0])
    squared = {pair: float(np.vdot(products, products)) for pair, products in sums.items()}
    return Covariances({(a, b): squared[min(a, b), max(a, b)] for a, b in pairs}, lengths)


def _add_rows(
    rows: slice, blocks: Sequence[Array], sums: dict[Pair, Array], lengths: list[Array]
) -> None:
    for (a, b), products in sums.items():
        # some columns at a time, as the product of all would be there twice
        step = max(1, blocks[a].size // max(1, products.shape[1]))
        for k in range(0, len(products), step):
            products[k : k + step] += blocks[a][:, k : k + step].T @ blocks[b]
    for of_rows, block in zip(lengths, blocks, strict=True):
        of_rows[rows] = np.einsum("ij,ij->i", block, block)


def _take_off(products: Array, first: Array, second: Array) -> None:
    """Take off the products of two vectors, a few rows at a time."""
    step = max(1, _FEW // max(1, products.shape[1]))
    for k in range(0, len(products), step):
        products[k : k + step] -= np.outer(first[k : k + step], second)


def _unordered(pairs: Collection[Pair]) -> set[Pair]:
    return {(min(pair), max(pair)) for pair in pairs}

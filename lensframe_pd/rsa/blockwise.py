"""Dissimilarities and products of rows of which only two blocks are held at a time.

What `distances` says of precision holds here too: patterns are shifted before they are multiplied,
each pair of blocks by its own mean, and pairs that are close are computed from their differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.errors import LensValueError
from lensframe_pd.rsa.distances import (
    CLOSE,
    PRODUCT_METRICS,
    Array,
    Dissimilarities,
    Shape,
    Summary,
    blank,
    dissimilarities,
    inner_products,
    mirror,
    of_scipy,
    shaping,
    summary,
    unscale,
)
from lensframe_pd.rsa.stores import Block, RowBlocks

_OF_ALL = frozenset(("seuclidean", "se", "s"))
"""What scipy scales by the variance over all rows, as scipy lets it be written."""
_FOR_COLUMNS = 1 / 16
"""Part of the memory that a chunk of columns takes, as float64, of one of two blocks."""
_FEW = 2**20
"""Elements that are looked at at a time."""
_FOR_PRODUCTS = 1 / 32
"""Part of the memory that the product of some rows with a block takes."""
Prepared = Callable[[Any, slice], Array]
"""What makes some columns of a block ready to be multiplied, as float64 of their own."""


def rdm_of(rows: Any, metric: str, out: Array | None = None) -> Dissimilarities:
    """`dissimilarities` of a matrix in memory, or of one in a store.

    Raises
    ------
    LensValueError
        Of one in a store: the metric needs all rows at once.
    """
    if not isinstance(rows, RowBlocks):
        return dissimilarities(rows, metric, out)
    n = rows.shape[0]
    found = Dissimilarities(
        np.empty((n, n)) if out is None else out, np.zeros(n, bool), np.zeros(n, bool)
    )
    if metric in PRODUCT_METRICS:
        _by_products(rows, metric, found)
    else:
        _by_scipy(rows, metric, found)
    blank(found.values, found.constant | found.broken)
    return found


def products_of(rows: Any, centre: Centre | None = None) -> Array:
    """`inner_products` of a matrix in memory, or of one in a store.

    Parameters
    ----------
    centre
        Of one in a store, what to take its rows about. None for the mean of its first block, by
        which the products are those about the mean of all but for what centring them takes off.
    """
    if not isinstance(rows, RowBlocks):
        return inner_products(rows)
    n = rows.shape[0]
    out = np.empty((n, n))

    def use(x: Block[Any], y: Block[Any]) -> None:
        nonlocal centre
        centre = centre_within(x.made) if centre is None else centre
        products(x.made, y.made, centre.taken_off, rows.memory, out[x.rows, y.rows])
        mirrored(out, x, y)

    rows.each_pair(rows.spans(), rows.read, use)
    return out


class Centre(NamedTuple):
    """The mean row, and which columns hold one value only: their mean may round."""

    mean: Array
    same: NDArray[np.bool_]

    def taken_off(self, values: Any, columns: slice) -> Array:
        """Some columns about their mean, as float64 of their own."""
        found = np.array(values[:, columns], dtype=np.float64)
        found -= self.mean[columns]
        found[:, self.same[columns]] = 0
        return found


def centre_of(rows: RowBlocks) -> Centre:
    """The mean of all rows, which are read once for it."""
    n, p = rows.shape
    total, same, first = np.zeros(p), np.ones(p, bool), None
    for _, values in rows.blocks():
        first = values[:1].copy() if first is None else first
        total += values.sum(axis=0, dtype=np.float64)
        same &= (values == first).all(axis=0)
    return Centre(total / max(n, 1), same)


def centre_within(values: Any) -> Centre:
    """The mean of some rows, which is near that of all.

    As exact as that of all for what is centred later: by how far it lies from it, patterns vary.
    Columns of one value are taken off by that value, to nothing.
    """
    p = values.shape[1]
    mean, step = np.empty(p), max(1, _FEW // max(1, len(values)))
    for start in range(0, p, step):
        columns = slice(start, min(p, start + step))
        part = values[:, columns]
        same = (part == part[:1]).all(axis=0)
        mean[columns] = np.where(same, part[0], part.mean(axis=0, dtype=np.float64))
    return Centre(mean, np.zeros(p, np.bool_))


def products(x: Any, y: Any, prepared: Prepared, memory: int, out: Array) -> None:
    """Products of each row of one block with each of the other, when their columns are prepared.

    Of a block with itself those below the diagonal are made, and mirrored.
    """
    out[:] = 0
    for columns in _columns(x, y, memory):
        first = prepared(x, columns)
        second = first if x is y else prepared(y, columns)
        _add_product(out, first, second, memory)
    if x is y:
        mirror(out)


class _Side(NamedTuple):
    """A block of patterns, and what makes them comparable."""

    values: NDArray[Any]
    summary: Summary
    shape: Shape


def _by_products(rows: RowBlocks, metric: str, found: Dissimilarities) -> None:
    ranked = metric == "spearman"
    of = "correlation" if ranked else metric
    elements = int(rows.memory * _FOR_COLUMNS / 8)

    def make(part: slice) -> _Side:
        values = rows.read(part, _ranks if ranked else np.asarray)
        summed = summary(values, elements)
        shape, found.constant[part] = shaping(values, summed, of, elements)
        found.broken[part] = summed.broken
        return _Side(values, summed, shape)

    def use(x: Block[_Side], y: Block[_Side]) -> None:
        tile, first, second = found.values[x.rows, y.rows], x.made, y.made
        scale = max(first.summary.scale, second.summary.scale)
        if of in ("euclidean", "sqeuclidean"):
            first = first._replace(shape=_over(first.summary, scale))
            second = first if x is y else second._replace(shape=_over(second.summary, scale))
        _squared_distances(first, second, rows.memory, tile)
        unscale(tile, of, scale)
        mirrored(found.values, x, y)

    rows.each_pair(rows.spans(8 if ranked else None), make, use)


def _ranks(values: Any) -> Array:
    """The ranks of each row, one after the other: ranking takes many times what it is given."""
    from scipy.stats import rankdata

    found = np.empty(values.shape)
    for row, out in zip(np.asarray(values), found, strict=True):
        out[:] = rankdata(row, nan_policy="propagate")
    return found


def _over(of: Summary, scale: float) -> Shape:
    """Euclidean distances of two blocks need one scale."""
    return Shape(np.zeros(len(of.low)), np.full(len(of.low), scale), of.broken)


def _squared_distances(x: _Side, y: _Side, memory: int, out: Array) -> None:
    """As `distances.squared_distances`, between the rows of two blocks, or of one and itself."""
    out[:] = 0
    squared = [np.zeros(len(side.values)) for side in (x, y)]
    for columns in _columns(x.values, y.values, memory):
        first = _shaped(x, columns)
        second = first if x is y else _shaped(y, columns)
        _centre_both(first, second)
        _add_product(out, first, second, memory)
        squared[0] += np.einsum("ij,ij->i", first, first)
        squared[1] += np.einsum("ij,ij->i", second, second)
    for part in _parts(out, memory):
        tile = out[part, : part.stop] if x is y else out[part]
        of_rows, of_columns = squared[0][part, None], squared[1][: tile.shape[1]]
        tile *= -2
        tile += of_rows
        tile += of_columns
        close = tile < CLOSE * (of_rows + of_columns)
        if x is y:  # below the diagonal, as every row is close to itself
            close = np.tril(close, part.start - 1)
        first_of, second_of = close.nonzero()
        tile[first_of, second_of] = _by_difference(x, y, first_of + part.start, second_of, memory)
        np.maximum(tile, 0, out=tile)
    if x is y:
        np.fill_diagonal(out, 0)
        mirror(out)


def _by_difference(x: _Side, y: _Side, first: Any, second: Any, memory: int) -> Array:
    total = np.zeros(len(first))
    if not len(first):
        return total
    for columns in _columns(x.values, y.values, memory):
        of_x, of_y = _shaped(x, columns), _shaped(y, columns)
        step = max(1, int(memory * _FOR_COLUMNS / 8) // max(1, of_x.shape[1]))
        for k in range(0, len(first), step):
            difference = of_x[first[k : k + step]]
            difference -= of_y[second[k : k + step]]
            total[k : k + step] += np.einsum("ij,ij->i", difference, difference)
    return total


def _shaped(side: _Side, columns: slice) -> Array:
    found = np.array(side.values[:, columns], dtype=np.float64)
    side.shape(found)
    return found


def _centre_both(first: Array, second: Array) -> None:
    """Take one row off both, which changes no difference: their mean."""
    same = (first == first[:1]).all(axis=0) & (second == first[:1]).all(axis=0)
    mean = (first.sum(axis=0) + second.sum(axis=0)) / (len(first) + len(second))
    for block in (first,) if first is second else (first, second):
        block -= mean
        block[:, same] = 0


def _add_product(out: Array, first: Array, second: Array, memory: int) -> None:
    """Add `first @ second.T`; of a block with itself, what is on and below the diagonal."""
    for part in _parts(out, memory):
        if first is second:
            out[part, : part.stop] += first[part] @ first[: part.stop].T
        else:
            out[part] += first[part] @ second.T


def _columns(x: Any, y: Any, memory: int) -> Iterator[slice]:
    """Chunks of columns, as many as have room as float64 of two blocks."""
    n, p = max(len(x), len(y)), x.shape[1]
    step = max(1, int(memory * _FOR_COLUMNS / 8) // max(1, n))
    for start in range(0, p, step):
        yield slice(start, min(p, start + step))


def _parts(out: Array, memory: int) -> Iterator[slice]:
    """Some rows of a tile at a time."""
    step = max(1, int(memory * _FOR_PRODUCTS / 8) // max(1, out.shape[1]))
    for start in range(0, len(out), step):
        yield slice(start, min(len(out), start + step))


def mirrored(out: Array, x: Block[Any], y: Block[Any]) -> None:
    """The tile of two blocks on the other side of the diagonal too."""
    if x.rows != y.rows:
        out[y.rows, x.rows] = out[x.rows, y.rows].T


def _by_scipy(rows: RowBlocks, metric: Any, found: Dissimilarities) -> None:
    from scipy.spatial.distance import cdist

    if isinstance(metric, str) and metric.lower() in _OF_ALL:
        raise LensValueError(
            f"metric={metric!r} is scaled by the variance over all stimuli, and {rows.of} is read "
            "by blocks of them; scale the features and use 'euclidean', or load the layer first: "
            "activations.load()"
        )

    def make(part: slice) -> Array:
        values = np.asarray(rows.read(part, lambda read: np.asarray(read, dtype=np.float64)))
        found.broken[part] = ~np.isfinite(values).all(axis=1)
        return values

    def use(x: Block[Array], y: Block[Array]) -> None:
        tile = found.values[x.rows, y.rows]
        for part in _parts(tile, rows.memory):
            tile[part] = cdist(x.made[part], y.made, metric)
        if x.rows == y.rows:
            mirror(tile)
        mirrored(found.values, x, y)

    with of_scipy(metric):
        cdist(np.ones((1, 1)), np.ones((1, 1)), metric)  # before the store is read
        rows.each_pair(rows.spans(8), make, use)
    np.fill_diagonal(found.values, 0)

"""Dissimilarities between the rows of a matrix: in float64, by chunks of columns.

`correlation`, `cosine` and `euclidean` need one matrix product. The textbook form
`|a|^2 + |b|^2 - 2ab` loses near-duplicates to cancellation. Here the mean pattern is taken off
first, which changes no difference between patterns, and pairs that are still close compared to
their lengths are recomputed from their differences. Correlation and cosine distances are half the
squared Euclidean distance of the patterns scaled to length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.errors import LensTypeError, LensValueError

Array = NDArray[np.float64]
PRODUCT_METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "spearman")
_MAHALANOBIS = frozenset(("mahalanobis", "mahal", "mahi", "mah"))
"""How scipy lets it be written."""
_CHUNK = 2**23
"""Elements of a chunk of columns: 64 MB of float64."""
_FEWEST = 2048
"""Columns of a chunk at least: less would read a mapped file in too small pieces."""
_BLOCK = 1024
"""Rows of the result computed at a time."""
CLOSE = 1e-5
"""A squared distance below this part of the squared lengths has lost digits to cancellation."""


class Dissimilarities(NamedTuple):
    """A square, symmetric matrix, and which rows have none."""

    values: Array
    constant: NDArray[np.bool_]
    """Patterns without variance (cosine: without length): NaN for these metrics."""
    broken: NDArray[np.bool_]
    """Patterns that hold NaN or infinity."""


def dissimilarities(
    patterns: Any, metric: str = "correlation", out: Array | None = None
) -> Dissimilarities:
    """Dissimilarity of each row of `patterns` with each other.

    Parameters
    ----------
    patterns
        n x p, real, any dtype; a NumPy array, one mapped from a file, or a dask array. Columns are
        taken to float64 in chunks of 64 MB.
    metric
        `correlation` (1 - Pearson's r), `spearman` (1 - rank correlation), `cosine`, `euclidean`,
        `sqeuclidean`, or any other that `scipy.spatial.distance.pdist` knows but `mahalanobis`,
        which takes one float64 copy of the patterns.
    out
        n x n float64 to write to.

    Returns
    -------
    Dissimilarities
        The diagonal is exactly 0, except for patterns that are constant or broken: NaN.

    Raises
    ------
    LensValueError
        Nobody knows the metric, or it is `mahalanobis`.

    Examples
    --------
    >>> dissimilarities(np.array([[0.0, 0], [3, 4]]), "euclidean").values
    array([[0., 5.],
           [5., 0.]])
    """
    if metric not in PRODUCT_METRICS:
        return _by_scipy(patterns, metric, out)
    if metric == "spearman":
        from scipy.stats import rankdata

        ranks = rankdata(np.asarray(patterns), axis=1, nan_policy="propagate")
        return dissimilarities(ranks, "correlation", out)
    rows = summary(patterns)
    shape, constant = shaping(patterns, rows, metric)
    values = np.empty((len(constant),) * 2) if out is None else out
    squared_distances(patterns, shape, values)
    unscale(values, metric, rows.scale)
    blank(values, constant | rows.broken)
    return Dissimilarities(values, constant, rows.broken)


def inner_products(patterns: Any) -> Array:
    """n x n products of the rows of `patterns`, the mean row taken off first: a centred Gram."""
    product = np.zeros((patterns.shape[0],) * 2)
    for columns in _columns(patterns):
        _centre(columns)
        _add_product(product, columns)
    mirror(product)
    return product


def squared_distances(patterns: Any, shape: Callable[[Array], None], out: Array) -> None:
    """Squared Euclidean distances of rows, after `shape` has changed each chunk in place."""
    out[:] = 0
    if not len(out):
        return
    for columns in _columns(patterns):
        shape(columns)
        _centre(columns)
        _add_product(out, columns)
    squared = out.diagonal().copy()
    firsts, seconds = [], []
    for i in range(0, len(out), _BLOCK):
        block, of_rows = out[i : i + _BLOCK, : i + _BLOCK], squared[i : i + _BLOCK, None]
        block *= -2
        block += of_rows
        block += squared[: i + _BLOCK]
        close = np.tril(block < CLOSE * (of_rows + squared[: i + _BLOCK]), i - 1)
        first, second = close.nonzero()
        firsts.append(first + i)
        seconds.append(second)
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    out[first, second] = _by_difference(patterns, shape, first, second)
    np.fill_diagonal(out, 0)
    np.maximum(out, 0, out=out)
    mirror(out)


def _by_difference(patterns: Any, shape: Callable[[Array], None], first: Any, second: Any) -> Array:
    total = np.zeros(len(first))
    if not len(first):
        return total
    for columns in _columns(patterns):
        shape(columns)
        step = max(1, _CHUNK // columns.shape[1])
        for k in range(0, len(first), step):
            difference = columns[first[k : k + step]]
            difference -= columns[second[k : k + step]]
            total[k : k + step] += np.einsum("ij,ij->i", difference, difference)
    return total


def _columns(patterns: Any, elements: int | None = None) -> Iterator[Array]:
    """Chunks of columns, as float64 of their own; of at most so many elements, if that is given."""
    n, p = patterns.shape
    step = max(_FEWEST, _CHUNK // max(n, 1)) if elements is None else max(1, elements // max(n, 1))
    for start in range(0, p, step):
        yield np.array(patterns[:, start : start + step], dtype=np.float64)


def _centre(columns: Array) -> None:
    """Take the mean row off; where all rows are equal, leave 0, as their mean may round."""
    same = (columns == columns[:1]).all(axis=0)
    columns -= columns.mean(axis=0)
    columns[:, same] = 0


def _add_product(out: Array, columns: Array) -> None:
    """Add `columns @ columns.T` to the lower triangle, block by block."""
    n = len(out)
    if n <= 2 * _BLOCK:
        out += columns @ columns.T
        return
    for i in range(0, n, _BLOCK):
        out[i : i + _BLOCK, : i + _BLOCK] += columns[i : i + _BLOCK] @ columns[: i + _BLOCK].T


def mirror(out: Array) -> None:
    """The lower triangle in the upper one too, in place."""
    for i in range(0, len(out), _BLOCK):
        rows = slice(i, i + _BLOCK)
        square = out[rows, rows]
        square[:] = np.tril(square) + np.tril(square, -1).T
        out[:i, rows] = out[rows, :i].T


class Summary(NamedTuple):
    """Of each row its extremes, its mean and whether it is broken; and the largest value."""

    low: Array
    high: Array
    mean: Array
    broken: NDArray[np.bool_]
    scale: float


def summary(patterns: Any, elements: int | None = None) -> Summary:
    """What is to be known of the rows before they can be compared, by chunks of columns."""
    n, p = patterns.shape
    low, high, total = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n)
    for columns in _columns(patterns, elements):
        np.minimum(low, columns.min(axis=1), out=low)
        np.maximum(high, columns.max(axis=1), out=high)
        total += columns.sum(axis=1)
    if not p:
        low, high = np.zeros(n), np.zeros(n)
    broken = ~(np.isfinite(low) & np.isfinite(high))
    scale = float(np.max(np.maximum(abs(low), abs(high)), where=~broken, initial=0))
    with np.errstate(invalid="ignore"):
        mean = total / max(p, 1)
    return Summary(low, high, mean, broken, scale or 1.0)


@dataclass(frozen=True)
class Shape:
    """What makes patterns comparable by their Euclidean distance; called, in place, on columns."""

    offset: Array
    divisor: Array
    skip: NDArray[np.bool_]
    """Rows that have no dissimilarity."""

    def __call__(self, columns: Array) -> None:
        columns[self.skip] = 0
        columns -= self.offset[:, None]
        columns /= self.divisor[:, None]


def shaping(
    patterns: Any, rows: Summary, metric: str, elements: int | None = None
) -> tuple[Shape, NDArray[np.bool_]]:
    """What makes a chunk of patterns comparable by its Euclidean distance, and who has none."""
    none = np.zeros(len(rows.low), bool)
    if metric in ("euclidean", "sqeuclidean"):
        offset, constant = np.zeros(len(none)), none
        divisor = np.full(len(none), rows.scale)
    else:
        centred = metric == "correlation"
        offset = np.clip(rows.mean, rows.low, rows.high) if centred else np.zeros(len(none))
        with np.errstate(invalid="ignore"):
            largest = np.maximum(abs(rows.low - offset), abs(rows.high - offset))
        constant = (rows.low >= rows.high) if centred else (largest == 0)
        constant = (constant | ~(largest > 0)) & ~rows.broken
        divisor = np.where(constant | rows.broken, 1.0, largest)
    skip = constant | rows.broken
    shape = Shape(np.where(skip, 0.0, offset), divisor, skip)
    if metric in ("correlation", "cosine"):
        squared = np.zeros(len(none))
        for columns in _columns(patterns, elements):
            shape(columns)
            squared += np.einsum("ij,ij->i", columns, columns)
        lengths = np.where(skip, 1.0, divisor * np.sqrt(squared))
        shape = Shape(np.where(skip, 0.0, offset), lengths, skip)
    return shape, constant


def unscale(values: Array, metric: str, scale: float) -> None:
    """Squared distances of shaped patterns become the metric's, in place; inf where floats end."""
    if metric in ("correlation", "cosine"):
        values *= 0.5
        return
    if metric == "euclidean":
        np.sqrt(values, out=values)
    with np.errstate(over="ignore"):
        values *= scale
        if metric == "sqeuclidean":
            values *= scale


def blank(values: Array, rows: NDArray[np.bool_]) -> None:
    """NaN in the rows and columns of those without a dissimilarity, in place."""
    values[rows] = np.nan
    values[:, rows] = np.nan


@contextmanager
def of_scipy(metric: Any) -> Iterator[None]:
    """Within it scipy's distances are computed, of a metric that it has and we can use.

    Raises
    ------
    LensValueError
        Nobody knows the metric, or it is `mahalanobis`.
    """
    if not isinstance(metric, str) and not callable(metric):
        raise LensTypeError(f"metric is a name, as 'correlation', not {metric!r}")
    if isinstance(metric, str) and metric.lower() in _MAHALANOBIS:
        raise LensValueError(
            f"metric={metric!r} would be scipy's, with the covariance of the stimuli; in this "
            "field it takes the covariance of the noise: rdm(metric='mahalanobis', noise=...)"
        )
    try:
        yield
    except ValueError as error:
        if "Unknown Distance Metric" not in str(error):
            raise
        raise LensValueError(
            f"no metric {metric!r}; there are {', '.join(PRODUCT_METRICS)}, and those of "
            "scipy.spatial.distance.pdist"
        ) from None


def _by_scipy(patterns: Any, metric: str, out: Array | None) -> Dissimilarities:
    from scipy.spatial.distance import pdist, squareform

    with of_scipy(metric):
        whole = np.asarray(patterns, dtype=np.float64)
        broken = np.asarray(~np.isfinite(whole).all(axis=1))
        found = squareform(pdist(whole, metric))
    if out is not None:
        out[:] = found
        found = out
    blank(found, broken)
    return Dissimilarities(found, np.zeros(len(found), bool), broken)

"""How far two values are apart, and how far rounding alone may take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_PIECE = 2**18
"""Elements compared at a time: their float64 fit a processor's cache."""
_ROUNDING = {"float64": 1e-12, "complex128": 1e-12, "float32": 2e-5, "complex64": 2e-5,
             "float16": 2e-2, "bfloat16": 1e-1}  # fmt: skip
"""By torch's name of a type, how far apart right ways to compute one value may be.

Transformers of 6 to 24 layers by two kernels were up to 20 times a type's epsilon apart; this is
some times more, and in 16 bits as much as still says something.
"""


class Apart(NamedTuple):
    """How far two values are apart."""

    max_abs_diff: float = math.nan
    rel_diff: float = math.nan
    """Over the largest absolute value of either."""
    cosine: float = math.nan


def apart(one: Any, other: Any) -> Apart:
    """How far two arrays are apart; all NaN where their shapes differ.

    NaN beside NaN, and infinity beside the same, are 0 apart, and beside anything else infinity.
    The cosine is that of what is finite in both.
    """
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape or not a.size:
        return Apart()
    a, b = _reals(a), _reals(b)
    most = largest = 0.0
    sums = np.zeros(3)
    for start in range(0, a.size, _PIECE):
        x, y = a[start : start + _PIECE], b[start : start + _PIECE]
        equal = (x == y) | ((x != x) & (y != y))
        if not equal.all():
            most = max(most, _largest_difference(x[~equal], y[~equal]))
        x, y = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            x, y = x[finite], y[finite]
        if not x.size:
            continue
        largest = max(largest, float(np.abs(x).max()), float(np.abs(y).max()))
        sums += x @ x, y @ y, x @ y
    return Apart(most, _relative(most, largest), _cosine(*sums.tolist()))


def _largest_difference(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Of numbers that are not equal."""
    if x.dtype == y.dtype and x.dtype.kind in "iu":  # int64 has no room in float64
        unsigned = np.where(x > y, x - y, y - x).astype(f"u{x.dtype.itemsize}")
        return float(unsigned.max())
    x, y = x.astype(np.float64), y.astype(np.float64)
    if not (np.isfinite(x) & np.isfinite(y)).all():
        return math.inf
    return float(np.abs(x - y).max())


def _reals(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _relative(most: float, largest: float) -> float:
    if most == 0:
        return 0.0
    return math.inf if math.isinf(most) else most / largest


def _cosine(of_a: float, of_b: float, of_both: float) -> float:
    if not of_a or not of_b:
        return math.nan
    return max(-1.0, min(1.0, of_both / math.sqrt(of_a) / math.sqrt(of_b)))


def rounding(dtypes: Sequence[Sequence[str]], parents: Sequence[Sequence[int]]) -> list[float]:
    """How far apart values may be for the coarsest type on the way to them; 0 of exact types.

    Parameters
    ----------
    dtypes
        Torch's names of element types: that of a row, then those of the parameters it read.
    parents
        Places of the parents of each row, which are before it.
    """
    found: list[float] = []
    for (own, *read), made_of in zip(dtypes, parents, strict=True):
        if own not in _ROUNDING:
            found.append(0.0)
            continue
        of_parents = [found[p] for p in made_of if p < len(found)]
        found.append(max(_ROUNDING[own], *(_ROUNDING.get(t, 0.0) for t in read), *of_parents, 0.0))
    return found

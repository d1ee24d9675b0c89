"""How far two values are apart, and how far rounding alone may take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_PIECE = 2**18
"""Elements compared at a time: their float64 fit a processor's cache."""
_DIGITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "complex128": 52,
           "complex64": 23}  # fmt: skip
"""Binary digits after the first, by torch's name of a type."""


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


def precision(
    dtypes: Sequence[Sequence[str]], parents: Sequence[Sequence[int]]
) -> list[int | None]:
    """Of each row the digits of the coarsest type on the way to it; None where all is exact.

    Parameters
    ----------
    dtypes
        Torch's names of element types: that of a row, then those of the parameters it read.
    parents
        Places of the parents of each row, which are before it.
    """
    found: list[int | None] = []
    for (own, *read), made_of in zip(dtypes, parents, strict=True):
        if own not in _DIGITS:
            found.append(None)
            continue
        of_parents = [found[p] for p in made_of if p < len(found)]
        known = [d for d in (*map(_DIGITS.get, read), *of_parents) if d is not None]
        found.append(min([_DIGITS[own], *known]))
    return found


def rounding(digits: int | None) -> float:
    """How far apart, relatively, two ways to compute one value may be: two thirds of its digits.

    Exact types allow nothing.
    """
    return 0.0 if digits is None else 2.0 ** (-2 * digits / 3)

"""Mean, deviation, extremes and counts of one variable, read piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.quantities import quantity

_PIECE = 2**18
"""Elements worked on at a time: their float64 fit a processor's cache."""
_FOR_READING = 1 / 8
"""Part of the memory that is read of a store at a time; it is there a few times meanwhile."""
_LARGE = 1e100
"""Above it squares are taken of numbers that were made smaller."""
_BFLOAT16_MAX = float.fromhex("0x1.fep127")


class Moments(NamedTuple):
    """Of the elements of a variable; those of complex ones are their absolute values."""

    n: int = 0
    n_finite: int = 0
    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan
    zero: int = 0
    nan: int = 0
    inf: int = 0
    positive_inf: int = 0
    saturated: int = 0

    def holds(self, kind: str) -> bool:
        """Whether there is a `"nan"`, or an `"inf"`."""
        return bool(self.nan if kind == "nan" else self.inf)


def moments(variable: xr.Variable, name: str, memory: int) -> Moments:
    """The moments of all elements of a variable.

    Parameters
    ----------
    memory
        Bytes that reading a store may take.

    Raises
    ------
    LensTypeError
        It holds no numbers.
    LensValueError
        A chunk of it has no room.
    """
    if variable.dtype.kind not in "fiubc":
        raise LensTypeError(f"{name!r} holds {variable.dtype}, which are no numbers")
    limit = _limit(variable)
    found = Moments()
    for values in _blocks(variable, name, memory):
        flat = values.ravel(order="K")  # no copy, whatever order the axes are in
        for start in range(0, flat.size, _PIECE):
            found = _joined(found, _of_piece(flat[start : start + _PIECE], limit))
    return found


def _blocks(variable: xr.Variable, name: str, memory: int) -> Iterator[np.ndarray[Any, Any]]:
    """A variable as NumPy arrays that have room, split where the chunks of a store end."""
    if variable.chunks is None:
        yield np.asarray(variable.data)
    else:
        yield from _chunks(variable.data, name, memory)


def _chunks(data: Any, name: str, memory: int) -> Iterator[np.ndarray[Any, Any]]:
    axis = int(np.argmax(data.numblocks)) if data.ndim else 0
    several = data.ndim and data.numblocks[axis] > 1
    if data.nbytes <= memory * _FOR_READING or not several:
        if data.nbytes > memory / 2:
            raise LensValueError(
                f"{name!r} is stored in chunks of {quantity(data.nbytes, 'B')}, of which one is "
                f"read at a time; give more memory=, such as {2 * data.nbytes}"
            )
        yield np.asarray(data)
        return
    borders = np.cumsum([0, *data.chunks[axis]])
    half = int(borders[len(borders) // 2])
    before = (slice(None),) * axis
    yield from _chunks(data[(*before, slice(None, half))], name, memory)
    yield from _chunks(data[(*before, slice(half, None))], name, memory)


def smallest(variable: xr.Variable) -> float | None:
    """The least finite number of a type with a point."""
    limit = _limit(variable) if variable.dtype.kind == "f" else None
    return None if limit is None else -limit


def _limit(variable: xr.Variable) -> float | None:
    """The largest finite number of the type that the model computed in, as it is stored."""
    dtype = variable.dtype
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).max)
    if dtype.kind == "b":
        return None
    own = float(np.finfo(dtype).max)
    return _BFLOAT16_MAX if variable.attrs.get("torch_dtype") == "bfloat16" else own


def _of_piece(values: np.ndarray[Any, Any], limit: float | None) -> Moments:
    n, nan, inf, positive = values.size, 0, 0, 0
    if values.dtype.kind == "c":
        values = _magnitudes(values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        nan = int(np.count_nonzero(np.isnan(values)))
        positive = int(np.count_nonzero(np.isposinf(values)))
        finite = np.isfinite(values)
        inf = n - nan - int(np.count_nonzero(finite))
        values = values[finite]
    if not values.size:
        return Moments(n, nan=nan, inf=inf, positive_inf=positive)
    low, high = values.min(), values.max()
    mean, std = _centre(values, float(low), float(high))
    return Moments(
        n, values.size, mean, std, float(low), float(high),
        zero=values.size - int(np.count_nonzero(values)),
        nan=nan, inf=inf, positive_inf=positive,
        saturated=_at_limit(values, low, high, limit),
    )  # fmt: skip


def _magnitudes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):
        found: np.ndarray[Any, Any] = np.abs(values.astype(np.complex128))
    found[np.isnan(values)] = np.nan  # the length of (inf, nan) is infinite to C
    return found


def _at_limit(values: np.ndarray[Any, Any], low: Any, high: Any, limit: float | None) -> int:
    """How many are at the largest number of their type, or the smallest if it has a sign."""
    if limit is None:
        return 0
    count = int(np.count_nonzero(values == high)) if high == limit else 0
    if values.dtype.kind == "f" and low == -limit:
        count += int(np.count_nonzero(values == low))
    if values.dtype.kind == "i" and int(low) == np.iinfo(values.dtype).min:
        count += int(np.count_nonzero(values == low))
    return count


def _centre(values: np.ndarray[Any, Any], low: float, high: float) -> tuple[float, float]:
    """Mean and deviation, from float64."""
    if low == high:  # the mean of many equal numbers may round
        return low, 0.0
    largest = max(abs(low), abs(high))
    scale = largest if largest > _LARGE else 1.0
    wide = values.astype(np.float64)
    if scale != 1:
        wide /= scale
    mean = float(wide.mean())
    wide -= mean
    std = math.sqrt(float(wide @ wide) / wide.size)
    return mean * scale, std * scale


def _joined(a: Moments, b: Moments) -> Moments:
    """Moments of two parts together; deviations are joined as lengths are, so none overflows."""
    n = a.n_finite + b.n_finite
    counts = {name: getattr(a, name) + getattr(b, name) for name in _COUNTS}
    if not a.n_finite or not b.n_finite:
        whole = a if a.n_finite else b
        return whole._replace(**counts)
    of_a, of_b = a.n_finite / n, b.n_finite / n
    between = abs(b.mean / 2 - a.mean / 2) * 2 * math.sqrt(of_a * of_b)
    low, high = min(a.low, b.low), max(a.high, b.high)
    mean = low if low == high else a.mean * of_a + b.mean * of_b
    std = math.hypot(a.std * math.sqrt(of_a), b.std * math.sqrt(of_b), between)
    return Moments(n_finite=n, mean=mean, std=std, low=low, high=high,
                   **{k: v for k, v in counts.items() if k != "n_finite"})  # fmt: skip


_COUNTS = "n n_finite zero nan inf positive_inf saturated".split()

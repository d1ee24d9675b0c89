"""What `pool=` does with the positions of a layer before the rest becomes features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.rsa.ids import ids_of, positions
from lensframe_pd.schema import STIMULUS

Pool = str | Mapping[str, Any] | None
_SPACE = ("z", "y", "x")
_POSITIONS = (*_SPACE, "token", "time", "frame")
_UNNAMED = re.compile(r"dim\d+_*$")


def pooled(array: xr.DataArray, pool: Pool, name: str, strict: bool = True) -> xr.DataArray:
    """`array` up-cast, and pooled as `features` says; if not `strict`, axes it lacks are passed."""
    array = _upcast(array)
    todo = _by_axis(array, pool, name)
    lacking = [axis for axis in todo if axis not in array.dims]
    if lacking and strict:
        raise LensValueError(
            f"cannot pool {shown(lacking)} of {name!r}: its axes are "
            f"{', '.join(map(str, array.dims))}{_of_text(pool)}"
        )
    for axis, how in todo.items():
        if axis in array.dims:
            array = _reduced(array, axis, how, name)
    return array


def check_axes(arrays: Mapping[str, xr.DataArray], pool: Pool) -> None:
    """Raise where there is no stimulus axis, or where an axis to pool is in none of the arrays."""
    without = [name for name, array in arrays.items() if STIMULUS not in array.dims]
    if without or not arrays:
        raise LensValueError(
            f"without a stimulus axis: {shown(without)}" if without else "no layers"
        )
    if pool is None or (isinstance(pool, str) and pool in ("mean", "max")):
        return
    there = {str(d) for a in arrays.values() for d in a.dims}
    there |= {"space"} if there & set(_SPACE) else set()
    lacking = [
        axis for axis in ({"token": pool} if isinstance(pool, str) else pool) if axis not in there
    ]
    if lacking:
        raise LensValueError(
            f"cannot pool {shown(lacking)}: none of these layers has such an axis; there are "
            f"{', '.join(sorted(there))}{_of_text(pool)}"
        )


def _of_text(pool: Pool) -> str:
    """Why a text means the axis `token`, which whoever wrote it may not know."""
    is_text = isinstance(pool, str)
    return f"; pool={pool!r} is the name of a token, 'mean' and 'max' are not" if is_text else ""


def _upcast(array: xr.DataArray) -> xr.DataArray:
    """At least float32; complex numbers as an axis of two parts."""
    if array.dtype.kind == "c":
        parts = [array.real, array.imag]
        joined = xr.concat(parts, xr.Variable("part", ["real", "imag"]), coords="minimal")
        return joined.transpose(..., "part")
    if array.dtype.kind not in "fiub":
        raise LensTypeError(f"{array.name!r} holds {array.dtype}, which are no numbers")
    target = np.result_type(array.dtype, np.float32)
    return array if array.dtype == target else array.astype(target)


def _by_axis(array: xr.DataArray, pool: Pool, name: str) -> dict[str, Any]:
    if pool is None:
        return {}
    if isinstance(pool, str):
        if pool not in ("mean", "max"):
            return {"token": pool}
        unnamed = [str(d) for d in array.dims if _UNNAMED.match(str(d))]
        if unnamed:
            sizes = ", ".join(f"{d} ({array.sizes[d]})" for d in unnamed)
            raise LensValueError(
                f"pool={pool!r} cannot know whether {sizes} of {name!r} are positions or features; "
                f"say which to pool, as in pool={{{unnamed[0]!r}: {pool!r}}}"
            )
        return {axis: pool for axis in _POSITIONS if axis in array.dims}
    if not isinstance(pool, Mapping):
        raise LensTypeError(f"pool is None, a text or a mapping of axes, not {pool!r}")
    todo: dict[str, Any] = {}
    for axis, how in pool.items():
        there = [a for a in _SPACE if a in array.dims]
        todo.update(dict.fromkeys(there or ["space"], how) if axis == "space" else {axis: how})
    return todo


def _reduced(array: xr.DataArray, axis: str, how: Any, name: str) -> xr.DataArray:
    if isinstance(how, xr.DataArray):
        return _masked_mean(array, axis, how, name)
    if isinstance(how, str) and how == "mean":
        return array.mean(axis, dtype=np.float64, skipna=False, keep_attrs=True).astype(array.dtype)
    if isinstance(how, str) and how == "max":
        return array.max(axis, skipna=False, keep_attrs=True)
    if axis in array.indexes and how in array.indexes[axis]:
        return array.sel({axis: how}, drop=True)
    place = {"first": 0, "last": -1}.get(how, how) if isinstance(how, str) else how
    n = array.sizes[axis]
    if isinstance(place, (int, np.integer)) and -n <= place < n:
        return array.isel({axis: int(place)}, drop=True)
    raise LensValueError(_no_such(array, axis, how, name))


def _no_such(array: xr.DataArray, axis: str, how: Any, name: str) -> str:
    n = array.sizes[axis]
    if axis in array.indexes:
        known = f"its names are {shown(array.indexes[axis])}"
    elif isinstance(how, str):
        known = (
            f"its {n} positions have no names; give the position, as in pool={{{axis!r}: 0}}, or "
            f"name them: activations.assign_coords({axis}_{n}=[...])"
        )
    else:
        known = f"it has {n} positions"
    return f"no {axis} {how!r} in {name!r}: {known}"


def _masked_mean(array: xr.DataArray, axis: str, mask: xr.DataArray, name: str) -> xr.DataArray:
    other = [d for d in mask.dims if d != STIMULUS]
    n = array.sizes[axis]
    if STIMULUS not in mask.dims or len(other) != 1 or mask.sizes[other[0]] != n:
        raise LensValueError(
            f"the mask for {axis} of {name!r} must be stimulus x {n}, not {dict(mask.sizes)}"
        )
    if STIMULUS in array.indexes:
        wanted, found = ids_of(array, repr(name)), ids_of(mask, "the mask")
        mask = mask.isel({STIMULUS: positions(wanted, found, repr(name), "the mask")})
    mask = mask.drop_vars(list(mask.coords)).rename({other[0]: axis} if other[0] != axis else {})
    weight = (mask != 0).astype(np.float64)
    bare = array.drop_vars(axis, errors="ignore")
    total = xr.where(weight != 0, bare, 0).sum(axis, dtype=np.float64, skipna=False)
    mean = (total / weight.sum(axis)).astype(array.dtype)
    mean = mean.transpose(*[d for d in array.dims if d != axis])
    kept: xr.DataArray = mean.assign_attrs(array.attrs)
    return kept

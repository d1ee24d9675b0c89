"""Activations as netCDF and zarr, through xarray: any netCDF or zarr reader opens them.

xarray and the formats take most things as they are. What they would change on the way is mended:
names and attributes (`stored_names`), the order of variables, ids and times, and the types that
netCDF lacks: float16 is stored as float32 and complex numbers with a last axis of two parts.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from lensframe_pd.errors import LensTypeError, LensValueError, needs
from lensframe_pd.files.atomic import new_file, new_folder
from lensframe_pd.files.names import pack_attrs, storable, stored_names, unpack_attrs
from lensframe_pd.schema import STIMULUS

_NAME, _DTYPE, _ORDER = "lensframe_name", "lensframe_dtype", "lensframe_order"
_DIMS = "lensframe_dims"
_MARK = "lensframe"
_VERSION = 1
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_CHUNK_BYTES = 2**24


def write_netcdf(dataset: xr.Dataset, path: Path) -> None:
    """Write one netCDF-4 file, through h5netcdf."""
    needs("h5netcdf", "netCDF files")
    packed = _packed(dataset, narrow=True)
    encoding = {name: {"_FillValue": None} for name, v in packed.items() if v.dtype.kind == "f"}
    with new_file(path) as temporary:
        packed.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def read_netcdf(path: Path) -> xr.Dataset:
    """Open such a file; values are read when they are used."""
    needs("h5netcdf", "netCDF files")
    try:
        opened = xr.open_dataset(path, engine="h5netcdf", cache=False, decode_times=False)
    except (OSError, ValueError, KeyError) as error:
        raise LensValueError(f"{path} is truncated or no netCDF-4 file: {error}") from error
    return _unpacked(opened, path)


def write_zarr(dataset: xr.Dataset, path: Path) -> None:
    """Write a zarr v3 store, in chunks of whole stimuli of about 16 MB."""
    needs("zarr", "zarr stores")
    import zarr

    packed = _packed(dataset, narrow=False)
    encoding = {name: {"chunks": _chunks(v)} for name, v in packed.items() if v.chunks is None}
    with new_folder(path) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        packed.to_zarr(folder, zarr_format=3, consolidated=False, encoding=encoding, mode="w")
        zarr.open_group(folder, mode="r+").attrs["lensframe_files"] = _chunk_files(folder)
        zarr.consolidate_metadata(folder)


def read_zarr(path: Path) -> xr.Dataset:
    """Open such a store; values are read when they are used."""
    needs("zarr", "zarr stores")
    try:
        opened = xr.open_dataset(
            path, engine="zarr", zarr_format=3, consolidated=True, cache=False, decode_times=False
        )
    except Exception as error:  # json, zarr and xarray each have their own
        raise LensValueError(f"{path} is damaged or no zarr v3 store: {error}") from error
    expected, found = opened.attrs.get("lensframe_files"), _chunk_files(path)
    if expected is not None and expected != found:
        bad = sorted(name for name in expected if expected[name] != found.get(name))
        if bad:
            raise LensValueError(
                f"{path} is not whole: chunks of {', '.join(bad)} are missing or changed in size"
            )
    return _unpacked(opened, path)


def _packed(dataset: xr.Dataset, narrow: bool) -> xr.Dataset:
    """The Dataset under stored names; `narrow` for a format without float16 and complex."""
    names = stored_names([*dataset.data_vars, *dataset.coords])
    dims = {str(d): names.get(str(d), str(d)) for d in dataset.dims}
    variables: dict[str, xr.Variable] = {}
    for order, name in enumerate([*dataset.data_vars, *dataset.coords]):
        variable = dataset.variables[name]
        attrs = pack_attrs(variable.attrs) | {_NAME: str(name), _ORDER: order}
        if name in dataset.coords:
            values = storable(str(name), np.asarray(variable.to_numpy()))
            attrs[_DTYPE] = values.dtype.str
            if values.dtype.kind == "U":
                values = values.astype(object)  # text of any length, which both formats specify
            elif values.dtype.kind in "mM":
                unit = _UNITS[np.datetime_data(values.dtype)[0]]
                attrs["units"] = f"{unit} since 1970-01-01" if values.dtype.kind == "M" else unit
                values = values.astype(np.int64)
            variable = xr.Variable(variable.dims, values)
        elif variable.dtype.kind not in "fiubc":
            raise LensTypeError(f"{name!r} holds {variable.dtype}, which are no numbers")
        elif narrow:
            attrs[_DTYPE] = variable.dtype.str
            variable = _narrowed(variable)
        stored = variables[names[str(name)]] = variable.copy(deep=False)
        stored.dims = tuple(dims.get(str(d), str(d)) for d in variable.dims)
        stored.attrs, stored.encoding = attrs, {}
    attrs = pack_attrs(dataset.attrs) | {_MARK: _VERSION}
    attrs[_DIMS] = json.dumps({new: old for old, new in dims.items() if new != old})
    coords = {names[str(name)] for name in dataset.coords}
    bare = xr.Dataset(variables, attrs=attrs)
    return bare.set_coords(coords)


def _narrowed(variable: xr.Variable) -> xr.Variable:
    if variable.dtype == np.float16:
        return variable.astype(np.float32)
    if variable.dtype.kind == "c":
        parts = [variable.real, variable.imag]
        joined: xr.Variable = xr.Variable.concat(parts, "real_imag")
        return joined.transpose(..., "real_imag")
    return variable


def _unpacked(opened: xr.Dataset, path: Path) -> xr.Dataset:
    if _MARK not in opened.attrs:
        opened.close()
        raise LensValueError(
            f"{path} holds no activations that lensframe_pd wrote; open it with xarray"
        )
    old_dims = json.loads(opened.attrs[_DIMS])
    stored = sorted(opened.variables, key=lambda n: int(opened.variables[n].attrs[_ORDER]))
    data: dict[Hashable, xr.Variable] = {}
    coords: dict[Hashable, xr.Variable] = {}
    for key in stored:
        variable = opened.variables[key]
        facts = variable.attrs
        dtype = np.dtype(facts.get(_DTYPE, variable.dtype))
        if key in opened.coords:
            restored = xr.Variable(variable.dims, variable.to_numpy().astype(dtype))
        else:
            restored = _as(variable, dtype)
        restored.dims = tuple(old_dims.get(d, d) for d in restored.dims)
        restored.attrs = unpack_attrs(facts)
        if dtype.kind in "mM":
            del restored.attrs["units"]
        (coords if key in opened.coords else data)[facts[_NAME]] = restored
    found = xr.Dataset(data, coords, unpack_attrs(opened.attrs))
    found.set_close(opened.close)
    return found


def _as(variable: xr.Variable, dtype: np.dtype[Any]) -> xr.Variable:
    """The stored values, still lazy, as the type they had."""
    if variable.dtype == dtype:
        same: xr.Variable = variable.copy(deep=False)
        return same
    array = _Recast(variable, dtype)
    dims = variable.dims[: len(array.shape)]
    return xr.Variable(dims, indexing.LazilyIndexedArray(array))


class _Recast(BackendArray):
    """A lazy variable of float32 that stands for float16 or complex numbers."""

    def __init__(self, stored: xr.Variable, dtype: np.dtype[Any]) -> None:
        self.stored, self.dtype = stored, dtype
        self.shape = stored.shape[:-1] if dtype.kind == "c" else stored.shape

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        values = self.stored[key].to_numpy()
        if self.dtype.kind != "c":
            return values.astype(self.dtype)
        return np.ascontiguousarray(values).view(self.dtype)[..., 0]


def _chunks(variable: xr.DataArray) -> tuple[int, ...]:
    """Whole stimuli, as many as make a chunk; whole arrays where there is no stimulus axis."""
    shape = list(variable.shape)
    if STIMULUS in variable.dims:
        k = variable.dims.index(STIMULUS)
        one = max(1, math.prod(shape) // max(1, shape[k])) * variable.dtype.itemsize
        shape[k] = max(1, min(shape[k], _CHUNK_BYTES // one))
    return tuple(max(1, n) for n in shape)


def _chunk_files(store: Path) -> dict[str, list[int]]:
    """Stored name to number and bytes of its chunk files."""
    found: dict[str, list[int]] = {}
    for folder, _, files in os.walk(store):
        sizes = [os.path.getsize(os.path.join(folder, f)) for f in files if f != "zarr.json"]
        parts = Path(folder).relative_to(store).parts
        if sizes and parts:
            count = found.setdefault(parts[0], [0, 0])
            count[0] += len(sizes)
            count[1] += sum(sizes)
    return found

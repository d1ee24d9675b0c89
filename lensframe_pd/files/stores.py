"""Activations as netCDF and zarr, through xarray: any netCDF or zarr reader opens them.

xarray and the formats take most things as they are. What they would change on the way is mended:
names and attributes (`stored_names`), the order of variables, ids and times, and the types that
netCDF lacks: float16 is stored as float32 and complex numbers with a last axis of two parts. The
group's attributes hold the id of the write, a checksum per array and one of all that is no array.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from lensframe_pd.errors import LensTypeError, LensValueError, needs
from lensframe_pd.files import checksums
from lensframe_pd.files.assembled import assembled
from lensframe_pd.files.atomic import new_folder
from lensframe_pd.files.checked import Checked, check_small, of_variable
from lensframe_pd.files.damage import check_inside, inside, refused
from lensframe_pd.files.frames import frame_in
from lensframe_pd.files.gathered import gathered
from lensframe_pd.files.names import (
    dtype_name,
    pack_attrs,
    restored,
    storable,
    stored_names,
    unpack_attrs,
)
from lensframe_pd.files.places import stamp
from lensframe_pd.schema import STIMULUS

NAME, _DTYPE, ORDER = "lensframe_name", "lensframe_dtype", "lensframe_order"
DIMS, _MISSING = "lensframe_dims", "lensframe_missing"
MARK, _WRITE, _SUMS = "lensframe", "lensframe_write", "lensframe_sums"
_FILES, _CHECKSUM = "lensframe_files", "lensframe_checksum"
GROUP, LAYERS = "lensframe", "layers"
"""The group of a store that has what is said of the activations, and the array of layers in it."""
_VERSION = 1
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_CHUNK_BYTES = 2**24
AS_STORED: dict[str, Any] = {"cache": False, "decode_times": False, "mask_and_scale": False}


def write_zarr(dataset: xr.Dataset, path: Path, write: str, layers: bytes | None = None) -> None:
    """Write a zarr v3 store, in chunks of whole stimuli of about 16 MB.

    With the bytes of a file of layers, these are an array of the group `lensframe` in it.
    """
    needs("zarr", "zarr stores")
    import zarr

    packed = as_stored(dataset, narrow=False)
    encoding = as_it_is(packed)
    for name in packed.data_vars:
        variable = packed.variables[name]  # of the Dataset itself it is looked for among all
        if variable.chunks is None:
            encoding.setdefault(name, {})["chunks"] = _chunks(variable)
    with new_folder(path) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk not there is damage
            by_dask = any([v.chunks is not None for v in packed.variables.values()])
            store: Any = folder if by_dask else gathered(folder)
            packed.to_zarr(store, zarr_format=3, consolidated=False, encoding=encoding, mode="w")
            if not by_dask:
                store.settle()
            if layers is not None:
                put_layers(zarr.open_group(folder, mode="r+").create_group(GROUP), layers)
        opened = partial(xr.open_dataset, folder, engine="zarr", consolidated=False, **AS_STORED)
        attrs = sealed(packed, opened, write, {_FILES: json.dumps(_chunk_files(folder))})
        zarr.open_group(folder, mode="r+").attrs.update(attrs)
        zarr.consolidate_metadata(folder)


def put_layers(group: Any, content: bytes) -> None:
    """Have a file of layers as an array of a group."""
    from zarr.codecs import Crc32cCodec

    values = np.frombuffer(content, np.uint8)
    made = group.create_array(
        LAYERS, shape=values.shape, chunks=values.shape, dtype="uint8", compressors=[Crc32cCodec()]
    )
    made[...] = values


def layers_in(path: Path, write: str | None = None) -> pd.DataFrame:
    """The layers in the group `lensframe` of a store.

    Raises
    ------
    LensValueError
        There are none, or they are damaged.
    """
    return layers_of(path, path / GROUP, write)


def layers_of(store: Any, where: Path, write: str | None = None) -> pd.DataFrame:
    """As `layers_in`, of any store of zarr's."""
    import zarr

    with refused(where, "store of layers"):
        content = zarr.open_array(store, path=f"{GROUP}/{LAYERS}", mode="r", zarr_format=3)[...]
    return frame_in(np.asarray(content).tobytes(), where, ".parquet", write)


def read_zarr(path: Path, write: str | None = None) -> xr.Dataset:
    """Open such a store; values are read when they are used."""
    needs("zarr", "zarr stores")
    from zarr.storage import LocalStore

    metadata = path / "zarr.json"
    with refused(path, "zarr v3 store"):
        check_inside(path)
        consolidated = json.loads(metadata.read_bytes()).get("consolidated_metadata") or {}
        for name in consolidated.get("metadata", {}):
            for part in name.split("/"):
                inside(path, part)
        opened = xr.open_dataset(
            LocalStore(path, read_only=True),  # type: ignore[arg-type]  # a path may be an address
            engine="zarr", zarr_format=3, consolidated=True, **AS_STORED,
        )  # fmt: skip
        expected, found = json.loads(opened.attrs.get(_FILES, "{}")), _chunk_files(path)
        bad = sorted(name for name in expected if expected[name] != found.get(name))
        if bad:
            raise LensValueError(
                f"{path} is not whole: chunks of {', '.join(bad)} are missing or changed in size"
            )
        return unpacked(opened, path, metadata, write)


def as_it_is(packed: xr.Dataset) -> dict[Hashable, dict[str, Any]]:
    """The encoding in which no number stands for a missing one."""
    floats = [name for name, v in packed.variables.items() if v.dtype.kind == "f"]
    return {name: {"_FillValue": None} for name in floats}


def sealed(
    packed: xr.Dataset, opened: Callable[[], xr.Dataset], write: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The attributes that a reader compares: checksums of arrays, of facts, the id of the write.

    Sums are of what was given where that is in memory; of what is lazy, and may be dear to compute
    or random, they are of what was stored.
    """
    held = {n: v for n, v in packed.variables.items() if isinstance(v._data, np.ndarray)}
    sums = {str(name): _sum(variable) for name, variable in held.items()}
    lazy = [name for name in packed.variables if name not in held]
    if lazy:
        with opened() as stored:
            sums |= {str(name): _sum(stored.variables[name]) for name in lazy}
    attrs = {**more, _WRITE: write, _SUMS: json.dumps(sums)}
    return {**attrs, _CHECKSUM: _facts(packed, packed.attrs | attrs)}


def _sum(variable: xr.Variable) -> int | str:
    if variable.dtype.kind in "OUT":
        return checksums.of_facts(variable.values.tolist())
    return of_variable(variable)


def _facts(dataset: xr.Dataset, attrs: Mapping[Any, Any]) -> str:
    """A checksum of all that is no array: names, dimensions, types and attributes."""
    variables = {
        str(name): [
            list(v.dims), list(v.shape), "" if v.dtype.kind in "OUT" else v.dtype.str,
            dict(v.attrs),
        ]
        for name, v in dataset.variables.items()
    }  # fmt: skip
    said = {str(k): v for k, v in attrs.items() if k != _CHECKSUM}
    return checksums.of_facts([said, variables])


def as_stored(dataset: xr.Dataset, narrow: bool) -> xr.Dataset:
    """The Dataset under stored names; `narrow` for a format without float16 and complex."""
    everything = [*dataset.data_vars, *dataset.coords]
    others = [d for d in dataset.dims if d not in dataset.variables]
    names = stored_names([*everything, *others])
    dims = {str(d): names[str(d)] for d in dataset.dims}
    variables: dict[str, xr.Variable] = {}
    for order, name in enumerate(everything):
        variable = dataset.variables[name]
        attrs = pack_attrs(variable.attrs) | {NAME: str(name), ORDER: order}
        if "\0" in str(name):
            raise LensTypeError(f"{name!r} is no name that a file can hold")
        if name in dataset.coords:
            variable, more = _packed_coordinate(str(name), variable)
            attrs |= more
        elif variable.dtype.kind not in "fiubc":
            raise LensTypeError(f"{name!r} holds {variable.dtype}, which are no numbers")
        elif narrow:
            attrs[_DTYPE] = variable.dtype.str
            variable = _narrowed(variable)
        stored = variables[names[str(name)]] = variable.copy(deep=False)
        stored.dims = tuple(dims.get(str(d), str(d)) for d in variable.dims)
        stored.attrs, stored.encoding = attrs, {}
    attrs = pack_attrs(dataset.attrs) | {MARK: _VERSION}
    attrs[DIMS] = json.dumps({new: old for old, new in dims.items() if new != old})
    coords = {names[str(name)] for name in dataset.coords}
    bare = xr.Dataset(variables, attrs=attrs)
    return bare.set_coords(coords)


def _packed_coordinate(name: str, variable: xr.Variable) -> tuple[xr.Variable, dict[str, Any]]:
    values = np.asarray(variable.to_numpy())
    stored, missing = storable(name, values)
    attrs: dict[str, Any] = {_DTYPE: dtype_name(values)}
    if missing:
        attrs[_MISSING] = json.dumps(missing)
    if values.dtype.kind in "mM":
        unit = _UNITS[np.datetime_data(values.dtype)[0]]
        attrs["units"] = f"{unit} since 1970-01-01" if values.dtype.kind == "M" else unit
        stored = values.astype(np.int64)
    return xr.Variable(variable.dims, stored), attrs


def _narrowed(variable: xr.Variable) -> xr.Variable:
    if variable.dtype == np.float16:
        return variable.astype(np.float32)
    if variable.dtype.kind == "c":
        parts = [variable.real, variable.imag]
        joined: xr.Variable = xr.Variable.concat(parts, "real_imag")
        return joined.transpose(..., "real_imag")
    return variable


def unpacked(opened: xr.Dataset, path: Path, file: Path, write: str | None) -> xr.Dataset:
    """The Dataset as it was; `file` is what another write would replace."""
    if MARK not in opened.attrs:
        raise LensValueError(
            f"{path} holds no activations that lensframe_pd wrote; open it with xarray"
        )
    if opened.attrs.get(_CHECKSUM) != _facts(opened, opened.attrs):
        raise LensValueError(
            f"{path} is damaged or was changed: its names, dimensions and attributes are not those "
            "that were written; xarray may still open it"
        )
    if write is not None and opened.attrs[_WRITE] != write:
        raise LensValueError(f"{path} is of another write than the rest of its folder")
    when, arrays = stamp(file), list[Checked]()
    old_dims, sums = json.loads(opened.attrs[DIMS]), json.loads(opened.attrs[_SUMS])
    stored = sorted(opened.variables, key=lambda n: int(opened.variables[n].attrs[ORDER]))
    data: dict[Hashable, xr.Variable] = {}
    coords: dict[Hashable, xr.Variable] = {}
    for key in stored:
        variable = opened.variables[key]
        facts = variable.attrs
        if key in opened.coords:
            found = _unpacked_coordinate(variable, path, sums[key])
        else:
            arrays.append(Checked(variable, sums[key], file, when))
            found = _as(variable, np.dtype(facts.get(_DTYPE, variable.dtype)), arrays[-1])
        found.dims = tuple(old_dims.get(d, d) for d in found.dims)
        found.attrs = unpack_attrs(facts)
        if found.dtype.kind in "mM":
            found.attrs.pop("units", None)
        (coords if key in opened.coords else data)[facts[NAME]] = found
    check_small(arrays)
    whole = assembled(data, coords, unpack_attrs(opened.attrs))
    whole.set_close(opened.close)
    return whole


def _unpacked_coordinate(variable: xr.Variable, path: Path, expected: Any) -> xr.Variable:
    values = np.asarray(variable.to_numpy())
    if _sum(xr.Variable(variable.dims, values)) != expected:
        name = variable.attrs[NAME]
        raise LensValueError(f"{path} is damaged: coordinate {name!r} is not what was written")
    return restored_coordinate(variable, values)


def restored_coordinate(variable: xr.Variable, values: np.ndarray[Any, Any]) -> xr.Variable:
    """A coordinate as it was packed, without attributes, of its stored values."""
    missing = json.loads(variable.attrs.get(_MISSING, "[]"))
    return xr.Variable(variable.dims, restored(values, variable.attrs[_DTYPE], missing))


def _as(stored: xr.Variable, dtype: np.dtype[Any], checked: Checked) -> xr.Variable:
    """The stored values, still lazy, as the type they had."""
    array = checked if stored.dtype == dtype else _Recast(checked, dtype)
    return xr.Variable(stored.dims[: len(array.shape)], indexing.LazilyIndexedArray(array))


class _Recast(BackendArray):
    """A lazy variable of float32 that stands for float16 or complex numbers."""

    def __init__(self, stored: Checked, dtype: np.dtype[Any]) -> None:
        self.stored, self.dtype = stored, dtype
        self.shape = stored.shape[:-1] if dtype.kind == "c" else stored.shape

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        values = self.stored.read(key)
        if self.dtype.kind != "c":
            return values.astype(self.dtype)
        return np.ascontiguousarray(values).view(self.dtype)[..., 0]


def _chunks(variable: xr.Variable) -> tuple[int, ...]:
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

"""Activations as a folder of Arrow files, one per variable, that open without being read.

Each file has a column `stimulus` with the ids and a column `value` of fixed-shape tensors with
dimension names, in one uncompressed record batch: its bytes on disk are the array, so opening is
mapping. Booleans are stored as bytes (Arrow's own are bits), complex numbers with a last axis of
two parts; both come back as they were, without a copy. A value without a stimulus axis is one row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.files.atomic import new_folder
from lensframe_pd.files.names import storable, stored_names
from lensframe_pd.schema import STIMULUS

KIND = "activations as Arrow"
_META = b"lensframe"


def write_arrow(dataset: xr.Dataset, path: Path) -> None:
    """Write `dataset` as a folder of Arrow IPC files.

    Parameters
    ----------
    dataset
        Activations, in memory or lazy; one variable is in memory at a time.
    path
        The folder; one that this library wrote is replaced.

    Raises
    ------
    LensTypeError
        A variable or coordinate that is neither numbers nor, for coordinates, times or text.
    """
    names = stored_names(dataset.data_vars)
    files = {name: f"{stored}.arrow" for name, stored in names.items()}
    content: dict[str, Any] = {
        "kind": KIND,
        "version": 1,
        "attrs": _json_attrs(dataset.attrs),
        "variables": files,
    }
    ids = _ids(dataset)
    with new_folder(path, content) as folder:
        for name, file in files.items():
            _write_tensor(dataset[name], name, ids, folder / file)
        content["coordinates"] = _write_coordinates(dataset, folder)


def read_arrow(folder: Path, content: dict[str, Any]) -> xr.Dataset:
    """The Dataset of a folder, its arrays mapped from the files: nothing is copied or read yet.

    Parameters
    ----------
    folder
        Where `write_arrow` wrote.
    content
        The parsed `lensframe.json`.

    Returns
    -------
    xarray.Dataset
        Read-only arrays.
    """
    variables = {
        name: tensor(folder / file).variable for name, file in content["variables"].items()
    }
    coords: dict[Hashable, Any] = {}
    for entry in content["coordinates"]:
        table = _table(folder / entry["file"])
        dims = () if entry["dim"] is None else (entry["dim"],)
        for name, facts in entry["columns"].items():
            values = _restored(table[name], facts["dtype"])
            coords[name] = (dims, values if dims else values[0], facts["attrs"])
    return xr.Dataset(variables, coords, content["attrs"])


def tensor(path: Path) -> xr.DataArray:
    """One file as an array with its ids, mapped: zero bytes of it are copied.

    Raises
    ------
    LensValueError
        The file is truncated, is no Arrow file, or was not written by this library.
    """
    table = _table(path)
    raw = (table.schema.metadata or {}).get(_META)
    if raw is None:
        raise LensValueError(
            f"{path} is an Arrow file, but no activation that lensframe_pd wrote; read it with "
            "pyarrow.ipc or pandas.read_feather"
        )
    facts = json.loads(raw)
    dims, shape, dtype = facts["dims"], tuple(facts["shape"]), np.dtype(facts["dtype"])
    stored = tuple(sorted(range(len(dims)), key=lambda k: dims[k] != STIMULUS))
    data = _mapped(table["value"], tuple(shape[k] for k in stored), dtype)
    array = xr.DataArray(
        data.transpose(np.argsort(stored)), dims=dims, name=facts["name"], attrs=facts["attrs"]
    )
    if facts["ids"] is None:
        return array
    return array.assign_coords({STIMULUS: _restored(table[STIMULUS], facts["ids"])})


def _write_tensor(
    array: xr.DataArray, name: str, ids: np.ndarray[Any, Any] | None, path: Path
) -> None:
    has_rows = STIMULUS in array.dims
    variable = array.variable.transpose(STIMULUS, ...) if has_rows else array.variable
    data = np.asarray(variable.values)
    if data.dtype.kind not in "fiubc":
        raise LensTypeError(f"{name!r} holds {data.dtype}, which are no numbers")
    dims = [str(d) for d in variable.dims[has_rows:]]
    shape = data.shape[has_rows:]
    n = data.shape[0] if has_rows else 1
    facts = {
        "name": name, "dims": list(map(str, array.dims)), "shape": list(array.shape),
        "dtype": data.dtype.str, "attrs": _json_attrs(array.attrs),
        "ids": ids.dtype.str if has_rows and ids is not None else None,
    }  # fmt: skip
    if not has_rows:
        rows = pa.nulls(1)
    else:
        rows = pa.array(np.arange(n) if ids is None else ids)
    columns = {STIMULUS: rows, "value": _tensors(data, n, shape, dims)}
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(facts)})
    _write_table(table, path)


def _tensors(data: np.ndarray[Any, Any], n: int, shape: tuple[int, ...], dims: list[str]) -> Any:
    if not math.prod(shape):
        return pa.nulls(n)  # Arrow has no tensors without elements
    flat = np.ascontiguousarray(data).reshape(-1)
    if data.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
        shape, dims = (*shape, 2), [*dims, "real_imag"]
    elif data.dtype.kind == "b":
        flat = flat.view(np.uint8)
    element = pa.from_numpy_dtype(flat.dtype)
    kind = pa.fixed_shape_tensor(element, shape, dim_names=dims or None)
    values = pa.Array.from_buffers(element, flat.size, [None, pa.py_buffer(flat)])
    lists = pa.FixedSizeListArray.from_arrays(values, math.prod(shape))
    return pa.ExtensionArray.from_storage(kind, lists)


def _mapped(column: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if pa.types.is_null(column.type) or not math.prod(shape):
        found = np.empty(shape, dtype)
    else:
        values = column.chunk(0).storage.flatten().to_numpy(zero_copy_only=True)
        found = values.view(dtype).reshape(shape)
    found.flags.writeable = False
    return found


def _write_table(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


def _table(path: Path) -> Any:
    try:
        with pa.memory_map(str(path)) as source:  # buffers keep the mapping, not the open file
            return pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        raise LensValueError(f"{path} is missing; the folder is not whole") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise LensValueError(f"{path} is truncated or no Arrow file: {error}") from error


def _ids(dataset: xr.Dataset) -> np.ndarray[Any, Any] | None:
    if STIMULUS not in dataset.coords or dataset[STIMULUS].dims != (STIMULUS,):
        return None
    return storable(STIMULUS, dataset[STIMULUS].to_numpy())


def _write_coordinates(dataset: xr.Dataset, folder: Path) -> list[dict[str, Any]]:
    """A table for each dimension that has coordinates."""
    by_dim: dict[str | None, dict[str, xr.DataArray]] = {}
    for name, coord in dataset.coords.items():
        if coord.ndim > 1:
            raise LensTypeError(
                f"coordinate {name!r} has dimensions {coord.dims}, and Arrow tables hold columns; "
                "drop it, or write .zarr or .nc"
            )
        by_dim.setdefault(str(coord.dims[0]) if coord.dims else None, {})[str(name)] = coord
    files = stored_names([f"coordinates of {dim}" for dim in by_dim])
    entries = []
    for (dim, coords), stored in zip(by_dim.items(), files.values(), strict=True):
        values = {n: np.atleast_1d(storable(n, c.to_numpy())) for n, c in coords.items()}
        file = f"{stored}.feather"
        _write_table(pa.table({n: pa.array(v) for n, v in values.items()}), folder / file)
        columns = {
            n: {"dtype": v.dtype.str, "attrs": _json_attrs(coords[n].attrs)}
            for n, v in values.items()
        }
        entries.append({"dim": dim, "file": file, "columns": columns})
    return entries


def _restored(column: Any, dtype: str) -> np.ndarray[Any, Any]:
    values = column.combine_chunks().to_numpy(zero_copy_only=False)
    return np.asarray(values.astype(np.dtype(dtype)))


def _json_attrs(attrs: dict[Any, Any]) -> dict[str, Any]:
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}
    try:
        json.dumps(plain)
    except TypeError as error:
        raise LensTypeError(f"attributes must be JSON to be written: {error}") from None
    return plain

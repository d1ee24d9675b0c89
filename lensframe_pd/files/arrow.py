"""Activations as a folder of Arrow files, one per variable, that open without being read.

Of many small ones each is a row of a table instead (`packed`).

Each file has a column `stimulus` with the ids and a column `value` of fixed-shape tensors with
dimension names, in one uncompressed record batch: its bytes on disk are the array, so opening is
mapping. Booleans are stored as bytes (Arrow's own are bits), complex numbers with a last axis of
two parts; both come back as they were, without a copy. A value without a stimulus axis is one row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from xarray.core import indexing

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.files import checksums
from lensframe_pd.files.assembled import assembled
from lensframe_pd.files.atomic import new_folder
from lensframe_pd.files.checked import Checked, check_small, is_small, of_variable
from lensframe_pd.files.damage import inside, refused
from lensframe_pd.files.names import dtype_name, restored, storable, stored_names
from lensframe_pd.files.packed import Stored, read_packed, to_pack, write_packed
from lensframe_pd.schema import STIMULUS

KIND = "activations as Arrow"
PACKED_VERSION = 2
"""Of folders with tables of small arrays, which earlier readers would not miss."""
_META = b"lensframe"


def write_arrow(dataset: xr.Dataset, path: Path, write: str) -> None:
    """Write `dataset` as a folder of Arrow IPC files.

    Parameters
    ----------
    dataset
        Activations, in memory or lazy; one variable is in memory at a time.
    path
        The folder; one that this library wrote is replaced.
    write
        The id of this write, which every file has.

    Raises
    ------
    LensTypeError
        A variable or coordinate that is neither numbers nor, for coordinates, times or text.
    """
    variables = {name: dataset.variables[name] for name in dataset.data_vars}
    rows = {*to_pack(variables)}
    names = stored_names([name for name in variables if name not in rows])
    files = {name: f"{stored}.arrow" for name, stored in names.items()}
    content: dict[str, Any] = {
        "kind": KIND,
        "version": PACKED_VERSION if rows else 1,
        "write": write,
        "attrs": _json_attrs(dataset.attrs),
        "variables": files,
    }
    ids = _ids(dataset)
    with new_folder(path, content) as folder:
        for name, variable in counted([*variables.items()], "write", "values"):
            if name not in rows:
                _write_tensor(variable, str(name), ids, folder / files[str(name)], write)
        if rows:
            content["packed"] = write_packed(_numbered(variables, rows), folder, write)
        content["coordinates"] = _write_coordinates(dataset, folder)


def _numbered(
    variables: Mapping[Any, xr.Variable], rows: Set[Any]
) -> Iterator[tuple[int, str, xr.Variable, str]]:
    for place, (name, variable) in enumerate(variables.items()):
        if name in rows:
            yield place, str(name), variable, json.dumps(_json_attrs(variable.attrs))


def read_arrow(folder: Path, content: dict[str, Any]) -> xr.Dataset:
    """The Dataset of a folder, its arrays mapped from the files: nothing is copied.

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
    with refused(folder, "folder of activations"):
        arrays = {
            name: _tensor(inside(folder, file), content["write"], name)
            for name, file in content["variables"].items()
        }
        rows: list[tuple[Path, Stored]] = []
        for entry in content.get("packed", []):
            path = inside(folder, entry["file"])
            rows += zip(repeat(path), read_packed(folder, entry, content["write"]))
        coords: dict[Hashable, Any] = {}
        for entry in content["coordinates"]:
            coords |= _read_coordinates(folder, entry)
        variables = _checked_rows(rows, [checked for _, checked in arrays.values()])
        alone = iter((name, array.variable) for name, (array, _) in arrays.items())
        whole: dict[str, xr.Variable] = {}
        for place in range(len(arrays) + len(rows)):
            name, variable = variables.get(place) or next(alone)
            whole[name] = variable
        return assembled(whole, coords, content["attrs"])


def _checked_rows(
    rows: list[tuple[Path, Stored]], files: list[Checked]
) -> dict[int, tuple[str, xr.Variable]]:
    """Place to name and variable: compared now where all is small, else when first used."""
    at_once = is_small(files, sum([row.values.nbytes for _, row in rows]))
    for checked in files if at_once else ():
        checked.check()
    found = {}
    for path, row in rows:
        variable = row.variable
        if not at_once:
            lazy = indexing.LazilyIndexedArray(Checked(variable, row.checksum, path, None))
            variable = xr.Variable(variable.dims, lazy, variable.attrs, fastpath=True)
        elif checksums.of_array(row.values) != row.checksum:
            raise LensValueError(
                f"{path} is damaged: the values of {row.name!r} are not those that were written"
            )
        found[row.place] = row.name, variable
    return found


def tensor(path: Path) -> xr.DataArray:
    """One file as an array with its ids, mapped: zero bytes of it are copied.

    Raises
    ------
    LensValueError
        The file is truncated, is no Arrow file, or was not written by this library.
    """
    with refused(path, "Arrow file"):
        array, checked = _tensor(path)
        check_small([checked])
        return array


def _tensor(
    path: Path, write: str | None = None, name: str | None = None
) -> tuple[xr.DataArray, Checked]:
    table = _table(path)
    raw = (table.schema.metadata or {}).get(_META)
    if raw is None:
        raise LensValueError(
            f"{path} is an Arrow file, but no activation that lensframe_pd wrote; read it with "
            "pyarrow.ipc or pandas.read_feather"
        )
    facts = json.loads(raw)
    _check_facts(path, facts, table)
    if write is not None and (facts["write"], facts["name"]) != (write, name):
        raise LensValueError(f"{path} is of another write, or another array, than its folder says")
    dims, shape, dtype = facts["dims"], tuple(facts["shape"]), np.dtype(facts["dtype"])
    stored = tuple(sorted(range(len(dims)), key=lambda k: dims[k] != STIMULUS))
    data = _mapped(table["value"], tuple(shape[k] for k in stored), dtype)
    checked = Checked(
        xr.Variable(dims, data.transpose(np.argsort(stored))), facts["sum"], path, None
    )
    array = xr.DataArray(
        xr.Variable(dims, indexing.LazilyIndexedArray(checked), facts["attrs"]), name=facts["name"]
    )
    if facts["ids"] is not None:
        ids = _restored(table[STIMULUS], facts["ids"], [])
        array = array.assign_coords({STIMULUS: ids})
    return array, checked


def _check_facts(path: Path, facts: dict[str, Any], table: Any) -> None:
    said = facts.pop("checksum")
    if said != checksums.of_facts(facts):
        raise LensValueError(f"{path} is damaged: what it says of itself is not what was written")
    if facts["rows"] != checksums.of_table(_bare(table, STIMULUS)):
        raise LensValueError(f"{path} is damaged: its ids are not those that were written")


def _bare(table: Any, *columns: str) -> Any:
    return table.select([*columns]).replace_schema_metadata(None)


def _write_tensor(
    array: xr.Variable, name: str, ids: np.ndarray[Any, Any] | None, path: Path, write: str
) -> None:
    has_rows = STIMULUS in array.dims
    variable = array.transpose(STIMULUS, ...) if has_rows else array
    data = np.asarray(variable.values)
    if data.dtype.kind not in "fiubc":
        raise LensTypeError(f"{name!r} holds {data.dtype}, which are no numbers")
    dims = [str(d) for d in variable.dims[has_rows:]]
    shape = data.shape[has_rows:]
    n = data.shape[0] if has_rows else 1
    if not has_rows:
        rows = pa.nulls(1)
    else:
        rows = _column(np.arange(n) if ids is None else storable(STIMULUS, ids)[0])
    table = pa.table({STIMULUS: rows, "value": _tensors(data, n, shape, dims)})
    logical = xr.Variable(variable.dims, data).transpose(*array.dims)
    facts = {
        "name": name, "dims": list(map(str, array.dims)), "shape": list(array.shape),
        "dtype": data.dtype.str, "attrs": _json_attrs(array.attrs), "write": write,
        "ids": dtype_name(ids) if has_rows and ids is not None else None,
        "sum": of_variable(logical), "rows": checksums.of_table(_bare(table, STIMULUS)),
    }  # fmt: skip
    facts["checksum"] = checksums.of_facts(facts)
    _write_table(table.replace_schema_metadata({_META: json.dumps(facts)}), path)


def _column(values: np.ndarray[Any, Any]) -> Any:
    """Texts from Python's own: Arrow reads NumPy's up to the first NUL only."""
    return pa.array(values.tolist(), pa.large_string()) if values.dtype == object else values


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
    with refused(path, "Arrow file"), pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()  # buffers keep the mapping, not the open file
        table.validate()
        return table


def _ids(dataset: xr.Dataset) -> np.ndarray[Any, Any] | None:
    if STIMULUS not in dataset.coords or dataset[STIMULUS].dims != (STIMULUS,):
        return None
    return np.asarray(dataset[STIMULUS].to_numpy())


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
        columns: dict[str, dict[str, Any]] = {}
        cells: dict[str, Any] = {}
        for name, coord in coords.items():
            values = np.asarray(coord.to_numpy())
            stored_values, missing = storable(name, values)
            cells[name] = _column(np.atleast_1d(stored_values))
            columns[name] = {
                "dtype": dtype_name(values), "missing": missing, "attrs": _json_attrs(coord.attrs),
            }  # fmt: skip
        table, file = pa.table(cells), f"{stored}.feather"
        _write_table(table, folder / file)
        checksum = checksums.of_table(table)
        entries.append({"dim": dim, "file": file, "columns": columns, "checksum": checksum})
    return entries


def _read_coordinates(folder: Path, entry: dict[str, Any]) -> dict[Hashable, Any]:
    path = inside(folder, entry["file"])
    table = _table(path)
    if entry["checksum"] != checksums.of_table(table):
        raise LensValueError(f"{path} is damaged: its cells are not those that were written")
    dims = () if entry["dim"] is None else (entry["dim"],)
    found: dict[Hashable, Any] = {}
    for name, facts in entry["columns"].items():
        values = _restored(table[name], facts["dtype"], facts["missing"])
        found[name] = xr.Variable(dims, values if dims else values[0], facts["attrs"])
    return found


def _restored(column: Any, dtype: str, missing: Sequence[int]) -> np.ndarray[Any, Any]:
    values = column.combine_chunks()
    if pa.types.is_large_string(values.type):
        cells = np.empty(len(values), object)
        cells[:] = values.to_pylist()
        return restored(cells, dtype, missing)
    return restored(values.to_numpy(zero_copy_only=False), dtype, missing)


def _json_attrs(attrs: dict[Any, Any]) -> dict[str, Any]:
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}
    try:
        json.dumps(plain)
    except TypeError as error:
        raise LensTypeError(f"attributes must be JSON to be written: {error}") from None
    return plain

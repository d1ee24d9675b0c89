"""`lf.write` and `lf.read`: a whole trace in a folder, or each part alone.

| what | as |
|---|---|
| trace | a folder with `layers.parquet` and the activations |
| layers | `.parquet`, `.feather` or `.arrow`: plain pandas, polars and DuckDB read them |
| activations | `.nc` (netCDF-4), `.zarr` (v3), `.arrows` (a folder of Arrow files) |
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import xarray as xr

from lensframe_pd.errors import LensRuntimeError, LensTypeError, LensValueError
from lensframe_pd.files import arrow, frames, stores
from lensframe_pd.files.atomic import MARK, new_file, new_folder, present

_KIND = "trace"
_ACTIVATIONS = {
    "arrow": "activations.arrows",
    "zarr": "activations.zarr",
    "netcdf": "activations.nc",
}
_LAYERS = "layers.parquet"


class Saved(NamedTuple):
    """A trace read from a folder; unpacks into `layers, activations`."""

    layers: pd.DataFrame
    activations: xr.Dataset


def write(what: Any, path: str | os.PathLike[str], format: str = "arrow") -> Path:
    """Write a trace, its layers or its activations.

    What was there is replaced only when the new is complete: a crash leaves the old or the new.

    Parameters
    ----------
    what
        A trace (or a pair of layers and activations), a frame of layers, or a Dataset.
    path
        A folder for a trace. For layers a file `.parquet`, `.feather` or `.arrow`; for activations
        `.nc`, `.zarr` or `.arrows`.
    format
        Of the activations of a trace: `"arrow"` (opens without reading, largest), `"zarr"`
        (compressed chunks) or `"netcdf"` (one file).

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    LensValueError
        An unknown suffix or format, or a folder that this library did not write.
    LensTypeError
        A coordinate or attribute that no format holds without pickling.
    LensRuntimeError
        The package the format needs is not installed.

    Examples
    --------
    >>> import tempfile, torch, lensframe_pd as lf
    >>> trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), stimulus=list("abcd"))
    >>> folder = write(trace, Path(tempfile.mkdtemp(), "trace"))
    >>> layers, activations = read(folder)
    >>> activations.equals(trace.activations)
    True
    """
    target = Path(path)
    if isinstance(what, pd.DataFrame):
        _write_layers(what, target)
    elif isinstance(what, xr.Dataset):
        _write_activations(what, target)
    else:
        _write_trace(what, target, format)
    return target


def read(path: str | os.PathLike[str], chunks: Any = None) -> Any:
    """Read what `write` wrote: a trace, layers, activations, or one Arrow file of them.

    Parameters
    ----------
    path
        The folder or file.
    chunks
        None: values are read when used, whole variables at a time, or mapped (Arrow). `"auto"`, or
        sizes by dimension such as `{"stimulus": 100}`: dask arrays, computed by chunk.

    Returns
    -------
    Saved, pandas.DataFrame, xarray.Dataset or xarray.DataArray
        A folder of a trace as `layers, activations`; sequence cells of layers are tuples again.

    Raises
    ------
    LensValueError
        There is nothing at `path`; it is truncated, damaged, or not from this library.
    LensRuntimeError
        The package the format needs, or dask, is not installed.

    Examples
    --------
    >>> import tempfile, torch, lensframe_pd as lf
    >>> trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> path = write(trace.layers, Path(tempfile.mkdtemp(), "layers.feather"))
    >>> read(path).loc["linear_1", "shape"]
    (4, 2)
    """
    found = present(Path(path))
    if not found.exists():
        raise LensValueError(f"there is nothing at {path}")
    if found.is_file():
        if found.suffix in (".parquet", ".feather"):
            return frames.read_frame(found)
        if found.suffix == ".nc":
            return _chunked(stores.read_netcdf(found), chunks)
        return _read_arrow_file(found, chunks)
    if (found / "zarr.json").exists():
        return _chunked(stores.read_zarr(found), chunks)
    content = _content(found)
    if content["kind"] == arrow.KIND:
        return _chunked(arrow.read_arrow(found, content), chunks)
    return Saved(
        frames.read_frame(found / _LAYERS), read(found / str(content["activations"]), chunks)
    )


def _write_trace(trace: Any, path: Path, format: str) -> None:
    if format not in _ACTIVATIONS:
        raise LensValueError(f"no format {format!r}; there are {', '.join(_ACTIVATIONS)}")
    try:
        layers, activations = trace
    except (TypeError, ValueError):
        layers = activations = None
    if not isinstance(layers, pd.DataFrame) or not isinstance(activations, xr.Dataset):
        raise LensTypeError(
            "write takes a trace, a pair of layers and activations, a DataFrame or a Dataset, not "
            f"{type(trace).__name__}"
        )
    file = _ACTIVATIONS[format]
    content = {"kind": _KIND, "version": 1, "layers": _LAYERS, "activations": file}
    with new_folder(path, content) as folder:
        _write_layers(layers, folder / _LAYERS)
        _write_activations(activations, folder / file)


def _write_layers(layers: pd.DataFrame, path: Path) -> None:
    if path.suffix not in frames.SUFFIXES:
        raise LensValueError(
            f"layers are written as {', '.join(frames.SUFFIXES)}, not {path.suffix or path.name!r}"
        )
    with new_file(path) as temporary:
        frames.write_frame(layers, temporary, path.suffix, uuid.uuid4().hex)


def _write_activations(dataset: xr.Dataset, path: Path) -> None:
    writers = {
        ".nc": stores.write_netcdf,
        ".zarr": stores.write_zarr,
        ".arrows": arrow.write_arrow,
    }
    if path.suffix not in writers:
        raise LensValueError(
            f"activations are written as {', '.join(writers)}, not {path.suffix or path.name!r}"
        )
    if stacked := [str(n) for n, i in dataset.indexes.items() if isinstance(i, pd.MultiIndex)]:
        raise LensTypeError(
            f"{', '.join(stacked)} are a MultiIndex, which no format has; use .reset_index first"
        )
    writers[path.suffix](dataset, path)


def _read_arrow_file(path: Path, chunks: Any) -> Any:
    """Layers or one activation; both are Arrow files."""
    try:
        with pa.memory_map(str(path)) as source:
            columns = set(pa.ipc.open_file(source).schema.names)
    except (pa.ArrowException, OSError) as error:
        raise LensValueError(f"{path} is truncated or no Arrow file: {error}") from error
    if columns & {"op", "layer", "func", "parents"}:
        return frames.read_frame(path)
    return _chunked(arrow.tensor(path), chunks)


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LensValueError(
            f"{folder} was not written by lensframe_pd: it has no {MARK}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise LensValueError(f"{folder / MARK} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("kind") not in (_KIND, arrow.KIND):
        raise LensValueError(f"{folder / MARK} is not from lensframe_pd")
    if content.get("version") != 1:
        raise LensValueError(
            f"{folder} has format version {content.get('version')}; this lensframe_pd reads 1: "
            "install a newer one"
        )
    return content


def _chunked(values: Any, chunks: Any) -> Any:
    if chunks is None:
        return values
    try:
        import dask  # noqa: F401
    except ImportError as error:
        raise LensRuntimeError("chunks need the package dask: pip install dask") from error
    if isinstance(chunks, dict):
        chunks = {dim: n for dim, n in chunks.items() if dim in values.dims}
    return values.chunk(chunks, token=uuid.uuid4().hex)  # else dask reads all to name its tasks

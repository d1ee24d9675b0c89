"""`lf.write` and `lf.read`: a whole trace in a folder, or each part alone.

| what | as |
|---|---|
| trace | a folder with `layers.parquet` and the activations; or `.zarr`, one store of both |
| layers | `.parquet`, `.feather` or `.arrow`: plain pandas, polars and DuckDB read them |
| activations | `.nc` (netCDF-4), `.zarr` (v3), `.arrows` (a folder of Arrow files) |
"""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import xarray as xr

from lensframe_pd.collector import collector_paused
from lensframe_pd.errors import LensRuntimeError, LensTypeError, LensValueError
from lensframe_pd.files import arrow, blocks, checksums, frames, netcdf, packed, stores
from lensframe_pd.files.atomic import alone, new_file, new_folder
from lensframe_pd.files.damage import check_inside, refused
from lensframe_pd.files.places import (
    MARK,
    OF_FILES,
    check_path,
    of_home,
    place_to_write,
    present,
    stamp,
)
from lensframe_pd.schema import model_class

_KIND = "trace"
_ACTIVATIONS = {
    "arrow": "activations.arrows",
    "zarr": "activations.zarr",
    "netcdf": "activations.nc",
}
_LAYERS = "layers.parquet"
_WRITERS: dict[str, Callable[[xr.Dataset, Path, str], None]] = {
    ".nc": netcdf.write_netcdf,
    ".zarr": stores.write_zarr,
    ".arrows": arrow.write_arrow,
}
_READABLE = (
    "lf.read reads a trace's folder or .zarr, layers as .parquet, .feather or .arrow, activations "
    "as .nc, .zarr or .arrows"
)
_AS_TEXT = ("pandas.read_csv", "pandas.read_json", "pandas.read_excel")
_READERS = {
    ".csv": "pandas.read_csv", ".tsv": "pandas.read_csv",
    ".json": "pandas.read_json", ".xlsx": "pandas.read_excel", ".xls": "pandas.read_excel",
    ".pkl": "pandas.read_pickle", ".pickle": "pandas.read_pickle",
    ".pt": "torch.load", ".pth": "torch.load", ".ckpt": "torch.load",
    ".safetensors": "safetensors", ".npy": "numpy.load", ".npz": "numpy.load",
    ".h5": "h5py", ".hdf5": "h5py", ".mat": "scipy.io.loadmat",
}  # fmt: skip
"""Suffixes of what is not ours, and who reads them."""
_TRIES, _PATIENCE = 100, 3
"""How often a reader looks again while others write, and after how often it has them wait."""


class Saved(NamedTuple):
    """A trace read from a folder; unpacks into `layers, activations`."""

    layers: pd.DataFrame
    activations: xr.Dataset

    def __repr__(self) -> str:
        model = model_class(self.layers)
        return (
            f"<Saved trace{f' of {model}' if model else ''}: {len(self.layers)} rows, "
            f"{len(self.activations.data_vars)} values; layers, activations = it>"
        )


def write(what: Any, path: str | os.PathLike[str], format: str = "arrow") -> Path:
    """Write a trace, its layers or its activations.

    What was there is replaced only when the new is complete: a crash leaves the old or the new. Of
    several writers to one place the last to be complete wins. A link is written through.

    Parameters
    ----------
    what
        A trace (or a pair of layers and activations), a frame of layers, or a Dataset.
    path
        A folder for a trace, or `.zarr`: one store, with the layers in its group `lensframe`, as
        `lf.extract` makes them. For layers a file `.parquet`, `.feather` or `.arrow`; for
        activations `.nc`, `.zarr` or `.arrows`.
    format
        Of the activations of a trace: `"arrow"` (opens without reading, largest; the one for
        thousands of small arrays), `"zarr"` (compressed chunks) or `"netcdf"` (one file).

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    LensValueError
        An unknown suffix or format, no name to write at, or a folder that this library did not
        write. What the system refuses (no folder, no permission, a full disk) is an OSError too.
    LensTypeError
        A coordinate or attribute that no format holds without pickling; or `what` is none of these.
    LensRuntimeError
        The package the format needs is not installed.

    Examples
    --------
    >>> import tempfile, torch, lensframe_pd as lf
    >>> from pathlib import Path
    >>> trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), stimulus=list("abcd"))
    >>> folder = lf.write(trace, Path(tempfile.mkdtemp(), "trace"))
    >>> layers, activations = lf.read(folder)
    >>> activations.equals(trace.activations)
    True
    """
    if isinstance(what, (str, os.PathLike)):
        raise LensTypeError("write takes what to write first, then the path: lf.write(trace, path)")
    check_path(path)
    target, write_id = Path(path), uuid.uuid4().hex
    if isinstance(what, pd.DataFrame):
        kind = _kind(target, "layers", frames.SUFFIXES)
        _write_layers(what, place_to_write(path, folder=False), kind, write_id)
    elif isinstance(what, xr.Dataset):
        kind = _kind(target, "activations", _WRITERS)
        _write_activations(what, place_to_write(path, folder=kind != ".nc"), kind, write_id)
    else:
        _write_trace(what, path, format, write_id)
    return target


def read(path: Any, chunks: Any = None) -> Any:
    """Read what `write` wrote: a trace, layers, activations, or one Arrow file of them.

    Parameters
    ----------
    path
        The folder or file; or of what `lf.extract` made any store of zarr's.
    chunks
        None: values are read when used, whole variables at a time, or mapped (Arrow). `"auto"`, or
        sizes by dimension such as `{"stimulus": 100}`: dask arrays, computed by chunk; `{}`: the
        chunks of the file.

    Returns
    -------
    Saved, pandas.DataFrame, xarray.Dataset or xarray.DataArray
        A folder of a trace as `layers, activations`; sequence cells of layers are tuples again.

    Raises
    ------
    LensValueError
        There is nothing at `path`; it is truncated, damaged, or not from this library. Values of
        more than 256 MB are compared with their checksums when they are first used, and raise then.
    LensRuntimeError
        The package the format needs, or dask, is not installed.

    Examples
    --------
    >>> import tempfile, torch, lensframe_pd as lf
    >>> from pathlib import Path
    >>> trace = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> path = lf.write(trace.layers, Path(tempfile.mkdtemp(), "layers.feather"))
    >>> lf.read(path).loc["linear_1", "shape"]
    (4, 2)
    """
    if isinstance(path, io.IOBase):
        raise LensTypeError(f"{path!r} is an open file; give its path")
    if path is None or isinstance(path, (int, float, list, tuple, pd.DataFrame, xr.Dataset)):
        raise LensTypeError(f"read takes a path, not {type(path).__name__}")
    if hasattr(path, "layers"):
        raise LensTypeError("read takes the path that lf.write gave; this is a trace itself")
    if not isinstance(path, (str, os.PathLike)) or "://" in str(path):
        return _chunked(blocks.read_blocks(path), chunks)
    given = Path(path)
    if not given.name:
        raise LensValueError(f"{os.fsdecode(path)!r} names no file or folder to read")
    for attempt in range(_TRIES):
        with refused(given, "file or folder"):
            place = present(given)
        before = stamp(place)
        try:
            if attempt < _PATIENCE:
                with collector_paused():
                    return _read(given, place, chunks)
            with _writers_waiting(place):
                return _read(given, present(given), chunks)
        except LensValueError:
            now = present(given)
            if now == place and stamp(now) == before and (before or attempt + 1 == _PATIENCE):
                raise  # else it was replaced while it was read: the next look is at one write
    raise LensRuntimeError(
        f"{path} was replaced by another write at each of {_TRIES} attempts to read it; read it "
        "again when fewer processes write it"
    )


@contextmanager
def _writers_waiting(place: Path) -> Iterator[None]:
    """No write is completed meanwhile, if this process may say so."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(alone(place))
        yield


def _read(given: Path, found: Path, chunks: Any) -> Any:
    if not found.exists():
        raise LensValueError(f"there is nothing at {given}{of_home(given) or _elsewhere(given)}")
    if found.is_file() and (other := _elsewhere(given)):
        raise LensValueError(f"{given} is not what lf.write makes{other}")
    if found.is_file():
        if given.suffix in (".parquet", ".feather"):
            return frames.read_frame(found, given.suffix)
        if given.suffix == ".nc":
            return _chunked(netcdf.read_netcdf(found), chunks)
        return _read_arrow_file(found, chunks)
    return _read_folder(found, chunks, None)


def _elsewhere(path: Path) -> str:
    """What is read, for a file of another kind, and who reads that kind."""
    suffixes = path.suffixes[-2:]
    reader = next((r for s in suffixes if (r := _READERS.get(s.lower()))), None)
    if reader is None:
        return ""
    lost = "; text has lost the tuples that are the graph" if reader in _AS_TEXT else ""
    return f": {_READABLE}; {reader} reads {path.suffix}{lost}"


def _read_folder(found: Path, chunks: Any, write: str | None) -> Any:
    if (found / "zarr.json").exists():
        if found.name == stores.GROUP and (found / stores.LAYERS).exists():
            return stores.layers_in(found.parent)
        if write is None and blocks.is_blocks(found):
            return _chunked(blocks.read_blocks(found), chunks)
        if write is None and (found / stores.GROUP / stores.LAYERS).exists():
            dataset = stores.read_zarr(found)
            return Saved(stores.layers_in(found), _chunked(dataset, chunks))
        return _chunked(stores.read_zarr(found, write), chunks)
    content = _content(found)
    if write is not None and content["write"] != write:
        raise LensValueError(f"{found} is of another write than the rest of its folder")
    if content["kind"] == arrow.KIND:
        return _chunked(arrow.read_arrow(found, content), chunks)
    write, name = content["write"], content["activations"]
    if name not in _ACTIVATIONS.values():
        raise LensValueError(f"{found / MARK} is damaged: {name!r} are no activations")
    layers = frames.read_frame(found / _LAYERS, ".parquet", write)
    if name == _ACTIVATIONS["netcdf"]:
        return Saved(layers, _chunked(netcdf.read_netcdf(found / name, write), chunks))
    return Saved(layers, _read_folder(found / name, chunks, write))


def _write_trace(trace: Any, path: str | os.PathLike[str], format: str, write: str) -> None:
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
    if Path(path).suffix == ".zarr":
        place = place_to_write(path, folder=True)
        _check_writable(activations)
        stores.write_zarr(activations, place, write, frames.frame_bytes(layers, write))
        return
    if Path(path).suffix.lower() in OF_FILES and not Path(path).is_dir():
        raise LensValueError(
            f"a trace is written to a folder, or a .zarr, not to a {Path(path).suffix}: give "
            f"{str(Path(path).with_suffix(''))!r}; or write one table, trace.layers or "
            "trace.activations"
        )
    file = _ACTIVATIONS[format]
    content = {
        "kind": _KIND, "version": 1, "write": write, "layers": _LAYERS, "activations": file,
    }  # fmt: skip
    with new_folder(place_to_write(path, folder=True), content) as folder:
        _write_layers(layers, folder / _LAYERS, ".parquet", write)
        _write_activations(activations, folder / file, Path(file).suffix, write)


def _write_layers(layers: pd.DataFrame, place: Path, kind: str, write: str) -> None:
    with new_file(place) as temporary:
        frames.write_frame(layers, temporary, kind, write)


def _write_activations(dataset: xr.Dataset, place: Path, kind: str, write: str) -> None:
    _check_writable(dataset)
    _WRITERS[kind](dataset, place, write)


def _check_writable(dataset: xr.Dataset) -> None:
    if stacked := [str(n) for n, i in dataset.indexes.items() if isinstance(i, pd.MultiIndex)]:
        raise LensTypeError(
            f"{', '.join(stacked)} are a MultiIndex, which no format has; use .reset_index first"
        )


def _kind(path: Path, what: str, kinds: Iterable[str]) -> str:
    if path.suffix not in kinds:
        raise LensValueError(
            f"{what} are written as {', '.join(kinds)}, not {path.suffix or path.name!r}"
        )
    return path.suffix


def _read_arrow_file(path: Path, chunks: Any) -> Any:
    """Layers or one activation; both are Arrow files."""
    with refused(path, "Arrow file"), pa.memory_map(str(path)) as source:
        schema = pa.ipc.open_file(source).schema
        columns = {*schema.names}  # whose bytes are text, or the file is damaged
    if packed.PACKED in (schema.metadata or {}):
        raise LensValueError(
            f"{path} has small arrays of a folder, without its coordinates; read {path.parent}"
        )
    if columns & {"op", "layer", "func", "parents"}:
        return frames.read_frame(path, ".arrow")
    return _chunked(arrow.tensor(path), chunks)


def _content(folder: Path) -> dict[str, Any]:
    """What a folder says of itself, after it was seen that all in it is its own."""
    if not (folder / MARK).exists():
        raise LensValueError(f"{folder} was not written by lensframe_pd: it has no {MARK}")
    with refused(folder / MARK, "account of a folder"):
        check_inside(folder)
        content = json.loads((folder / MARK).read_bytes())
        if not isinstance(content, dict) or content.get("kind") not in (_KIND, arrow.KIND):
            raise LensValueError(f"{folder / MARK} is not from lensframe_pd")
        versions = (1, arrow.PACKED_VERSION) if content["kind"] == arrow.KIND else (1,)
        if content.get("version") not in versions:
            raise LensValueError(
                f"{folder} has format version {content.get('version')}; this lensframe_pd reads "
                f"{', '.join(map(str, versions))}: install a newer one"
            )
        said = {name: value for name, value in content.items() if name != "checksum"}
        if content.get("checksum") != checksums.of_facts(said):
            raise LensValueError(f"{folder / MARK} is damaged: it is not what was written")
    return content


def _chunked(values: Any, chunks: Any) -> Any:
    if chunks is None:
        return values
    try:
        import dask  # noqa: F401
    except ImportError as error:
        raise LensRuntimeError("chunks need the package dask: pip install dask") from error
    if chunks == {} and isinstance(values, xr.Dataset):
        return _as_in_file(values)
    if isinstance(chunks, dict):
        chunks = {dim: n for dim, n in chunks.items() if dim in values.dims}
    return values.chunk(chunks, token=uuid.uuid4().hex)  # else dask reads all to name its tasks


def _as_in_file(dataset: xr.Dataset) -> xr.Dataset:
    """Each variable in the chunks it is stored in, or as one."""
    arrays = {
        name: array.chunk(array.encoding.get("preferred_chunks", {}), token=uuid.uuid4().hex)
        for name, array in dataset.items()
    }
    return dataset.assign(arrays)

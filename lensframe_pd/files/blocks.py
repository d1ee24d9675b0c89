"""A store that is filled block by block, as `lf.extract` does: its parts, and what of it is there.

A zarr v3 group. In the root are variables and coordinates, as in the stores that `lf.write` makes,
so that `xarray.open_zarr` opens it. In the group `lensframe` is what is said of it: as attributes
how many stimuli there are, how many a block has, what was planned and by which model; as arrays
the frame of layers (`layers`, the bytes of a Parquet file) and the `ledger`.

A block is a fixed number of stimuli, the last one maybe fewer; a chunk of a variable has a block of
stimuli, or a whole fraction of one. The ledger has an entry for each block, in a chunk of its own:
0 until the values of all variables for all stimuli of that block are written.

For who computes on an opened store:

- `lf.read(path)` gives the Dataset; `attrs["missing_stimuli"]` is how many stimuli had no values
  when it was opened, 0 for a finished store. Selecting variables keeps it.
- `missing_stimuli(dataset)` gives the number as it is known for any Dataset, `xarray.open_zarr`'s
  too; 0 where it is of no such store. `check_finished(dataset, verb)` raises where it is not 0.
- `dataset[name].encoding["chunks"]` has the chunk of a variable, along `stimulus` at its axis.
- `lf.read(path / "lensframe")` gives the layers of the first batch.
- Where no value was written yet, floats read as NaN, and other types as 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from lensframe_pd.errors import LensValueError, needs, shown
from lensframe_pd.files.damage import refused
from lensframe_pd.files.names import unpack_attrs
from lensframe_pd.files.stores import (
    AS_STORED,
    DIMS,
    GROUP,
    NAME,
    ORDER,
    restored_coordinate,
)
from lensframe_pd.schema import STIMULUS

LEDGER = "ledger"
BLOCKS = "lensframe_blocks"
"""The attribute of the root by which such a store is known: the version of what is said here."""
VERSION = 1
MISSING = "missing_stimuli"
N, BLOCK = "n", "block"
_ENTRY_BYTES = 8


class Ledger:
    """Which blocks of a store are there.

    Parameters
    ----------
    entries
        The zarr array: an entry a block.
    n
        How many stimuli there are.
    block
        How many a block has.
    """

    def __init__(self, entries: Any, n: int, block: int) -> None:
        self.entries, self.n, self.block = entries, n, block
        root = getattr(entries.store_path.store, "root", None)
        self._folder = Path(root, entries.path, "c") if isinstance(root, Path) else None

    def span(self, k: int) -> tuple[int, int]:
        """The first stimulus of a block, and the first after it."""
        return k * self.block, min(self.n, (k + 1) * self.block)

    def read(self) -> np.ndarray[Any, Any]:
        """The entries as they are now; 0 of a block that is not there."""
        if self._folder is None:
            return np.asarray(self.entries[:])
        found = np.zeros(self.entries.shape, np.int64)
        for k in self._files():  # zarr would ask for each that is not there, too
            found[k] = np.fromfile(self._folder / str(k), "<i8")[0]
        return found

    def done(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which blocks are there."""
        found = np.zeros(self.entries.shape, np.bool_)
        if self._folder is None:
            found[np.flatnonzero(self.read())] = True
        else:
            found[[*self._files()]] = True
        return found

    def _files(self) -> Iterator[int]:
        """The blocks that have an entry, which is never 0, in a file of its own."""
        assert self._folder is not None
        if self._folder.is_dir():
            for entry in os.scandir(self._folder):
                if entry.name.isdigit() and entry.stat().st_size == _ENTRY_BYTES:
                    yield int(entry.name)

    def missing(self) -> int:
        """How many stimuli have no values yet."""
        spans = [self.span(int(k)) for k in np.flatnonzero(~self.done())]
        return sum(end - start for start, end in spans)


def ledger_of(group: Any) -> Ledger:
    """The ledger of an opened zarr group."""
    said = group[GROUP].attrs
    return Ledger(group[f"{GROUP}/{LEDGER}"], int(said[N]), int(said[BLOCK]))


def ledger_at(store: Any) -> Ledger:
    """The ledger of a store."""
    import zarr

    return ledger_of(zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False))


def missing_stimuli(dataset: xr.Dataset) -> int:
    """How many stimuli of the store that a Dataset was opened from have no values.

    Of `lf.read` it is known since the store was opened; of `xarray.open_zarr` it is looked up.
    """
    if MISSING in dataset.attrs:
        return int(dataset.attrs[MISSING])
    source = dataset.encoding.get("source")
    if BLOCKS not in dataset.attrs or source is None:
        return 0
    return ledger_at(source).missing()


def check_finished(dataset: xr.Dataset, verb: str) -> None:
    """Raise where stimuli are missing.

    Raises
    ------
    LensValueError
        Saying how many, and how to have them.
    """
    missing = missing_stimuli(dataset)
    if missing:
        raise LensValueError(
            f"{verb}: {missing} stimuli are missing in this store, which is not finished; "
            "finish it with the same lf.extract(...) call, then lf.read it again"
        )


def is_blocks(store: Any) -> bool:
    """Whether this zarr store is one that is filled by blocks; whatever else it is, or is not."""
    import zarr

    try:
        return BLOCKS in zarr.open_group(store, mode="r", zarr_format=3).attrs
    except Exception:  # what is no store, or a damaged one, is for its own reader to say
        return False


def read_blocks(store: Any) -> xr.Dataset:
    """Open such a store, finished or not; values are read when they are used.

    Parameters
    ----------
    store
        A path, or any store of zarr's.

    Raises
    ------
    LensValueError
        It is damaged, or leads out of its folder.
    """
    needs("zarr", "zarr stores")
    import zarr

    where = place_of(store)
    with refused(Path(str(where)), "store of lf.extract"):
        if isinstance(where, Path):
            _check_inside(where)
        group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        ledger = ledger_of(group)
        opened: xr.Dataset = xr.open_dataset(
            store, engine="zarr", zarr_format=3, consolidated=False, **AS_STORED
        )
        gone = _gone(store, group)
        if gone:
            raise LensValueError(
                f"{where} is damaged: whole variables are gone, {shown(gone, 5)}; call lf.extract "
                "for another path"
            )
        lost = lost_chunks(where, group, ledger)
        if lost:
            raise LensValueError(_of_lost(where, lost))
        dataset = _as_given(opened, where, ledger)
    dataset.attrs[MISSING] = ledger.missing()
    return dataset


def _gone(store: Any, group: Any) -> list[str]:
    """Arrays that the store was made with, as its own list says, and that are not there."""
    import zarr

    made = zarr.open_group(store, mode="r", zarr_format=3).metadata.consolidated_metadata
    if made is None:
        return []
    there = {key for key, _ in group.arrays()}
    return sorted(key for key, said in made.metadata.items()
                  if "/" not in key and hasattr(said, "shape") and key not in there)  # fmt: skip


def lost_chunks(where: Path | str, group: Any, ledger: Ledger) -> dict[str, list[int]]:
    """Variables of which files of chunks are gone, and of which blocks in the ledger these are.

    zarr reads a chunk that is not there as if nothing had been written.
    """
    if not isinstance(where, Path):
        return {}
    there, found = np.flatnonzero(ledger.done()), dict[str, list[int]]()
    for key, array in group.arrays():
        names = array.metadata.dimension_names or ()
        if STIMULUS not in names or NAME not in array.attrs or array.size == 0:
            continue
        axis = names.index(STIMULUS)
        gone = [int(k) for k in there if not _has_block(where / key, array, axis, ledger, int(k))]
        if gone:
            found[str(array.attrs[NAME])] = gone
    return found


def _has_block(folder: Path, array: Any, axis: int, ledger: Ledger, block: int) -> bool:
    start, end = ledger.span(block)
    for k in range(start // array.chunks[axis], -(-end // array.chunks[axis])):
        place = ["0"] * array.ndim
        place[axis] = str(k)
        if not os.path.exists(os.path.join(folder, "c", *place)):
            return False
    return True


def _of_lost(where: Path | str, lost: dict[str, list[int]]) -> str:
    lines = [f"{name!r} lacks blocks {shown(blocks, 5)}" for name, blocks in lost.items()]
    return (
        f"{where} is damaged: files of chunks are gone; call lf.extract as before: it computes "
        "them again\n" + "\n".join(lines[:8])
    )


def place_of(store: Any) -> Path | str:
    """The folder of a store, as a Path; of one that is in no folder, its name."""
    if isinstance(store, (str, os.PathLike)):
        text = os.fspath(store)
        return str(text) if "://" in str(text) else Path(text)
    root = getattr(store, "root", None)
    return root if isinstance(root, Path) else str(store)


def _as_given(opened: xr.Dataset, where: Path | str, ledger: Ledger) -> xr.Dataset:
    """The Dataset under the names that its parts had, in their order."""
    old_dims = json.loads(opened.attrs[DIMS])
    keys = sorted(opened.variables, key=lambda name: int(opened.variables[name].attrs[ORDER]))
    data: dict[Hashable, xr.Variable] = {}
    coords: dict[Hashable, xr.Variable] = {}
    for key in keys:
        variable = opened.variables[key]
        facts, encoding = variable.attrs, variable.encoding
        if key in opened.coords:
            found = restored_coordinate(variable, np.asarray(variable.to_numpy()))
        else:
            guarded = Guarded(variable, where, facts[NAME], ledger)
            found = xr.Variable(variable.dims, indexing.LazilyIndexedArray(guarded))
            chunks = {k: encoding[k] for k in ("chunks", "preferred_chunks") if k in encoding}
            found.encoding = chunks
        found.dims = tuple(old_dims.get(d, d) for d in found.dims)
        if "preferred_chunks" in found.encoding:
            found.encoding["preferred_chunks"] = dict(
                zip(found.dims, found.encoding["chunks"], strict=True)
            )
        found.attrs = unpack_attrs(facts)
        if found.dtype.kind in "mM":
            found.attrs.pop("units", None)
        (coords if key in opened.coords else data)[facts[NAME]] = found
    whole = xr.Dataset(data, coords, unpack_attrs(opened.attrs))
    whole.set_close(opened.close)
    return whole


class Guarded(BackendArray):
    """The values of a variable in a store; where they are damaged the error says which, and what
    to do.
    """

    def __init__(self, stored: xr.Variable, where: Path | str, name: str, ledger: Ledger) -> None:
        self.stored, self.where, self.name = stored, where, name
        self.shape, self.dtype = stored.shape, stored.dtype
        self._n, self._block = ledger.n, ledger.block

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        try:
            return np.asarray(self.stored[key].to_numpy())
        except Exception as error:  # the codecs each have their own
            raise LensValueError(self._damage(error)) from error

    def _damage(self, error: Exception) -> str:
        what = f"{self.where}: {self.name!r} is damaged or was changed"
        if STIMULUS not in self.stored.dims:
            return f"{what}: {error}"
        bad = [k for k in self._blocks() if not self._is_readable(k)]
        entries = ", ".join(f"{GROUP}/{LEDGER}/c/{k}" for k in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        spans = ", ".join(
            f"{k * self._block} to {min(self._n, (k + 1) * self._block) - 1}" for k in bad[:5]
        )
        return (
            f"{what} at stimuli {spans}{more} (counted from 0): {error}; remove {entries}{more} in "
            "the store and call lf.extract as before: it computes them again"
        )

    def _blocks(self) -> Iterator[int]:
        yield from range(-(-self._n // self._block))

    def _is_readable(self, block: int) -> bool:
        axis = self.stored.dims.index(STIMULUS)
        part = slice(block * self._block, (block + 1) * self._block)
        try:
            self.stored[(slice(None),) * axis + (part,)].to_numpy()
        except Exception:
            return False
        return True


def _check_inside(folder: Path) -> None:
    """As `damage.check_inside`, of a folder that others may be writing to meanwhile."""
    root = os.path.realpath(folder)
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            if os.path.islink(path):
                target = os.path.realpath(path)
                if os.path.commonpath([root, target]) != root:
                    raise LensValueError(f"{path} leads out of {folder} and is not followed")

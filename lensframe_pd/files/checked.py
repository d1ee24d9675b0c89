"""Arrays in files that are compared with their checksum before their first value is used.

Small stores are checked when they are opened. Of a large one each array is checked, once and a slab
at a time, when something of it is first used: opening it reads no values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.backends.locks import SerializableLock
from xarray.core import indexing

from lensframe_pd.errors import LensValueError
from lensframe_pd.files import checksums
from lensframe_pd.files.damage import refused
from lensframe_pd.files.places import Stamp, stamp

AT_ONCE_BYTES = 2**28
"""Stores up to this size are checked as a whole when they are opened: some tenths of a second."""
_SLAB_BYTES = 2**24


class Checked(BackendArray):
    """The values of a variable in a file, as stored, under their checksum.

    Parameters
    ----------
    stored
        The variable, lazy.
    checksum
        CRC-32 of all its values.
    file
        What is replaced as a whole by another write: the file, or the metadata of the store.
    opened
        The stamp of `file` when it was opened. As long as it is that, values once checked are the
        ones checked; after another write they are compared again at each use. None of what is
        mapped: it stays what it is.
    """

    def __init__(
        self, stored: xr.Variable, checksum: int, file: Path, opened: Stamp | None
    ) -> None:
        self.stored, self.checksum, self.file, self.opened = stored, checksum, file, opened
        self.shape, self.dtype = stored.shape, stored.dtype
        self._is_checked = False
        self._lock = SerializableLock()  # else each thread of dask would check the whole

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.read
        )

    def read(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        """Values at a basic key, all having been checked."""
        with self._lock:
            before = self._stamp()
            if not self._is_checked or before != self.opened:
                if _is_whole(key, self.shape):  # then it need not be read twice
                    values = self._stored(key)
                    self._compare(checksums.of_array(values), before)
                    return values
                self.check()
        values = self._stored(key)
        if self._stamp() != self.opened:
            with self._lock:
                self.check()  # what was read may be of the other write, if its values differ
        return values

    def check(self) -> None:
        """Compare the whole with its checksum.

        Raises
        ------
        LensValueError
            It is another one: the file is damaged, or was replaced while it was open.
        """
        before, found = self._stamp(), 0
        for slab in _slabs(self.shape, self.dtype.itemsize, _first_chunk(self.stored)):
            found = checksums.of_array(self._stored(slab), found)
        self._compare(found, before)

    def _stored(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        with refused(self.file, "store of activations"):
            return np.asarray(self.stored[key].to_numpy())

    def _compare(self, found: int, before: Stamp | None) -> None:
        if found != self.checksum:
            raise LensValueError(
                f"{self.file} is damaged, or was replaced after it was opened: values are not "
                "those that were written; read it again"
            )
        self._is_checked = before == self.opened

    def _stamp(self) -> Stamp | None:
        return stamp(self.file) if self.opened else None


def check_small(arrays: Iterable[Checked]) -> None:
    """Check all now, unless they are large."""
    arrays = list(arrays)
    if is_small(arrays):
        for array in arrays:
            array.check()


def is_small(arrays: Iterable[Checked], more: int = 0) -> bool:
    """Whether these, and so many bytes more, are compared when they are opened."""
    nbytes = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
    return bool(nbytes + more <= AT_ONCE_BYTES)


def of_variable(variable: xr.Variable) -> int:
    """The checksum of values in memory or in a file, a slab at a time."""
    found = 0
    for slab in _slabs(variable.shape, variable.dtype.itemsize, _first_chunk(variable)):
        found = checksums.of_array(np.asarray(variable[slab].to_numpy()), found)
    return found


def _is_whole(key: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    return all(
        isinstance(part, slice) and part.indices(n) == (0, n, 1)
        for part, n in zip(key, shape, strict=False)  # axes left out are whole
    )


def _first_chunk(variable: xr.Variable) -> int:
    chunks = variable.encoding.get("chunks") or variable.encoding.get("preferred_chunks")
    if isinstance(chunks, dict):
        chunks = [chunks.get(d, n) for d, n in variable.sizes.items()]
    return max(1, int(chunks[0])) if chunks else 1


def _slabs(shape: tuple[int, ...], itemsize: int, chunk: int) -> Iterator[tuple[slice, ...]]:
    """Parts along the first axis, of whole chunks, that are read one after the other."""
    if not shape:
        yield ()
        return
    row = max(1, math.prod(shape[1:]) * itemsize)
    step = chunk * max(1, _SLAB_BYTES // (row * chunk))
    for start in range(0, shape[0], step):
        yield (slice(start, start + step),)

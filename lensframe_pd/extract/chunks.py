"""An array of a store that is written by whole chunks.

zarr's own way copies each chunk for its checksum and goes through an event loop, which together is
more than half of what writing costs. In a folder, uncompressed, a chunk is the bytes of its values
and their crc32c: here these are written as they are. The files are the same to the byte.
"""

from __future__ import annotations

import math
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from lensframe_pd.extract.cast import Array


class Chunks:
    """A zarr array, filled along one axis.

    Parameters
    ----------
    array
        The array.
    axis
        The axis of the stimuli.
    folder
        That of the store; None for a store that is in none.
    """

    def __init__(self, array: Any, axis: int, folder: Path | None) -> None:
        self.array, self.axis = array, axis
        self._per_chunk = array.chunks[axis]
        self._folder = folder and folder / array.path
        whole = all([c >= n for k, (c, n) in enumerate(zip(array.chunks, array.shape, strict=True))
                     if k != axis])  # fmt: skip
        self._is_plain = folder is not None and whole and _only_checksum(array)

    def write(self, start: int, values: Array, sync: bool) -> None:
        """Write values from a stimulus on: whole chunks, the last of all maybe less."""
        if not self._is_plain or not values.size:
            region = (slice(None),) * self.axis + (slice(start, start + values.shape[self.axis]),)
            self.array[region] = values
            if sync and self._folder is not None:
                self._flush(start, values.shape[self.axis])
            return
        for first in range(0, values.shape[self.axis], self._per_chunk):
            part = (slice(None),) * self.axis + (slice(first, first + self._per_chunk),)
            self._write_chunk((start + first) // self._per_chunk, values[part], sync)

    def _write_chunk(self, k: int, values: Array, sync: bool) -> None:
        import google_crc32c

        path = self._path(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = self._padded(values)
        if sys.byteorder == "big":
            values = values.astype(values.dtype.newbyteorder("<"))
        content: Any = values.reshape(-1).view(np.uint8)
        checksum = google_crc32c.value(content).to_bytes(4, "little")
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # as zarr names them
        try:
            with open(partial, "wb", buffering=0) as file:
                _write_all(file, content.data)
                _write_all(file, memoryview(checksum))
                if sync:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if sync:
            flush_folders(path, self._folder)

    def _padded(self, values: Array) -> Array:
        """As many as a chunk has, contiguous: beyond the end is the array's fill."""
        shape = tuple(self.array.chunks)
        if values.shape == shape:
            return np.ascontiguousarray(values, self.array.dtype)
        whole = np.full(shape, self.array.fill_value, self.array.dtype)
        whole[tuple([slice(n) for n in values.shape])] = values
        return whole

    def _path(self, k: int) -> Path:
        assert self._folder is not None
        place = ["0"] * len(self.array.chunks)
        place[self.axis] = str(k)
        return self._folder.joinpath("c", *place)

    def _flush(self, start: int, n: int) -> None:
        for k in range(start // self._per_chunk, -(-(start + n) // self._per_chunk)):
            path = self._path(k)
            if path.exists():
                flush(path)
                flush_folders(path, self._folder)


def chunk_files(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """How many chunks an array has."""
    return math.prod([-(-n // c) for n, c in zip(shape, chunk, strict=True)])


def _only_checksum(array: Any) -> bool:
    from zarr.codecs import BytesCodec, Crc32cCodec

    bare = not array.filters and isinstance(array.serializer, BytesCodec)
    one = len(array.compressors) == 1 and isinstance(array.compressors[0], Crc32cCodec)
    return bare and one and array.dtype.kind in "biufc" and array.dtype.byteorder != ">"


def _write_all(file: Any, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]  # of a large block the system may take a part


def flush(path: Path) -> None:
    """Have a file or folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folders(path: Path, top: Path | None) -> None:
    """The folders from a file up to its array, in which it may be new."""
    for place in path.parents:
        flush(place)
        if place == top:
            break

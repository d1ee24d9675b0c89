"""Layers that lie in a store: read by blocks of stimuli, in the memory that is given for it.

What xarray opened stands for values that nobody has read. Dask reads them chunk by chunk, and a
layer that is larger than the memory is read block by block: `RowBlocks` is such a layer as a
matrix, and knows how many stimuli a block may have and in which order pairs of blocks are read.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core import indexing

from lensframe_pd.bars import bar
from lensframe_pd.errors import LensTypeError, LensValueError, needs
from lensframe_pd.quantities import quantity
from lensframe_pd.rsa.view import variables
from lensframe_pd.schema import STIMULUS

DEFAULT_MEMORY = 10**9
_CHUNK_BYTES = 2**24
"""Of what was stored in no chunks of its own."""
_FOR_BLOCKS = 0.6
"""Part of the memory that the two blocks of a pair take; the rest is for what is made of them."""
_FOR_CHUNK = 1 / 4
"""Part of the memory that a chunk may take beside two blocks."""
_FOR_READING = 1 / 16
"""Part of the memory that is read at a time; it is there twice or three times meanwhile."""
Made = TypeVar("Made")


def memory_of(memory: Any) -> int:
    """`memory=` in bytes: a number, or a text such as "500 MB".

    Raises
    ------
    LensTypeError
        It is neither.
    LensValueError
        It is no size, or not above 0.
    """
    if isinstance(memory, str):
        needs("dask", "sizes as text")
        from dask.utils import parse_bytes

        try:
            memory = parse_bytes(memory)
        except ValueError:
            raise LensValueError(
                f"memory={memory!r} is no size; give bytes, or a text such as '500 MB'"
            ) from None
    if isinstance(memory, bool) or not isinstance(memory, (int, float, np.number)):
        raise LensTypeError(f"memory is a number of bytes or a text as '1 GB', not {memory!r}")
    if not 0 < memory < math.inf:
        raise LensValueError(f"memory is a number of bytes above 0, not {memory}")
    return int(memory)


def opened(dataset: xr.Dataset, least: int = 0) -> xr.Dataset:
    """The Dataset with what was not read yet as Dask arrays, in the chunks of the file.

    Without Dask it stays as it is, and is read whole when it is used.

    Parameters
    ----------
    dataset
        Activations.
    least
        Bytes; what is smaller stays as it is.
    """
    unread = [
        name for name, variable in variables(dataset)
        if variable.nbytes >= least and _is_unread(variable)
    ]  # fmt: skip
    if not unread or not _has_dask():
        return dataset
    # Without a token Dask would read all values to name its tasks.
    chunked = {
        name: dataset[name].chunk(_chunks(dataset[name]), token=uuid.uuid4().hex) for name in unread
    }
    return dataset.assign(chunked)


def is_chunked(array: xr.DataArray) -> bool:
    """Whether its values are Dask's to compute."""
    return array.variable.chunks is not None


def _is_unread(variable: xr.Variable) -> bool:
    return isinstance(variable._data, indexing.ExplicitlyIndexed) and not variable._in_memory


def _has_dask() -> bool:
    try:
        import dask.array  # noqa: F401
    except ImportError:
        return False
    return True


def _chunks(array: xr.DataArray) -> dict[Any, int]:
    stored = array.encoding.get("preferred_chunks")
    if stored:
        return {dim: size for dim, size in stored.items() if dim in array.dims}
    if STIMULUS not in array.dims:
        return {}
    one = max(1, array.nbytes // max(1, array.sizes[STIMULUS]))
    return {STIMULUS: max(1, _CHUNK_BYTES // one)}


class Block(NamedTuple, Generic[Made]):
    """Some rows of a matrix, and what was made of them."""

    rows: slice
    made: Made


class RowBlocks:
    """A matrix in a store, stimulus x feature.

    Parameters
    ----------
    data
        The matrix as a Dask array; or in memory, where it is used beside such.
    of
        What it is called in messages.
    memory
        Bytes that working on it may take.
    row_bytes
        Of one stimulus as it is stored, which is more than a row of what is pooled from it.
    """

    def __init__(self, data: Any, of: str, memory: int, row_bytes: int) -> None:
        self.data, self.of, self.memory, self.row_bytes = data, of, memory, row_bytes
        self.shape: tuple[int, int] = data.shape
        self.dtype: np.dtype[Any] = data.dtype
        self.rows_read = 0
        """Of whole chunks, again and again; over `shape[0]`, how often the store was read."""
        chunks = data.chunks[0] if hasattr(data, "chunks") else (1,) * len(data)
        self._borders = np.cumsum([0, *chunks])
        self._largest = max(chunks, default=0), max(chunks, default=0) * row_bytes
        self._check_chunk(_FOR_BLOCKS)
        one = max(1, row_bytes, 8 * self.shape[1])
        self._at_once = max(1, int(memory * _FOR_READING / one))

    def spans(self, itemsize: int | None = None, share: float = _FOR_BLOCKS) -> list[slice]:
        """Blocks of rows: one if all take no more than a share of the memory, else two do.

        They end where chunks do, as what is read of a chunk is all of it.

        Parameters
        ----------
        itemsize
            Bytes of an element as it is held; None for as it is stored.

        Raises
        ------
        LensValueError
            Not even two rows have room.
        """
        one = max(1, self.shape[1] * (itemsize or self.dtype.itemsize))
        if self.shape[0] * one <= share * self.memory:
            return self.cut(max(1, self.shape[0]))
        most = int(share * self.memory / 2 / one)
        if not most:
            raise LensValueError(
                f"two stimuli of {self.of} take {quantity(2 * one, 'B')}; give more memory=, such "
                f"as {math.ceil(4 * one / share)}, or pool="
            )
        return self.cut(most)

    def cut(self, most: int) -> list[slice]:
        """Blocks of at most so many rows, of about one size.

        Raises
        ------
        LensValueError
            They are several, and a chunk, of which all is read for any of it, has no room.
        """
        n = self.shape[0]
        if most < n:
            self._check_chunk(_FOR_CHUNK)
        size = -(-n // max(1, -(-n // most)))
        spans, start = list[slice](), 0
        while start < n:
            ends = self._borders[(self._borders > start) & (self._borders <= start + most)]
            # the border nearest to equal parts; within a chunk that is larger than a block
            end = int(ends[np.abs(ends - start - size).argmin()]) if len(ends) else start + size
            spans.append(slice(start, min(n, end)))
            start = spans[-1].stop
        return spans

    def read(self, rows: slice, prepare: Callable[[Any], Any] = np.asarray) -> Any:
        """Some rows, each part of them prepared when it is read."""
        parts = self._parts(rows)
        first = prepare(self._read(parts[0]))
        if len(parts) == 1:
            return first
        out = np.empty((rows.stop - rows.start, *first.shape[1:]), first.dtype)
        out[: len(first)] = first
        del first
        for part in parts[1:]:
            out[part.start - rows.start : part.stop - rows.start] = prepare(self._read(part))
        return out

    def blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """All rows once, some at a time."""
        for part in self._parts(slice(0, self.shape[0])):
            yield part, self._read(part)

    def prepared(self, prepare: Callable[[Any], Any], n_features: int) -> RowBlocks:
        """The same rows, each block of them prepared when it is read: so many floats a row."""
        whole = self.data.rechunk({1: -1})
        chunks = (whole.chunks[0], (n_features,))
        made = whole.map_blocks(prepare, dtype=np.float64, chunks=chunks, meta=np.empty((0, 0)))
        return RowBlocks(made, self.of, self.memory, self.row_bytes + 8 * n_features)

    def each_pair(
        self,
        spans: list[slice],
        make: Callable[[slice], Made],
        use: Callable[[Block[Made], Block[Made]], None],
    ) -> None:
        """Use each pair of blocks once, the later one first, and each block with itself.

        Two blocks are held at a time. Most pairs have one of the pair before: of N blocks
        (N**2 - N) / 2 + 1 are made, so that the store is read (N - 1) / 2 + 1 / N times.
        """
        other: Block[Made] | None = None
        n = len(spans)
        with bar("pairs of blocks", n * (n + 1) // 2, "pairs") as progress:
            for i, rows in enumerate(spans):
                own = Block(rows, make(rows))
                use(own, own)
                progress.update()
                for j in range(i - 1, -1, -1):
                    if other is None or other.rows != spans[j]:
                        other = None  # before the next is made, as three have no room
                        other = Block(spans[j], make(spans[j]))
                    use(own, other)
                    progress.update()
                other = own

    def _check_chunk(self, share: float) -> None:
        n, nbytes = self._largest
        if nbytes > share * self.memory:
            raise LensValueError(
                f"{self.of} is stored in chunks of {n} stimuli, {quantity(nbytes, 'B')}, of which "
                f"one is read at a time; give more memory=, such as {math.ceil(8 * nbytes)}, or "
                "write it in smaller chunks"
            )

    def _parts(self, rows: slice) -> list[slice]:
        parts, start = list[slice](), rows.start
        while start < rows.stop:
            after = self._borders[(self._borders > start) & (self._borders <= rows.stop)]
            within = after[after <= start + self._at_once]
            # one chunk at least, or what of it is asked for
            end = int(within[-1]) if len(within) else int(after[0]) if len(after) else rows.stop
            parts.append(slice(start, end))
            start = end
        return parts

    def _read(self, rows: slice) -> NDArray[Any]:
        first = self._borders[self._borders <= rows.start][-1]
        last = self._borders[self._borders >= rows.stop][0]
        self.rows_read += int(last - first)
        return np.asarray(self.data[rows])

"""Many small activations in few Arrow tables, one per dtype: a row each, its values a list.

A file has a price whatever it holds: a third of a millisecond to open, several to have on disk, and
a system gives a process some 65,000 mappings. So small variables are rows where there are many:
`name`, `dims`, `shape`, `attrs` as JSON, `crc32`, the `place` in the Dataset, and `value`, the
numbers in C order (booleans as bytes, complex numbers as pairs of real ones). Any reader of Arrow
opens them; ours maps them, and each array is a part of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xarray as xr

from lensframe_pd.errors import LensValueError
from lensframe_pd.files import checksums
from lensframe_pd.files.assembled import variable_of
from lensframe_pd.files.cells import tuples
from lensframe_pd.files.damage import inside

PACKED = b"lensframe_packed"
"""The entry of a schema that tells such a table; it holds the id of the write."""
_MANY = 256
_SMALL_BYTES = 2**16
_BATCH_BYTES = 2**24
_IN_ARROW = frozenset("?bhilqBHILQefdFD")
_FACTS = ("name", "place", "dims", "shape", "attrs", "crc32")
_TYPES = {
    "name": pa.large_string(), "place": pa.int64(), "dims": pa.list_(pa.string()),
    "shape": pa.list_(pa.int64()), "attrs": pa.large_string(), "crc32": pa.uint32(),
}  # fmt: skip


class Stored(NamedTuple):
    """A row: a variable, where it stands in its Dataset, its values, and their checksum."""

    name: str
    place: int
    variable: xr.Variable
    values: np.ndarray[Any, Any]
    checksum: int


def to_pack(variables: Mapping[Any, xr.Variable]) -> list[Any]:
    """The names of those that are small, if there are many of them."""
    small = [name for name, variable in variables.items() if _is_small(variable)]
    return small if len(small) > _MANY else []


def _is_small(variable: xr.Variable) -> bool:
    dtype = variable.dtype
    return dtype.char in _IN_ARROW and dtype.isnative and variable.nbytes <= _SMALL_BYTES


def write_packed(
    variables: Iterable[tuple[int, str, xr.Variable, str]], folder: Path, write: str
) -> list[dict[str, Any]]:
    """Write variables as rows of a file per dtype.

    Parameters
    ----------
    variables
        Of each its place, name, the variable (its values may be lazy), and its attributes as JSON.
    folder
        Where the files go.
    write
        The id of this write, which every file has.

    Returns
    -------
    list of dict
        What the folder says of its files: their name, dtype and checksum.
    """
    tables: dict[str, _Table] = {}
    with ExitStack() as stack:
        for place, name, variable, attrs in variables:
            values = np.ascontiguousarray(variable.values)
            dtype = values.dtype.str
            if dtype not in tables:
                path = folder / f"packed.{values.dtype.name}.arrow"  # no stored name has a dot
                tables[dtype] = _Table(path, values.dtype, write, stack)
            row = (name, place, variable.dims, variable.shape, attrs, checksums.of_array(values))
            tables[dtype].add(row, values)
        return [table.ended() for table in tables.values()]


class _Table:
    """A file that takes rows and writes them in batches."""

    def __init__(self, path: Path, dtype: np.dtype[Any], write: str, stack: ExitStack) -> None:
        self.path, self.dtype = path, dtype
        self.element = pa.from_numpy_dtype(_as_numbers(np.empty(0, dtype)).dtype)
        fields = [pa.field(name, _TYPES[name]) for name in _FACTS]
        value = pa.field("value", pa.large_list(self.element))
        self.schema = pa.schema([*fields, value], metadata={PACKED: write})
        sink = stack.enter_context(pa.OSFile(str(path), "wb"))
        self.writer = stack.enter_context(pa.ipc.new_file(sink, self.schema))
        self.rows: list[tuple[Any, ...]] = []
        self.values: list[np.ndarray[Any, Any]] = []
        self.nbytes = 0
        self.facts: list[pa.RecordBatch] = []

    def add(self, row: tuple[Any, ...], values: np.ndarray[Any, Any]) -> None:
        self.rows.append(row)
        self.values.append(_as_numbers(values))
        self.nbytes += values.nbytes
        if self.nbytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        ends = np.cumsum([0, *(part.size for part in self.values)])
        numbers = pa.array(np.concatenate(self.values), self.element)
        columns = [
            pa.array(cells, _TYPES[name])
            for name, cells in zip(_FACTS, zip(*self.rows, strict=True), strict=True)
        ]
        columns.append(pa.LargeListArray.from_arrays(ends, numbers))
        batch = pa.record_batch(columns, schema=self.schema)
        self.writer.write_batch(batch)
        self.facts.append(batch.select([*_FACTS]))
        self.rows, self.values, self.nbytes = [], [], 0

    def ended(self) -> dict[str, Any]:
        """What the folder says of it, all being written."""
        if self.rows:
            self._flush()
        checksum = checksums.of_table(pa.Table.from_batches(self.facts))
        return {"file": self.path.name, "dtype": self.dtype.str, "checksum": checksum}


def read_packed(folder: Path, entry: dict[str, Any], write: str) -> Iterator[Stored]:
    """The variables of a file, mapped, their values not yet compared with their checksums.

    Raises
    ------
    LensValueError
        It is of another write, or what it says of its arrays is not what was written.
    """
    path = inside(folder, entry["file"])
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    if (table.schema.metadata or {}).get(PACKED) != write.encode():
        raise LensValueError(f"{path} is of another write than the rest of its folder")
    table.validate(full=True)
    if entry["checksum"] != checksums.of_table(table.select([*_FACTS])):
        raise LensValueError(f"{path} is damaged: what it says of arrays is not what was written")
    dtype = np.dtype(entry["dtype"])
    for batch in table.to_batches():
        yield from _rows(batch, dtype)


def _rows(batch: Any, dtype: np.dtype[Any]) -> Iterator[Stored]:
    cells = {name: tuples(batch[name]) for name in _FACTS}
    attrs = json.loads(f"[{','.join(cells['attrs'])}]")  # at once: a tenth of the time
    lists = batch["value"]
    numbers = lists.values.to_numpy(zero_copy_only=True).view(dtype)
    pair = 2 if dtype.kind == "c" else 1
    ends = (lists.offsets.to_numpy() // pair).tolist()
    dims = {found: found for found in cells["dims"]}  # many rows have the same: one of each
    for k, (name, place, checksum) in enumerate(
        zip(cells["name"], cells["place"], cells["crc32"], strict=True)
    ):
        values = numbers[ends[k] : ends[k + 1]].reshape(cells["shape"][k])
        variable = variable_of(dims[cells["dims"][k]], values, attrs[k])
        yield Stored(name, place, variable, values, checksum)


def _as_numbers(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """One axis of what Arrow has a type for."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "c":
        return flat.view(flat.real.dtype)
    return flat.view(np.uint8) if flat.dtype.kind == "b" else flat

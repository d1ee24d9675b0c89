"""Checksums of what is in a file, not of its bytes: damage is told from what changes nothing."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_IS_LITTLE = sys.byteorder == "little"


def of_array(values: np.ndarray[Any, Any], before: int = 0) -> int:
    """CRC-32 of numbers in C order, as little-endian bytes; `before` is that of what precedes.

    Examples
    --------
    >>> numbers = np.arange(6.0).reshape(2, 3)
    >>> of_array(numbers[1:], of_array(numbers[:1])) == of_array(numbers)
    True
    """
    if not (values.dtype.isnative and _IS_LITTLE):  # to ask for an order costs as much as the rest
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    data: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return zlib.crc32(data, before)


def of_facts(facts: Any) -> str:
    """SHA-256 of what JSON can say, whatever NumPy type a format gives its numbers."""
    plain = json.loads(json.dumps(facts, default=lambda value: value.tolist()))  # names as text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode("ascii")).hexdigest()


def of_table(table: pa.Table, without: bytes = b"") -> str:
    """SHA-256 of the cells, names and metadata of a table, except the entry `without`.

    Equal for tables that are equal, in whichever chunks, dictionaries and buffers they are.
    """
    found = hashlib.sha256()
    for name, column in zip(table.column_names, table.unify_dictionaries().columns, strict=True):
        found.update(name.encode())
        for part in _parts(column.combine_chunks()):
            found.update(part)
    for key, value in sorted((table.schema.metadata or {}).items()):
        if key not in (without, b"ARROW:schema"):  # Arrow's own, which only Parquet has
            found.update(key + b"=" + value)
    return found.hexdigest()


def _parts(array: Any) -> Iterator[Any]:
    """The cells as bytes: how many, which are missing, and their values."""
    yield b"%d;" % len(array)
    if pa.types.is_null(array.type):
        return
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        yield array.is_null().to_numpy(zero_copy_only=False)
    yield from _reader(array.type)(array)


def _reader(kind: Any) -> Callable[[Any], Iterator[Any]]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers
    return _others


def _lists(array: Any) -> Iterator[Any]:
    yield _numpy(pc.list_value_length(array).cast(pa.int64()))
    yield from _parts(array.flatten())


def _texts(array: Any) -> Iterator[Any]:
    array = array.fill_null("").cast(pa.large_string())
    _, ends, text = array.buffers()
    if len(array):
        at = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
        yield np.diff(at)
        yield memoryview(text or b"")[at[0] : at[-1]]


def _numbers(array: Any) -> Iterator[Any]:
    yield str(array.type).encode()
    yield _numpy(array)


def _others(array: Any) -> Iterator[Any]:
    yield repr(array.to_pylist()).encode()


def _numpy(array: Any) -> np.ndarray[Any, Any]:
    nothing = False if pa.types.is_boolean(array.type) else 0
    values = array.fill_null(nothing) if array.null_count else array
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False))

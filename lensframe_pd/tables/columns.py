"""Columns of a frame as they are made: what is distinct in them, and the arrays made of that.

Most columns repeat a few cells. Each is then made once, and NumPy and Arrow spread them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lensframe_pd.cells import text_array
from lensframe_pd.schema import CELLS

_TUPLE_COLUMNS = frozenset(c for c, kind in CELLS.items() if kind in ("texts", "counts", "shapes"))
_LARGE = pa.large_string()
_FEW = 1000  # cells: what is kept takes little memory
_MANY = 150  # texts, from which on it is quicker to have Arrow repeat those that come again
_NUMBERS = {"count": np.int64, "seconds": np.float64, "flag": np.bool_}
_LISTED: dict[Any, Any] = {np.int64: int, np.float64: float, np.bool_: bool}
_DTYPES = {column: _NUMBERS[kind] for column, kind in CELLS.items() if kind in _NUMBERS}

Numbers = np.ndarray[Any, np.dtype[np.intp]]


class Sparse(NamedTuple):
    """A column in which most cells are alike: only the others are written one by one."""

    usual: Any
    others: Mapping[int, Any]
    n: int


class Kinds(NamedTuple):
    """A column in which cells come again: each once, and which of them each row has."""

    cells: Sequence[Any]
    which: Numbers

    def listed(self) -> list[Any]:
        return [*map(self.cells.__getitem__, self.which.tolist())]


Listed = Sequence[Any] | Kinds
Column = Listed | Sparse


def told_apart(cells: Iterable[Any]) -> tuple[list[Any], Numbers]:
    """Each of these once, and which of them each is."""
    numbers: defaultdict[Any, int] = defaultdict(count().__next__)
    which = np.fromiter(map(numbers.__getitem__, cells), np.intp)
    return [*numbers], which


def numbers_at(rows: Sequence[int], n: int, numbers: Any = 1) -> Numbers:
    """The numbers of `n` rows: 0 but for these."""
    found = np.zeros(n, np.intp)
    found[rows] = numbers
    return found


def decided(
    names: Iterable[str], kinds: Sequence[tuple[Any, ...]], which: Numbers
) -> dict[str, Kinds]:
    """Columns that are decided together: of each kind the cells, and which kind each row is."""
    columns = zip(names, zip(*kinds, strict=True), strict=True)
    return {name: Kinds(cells, which) for name, cells in columns}


def spread(of_calls: Listed, calls: Numbers) -> Listed:
    """The column of rows, of that of the calls that made them."""
    if isinstance(of_calls, Kinds):
        return of_calls._replace(which=of_calls.which.take(calls))
    return [of_calls[call] for call in calls.tolist()]


def cells_in(name: str, column: Column) -> list[Any]:
    """As the array made of it would be listed."""
    if isinstance(column, Sparse):
        listed = [column.usual] * column.n
        for i, cell in column.others.items():
            listed[i] = cell
    elif isinstance(column, Kinds):
        listed = column.listed()
    else:
        listed = [*column]
    return [*map(_LISTED[_DTYPES[name]], listed)] if name in _DTYPES else listed


def array_of(name: str, cells: Column) -> Any:
    """The array that a frame holds of the column of this name."""
    if isinstance(cells, Sparse):
        return _sparse_array(name, *cells)
    if isinstance(cells, Kinds):
        return _array_of_kinds(name, cells)
    if name in _TUPLE_COLUMNS:
        return np.fromiter(cells, dtype=object, count=len(cells))
    if isinstance(cells, range):
        return np.arange(cells.start, cells.stop, dtype=_DTYPES[name])
    is_repeated = len(cells) > 1 and cells[0] is cells[-1] and cells.count(cells[0]) == len(cells)
    if name in _DTYPES:
        dtype = _DTYPES[name]
        if is_repeated:
            return np.full(len(cells), cells[0], dtype)
        return np.fromiter(cells, dtype=dtype, count=len(cells))
    return _repeated(str(cells[0]), len(cells)) if is_repeated else text_array(cells)


def _array_of_kinds(name: str, column: Kinds) -> Any:
    cells, which = column
    if name in _DTYPES or name in _TUPLE_COLUMNS:
        return array_of(name, cells).take(which)
    if len(cells) == 1:
        return _repeated(cells[0], len(which))
    if len(which) < max(_MANY, 2 * len(cells)):
        return array_of(name, column.listed())
    return text_array(pa.array(cells, _LARGE).take(pa.array(which)))


def _sparse_array(name: str, usual: Any, others: Mapping[int, Any], n: int) -> Any:
    if name not in _DTYPES and name not in _TUPLE_COLUMNS:
        if not others:
            return _repeated(usual, n)
        kinds, numbers = told_apart([usual, *others.values()])
        return _array_of_kinds(name, Kinds(kinds, numbers_at([*others], n, numbers[1:])))
    array: np.ndarray[Any, Any] = np.empty(n, dtype=_DTYPES.get(name, object))
    array.fill(usual)  # of a tuple, too, each cell gets the whole
    for i, cell in others.items():
        array[i] = cell
    return array


def _repeated(cell: str, n: int) -> Any:
    return _few_repeated(cell, n).view() if n <= _FEW else _repeat(cell, n)


@lru_cache(maxsize=256)
def _few_repeated(cell: str, n: int) -> Any:
    """Made once: several columns of every frame are alike, and Arrow's arrays never change."""
    return _repeat(cell, n)


def _repeat(cell: str, n: int) -> Any:
    return text_array(pa.chunked_array([pa.repeat(pa.scalar(cell, _LARGE), n)]))

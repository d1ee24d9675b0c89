"""The cells of frames as Python's values, and frames of arrays that are already what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any
from weakref import ref

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionArray

from lensframe_pd.errors import LensTypeError

#: The type of text in pandas, whatever the version makes of text by itself.
TEXT = pd.StringDtype(na_value=np.nan)

Rows = dict[str, dict[str, Any]]
"""Op label to its cells; sequence cells are tuples."""


def names(column: str, cell: Any) -> tuple[str, ...]:
    """A sequence cell as a tuple; a tuple in memory is a list or an array once read from a file.

    Raises
    ------
    LensTypeError
        The cell is no sequence.
    """
    if type(cell) is tuple and _TEXTS_ONLY.issuperset(map(type, cell)):
        return cell  # one may hold tens of thousands
    if isinstance(cell, str) or not isinstance(cell, Iterable):
        raise LensTypeError(
            f"{column} holds {cell!r} where a sequence of names belongs; formats that turn "
            "sequences into text (CSV) lose the graph: use to_parquet or to_feather"
        )
    return tuple(str(name) for name in cell)


_TEXTS_ONLY = frozenset((str,))
_OF_PYTHON = frozenset((str, int, float, bool, type(None)))
_TUPLES = frozenset((tuple,))


def plain(cell: Any) -> Any:
    """A cell as traced: sequences as tuples, NumPy's scalars as Python's."""
    if type(cell) is tuple and _OF_PYTHON.issuperset(map(type, cell)):
        return cell
    if isinstance(cell, (list, tuple, np.ndarray)):
        return tuple(plain(c) for c in cell)
    return cell.item() if isinstance(cell, np.generic) else cell


def plain_cells(column: pd.Series[Any] | ExtensionArray | np.ndarray[Any, Any]) -> list[Any]:
    """The cells of a column, each as `plain` gives it."""
    is_text = isinstance(column.dtype, pd.StringDtype)
    cells = listed(getattr(column, "array", column) if is_text else column)
    if is_text or (isinstance(column.dtype, np.dtype) and column.dtype != object):
        return cells
    return each_plain(cells)


def each_plain(cells: Sequence[Any]) -> list[Any]:
    """As `plain` gives each cell."""
    if {*map(type, cells)} == _TUPLES and _OF_PYTHON.issuperset(
        map(type, chain.from_iterable(cells))
    ):
        return [*cells]  # as of most columns
    once = {id(cell): cell for cell in cells}  # rows share cells: `()`, the stack of one module
    made = {key: plain(cell) for key, cell in once.items()}
    return [made[id(cell)] for cell in cells]


def cells_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[Any]]:
    """The cells of these columns as traced, column by column."""
    if len(frame) <= _FEW:
        return [[*map(plain, cells)] for cells in raw_cells(frame, columns)]
    # as arrays: pandas would make a Series of each column, and copy the attrs with it
    arrays = dict(zip(frame.columns, frame._iter_column_arrays(), strict=True))  # type: ignore[operator]
    return [plain_cells(arrays[name]) for name in columns]


def raw_cells(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[Any]]:
    """The cells of these columns as they are, column by column."""
    # Of arrays: a Series would be made with its name, its attrs and its iterator.
    anything: Any = frame
    places, of = places_of(frame.columns), anything._get_column_array
    return [listed(of(places[name])) for name in columns]


def places_of(columns: pd.Index) -> dict[Any, int]:
    """Where the columns of these names are.

    The last that were asked are kept: an Index never changes, and rows are taken again and again.
    pandas' own table is dearer to make.
    """
    known = _known.get(id(columns))
    if known is None or known[0]() is not columns:
        is_flat = not isinstance(columns, pd.MultiIndex)
        names = listed(columns.array) if is_flat else [*columns]
        known = ref(columns), dict(zip(names, range(len(names)), strict=True))
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[id(columns)] = known
    return known[1]


_known: dict[int, tuple[Callable[[], pd.Index | None], dict[Any, int]]] = {}
_MOST_KNOWN = 64


def listed(array: Any) -> list[Any]:
    """The cells of an array as they are; of text as Arrow lists them, in a third of the time."""
    found: list[Any]
    cells = array.__arrow_array__() if type(array) is _TEXTS else None
    if cells is not None and not cells.null_count:
        found = texts(cells)
    else:
        found = array.tolist()
    return found


def texts(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Arrow's texts as Python's; of a long array that repeats itself, those that are alike as one.

    Most of a large frame's texts are a few names: each cell's own would take a hundred bytes.

    Examples
    --------
    >>> texts(pa.array(["relu", None]))
    ['relu', None]
    """
    if len(array) <= _MANY or len(array[:_MANY].unique()) > _MANY // 2:
        return list(array.to_pylist())
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    encoded = whole.dictionary_encode()
    distinct = [*encoded.dictionary.to_pylist(), None]  # the last is that of what is missing
    return [*map(distinct.__getitem__, encoded.indices.fill_null(-1).to_numpy().tolist())]


_MANY = 1000
"""Texts, from which on it is looked whether they repeat; the first so many tell."""


def text_array(cells: Any) -> Any:
    """Texts as the array that a column, or an index, of a frame holds."""
    if not isinstance(cells, (pa.Array, pa.ChunkedArray)):
        cells = pa.array(cells, pa.large_string())
    return TEXT.__from_arrow__(cells)  # type: ignore[attr-defined]


def frame_of(columns: pd.Index, arrays: Sequence[Any], ops: Any) -> pd.DataFrame:
    """A frame of arrays that are of one length, and of the types that it is to have.

    The public constructors look at each array again, at a tenth of a small trace's whole cost.
    """
    index = pd.Index._simple_new(ops, name="op")  # type: ignore[attr-defined]
    return pd.DataFrame._from_arrays(  # type: ignore[attr-defined, no-any-return]
        [*arrays], columns=columns, index=index, verify_integrity=False
    )


_TEXTS: Any = type(pd.array(["a"], dtype=TEXT))
_FEW = 4
"""Rows whose columns are sooner looked up by name than all taken."""


@dataclass(frozen=True)
class Cells:
    """The cells of a frame as traced, column by column."""

    ops: list[str]
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, frame: pd.DataFrame, ops: list[str], columns: Iterable[str]) -> Cells:
        """Those of some columns of a frame."""
        names = [*columns]
        return cls(ops, dict(zip(names, cells_of(frame, names), strict=True)))

    @cached_property
    def rows(self) -> Rows:
        """The same row by row, by label; the last row where a label comes twice."""
        rows = zip(*self.columns.values(), strict=True)
        return {
            op: dict(zip(self.columns, row, strict=True))
            for op, row in zip(self.ops, rows, strict=True)
        }

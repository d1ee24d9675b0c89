"""Lists in Arrow columns as tuples, a column at a time: cells one by one cost twenty times that."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lensframe_pd.cells import plain, texts


def tuples(column: Any) -> list[Any]:
    """The cells of a column of lists as tuples, lists in lists too; None where one is missing.

    Parameters
    ----------
    column
        An Arrow array or chunked array.

    Examples
    --------
    >>> tuples(pa.array([[[2, 3], []], [], None]))
    [((2, 3), ()), (), None]
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not _is_list(array.type):
        return _others(array)
    cells = tuples(array.flatten())
    ends = array.value_lengths().fill_null(0).to_numpy().cumsum().tolist()
    made = [tuple(cells[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    if array.null_count:
        missing = array.is_null().to_pylist()
        return [None if gone else cell for gone, cell in zip(missing, made, strict=True)]
    return made


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _others(array: Any) -> list[Any]:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return texts(array)
    if array.null_count or pa.types.is_nested(array.type) or pa.types.is_dictionary(array.type):
        return [plain(cell) for cell in array.to_pylist()]
    return list(array.to_numpy(zero_copy_only=False).tolist())

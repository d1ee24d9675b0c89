"""Rows of one group put together as one: what rolling and collapsing have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Cells = list[Any]
"""The cells of one column, row by row."""

RowCells = dict[str, Cells]
"""The cells of one group's rows, column by column."""

Read = tuple[str, str, Any]
"""An edge that ends in a group: the group it comes from, the argument, what it says of passes."""


def contract(
    columns: Mapping[str, Cells],
    groups: Mapping[str, Sequence[int]],
    row: Callable[[str, RowCells, dict[str, Any]], dict[str, Any]],
    reads: Callable[[str, RowCells], Iterable[Read]],
    spans: Callable[[list[Any]], str] | None,
) -> list[dict[str, Any]]:
    """One row for each group, with its edges: each source and argument once.

    Parameters
    ----------
    columns
        The cells of the frame.
    groups
        Group to the positions of its rows, in the order in which they go together.
    row
        The cells of a group's one row, from those of all and from its edges.
    reads
        The edges that end in a group, one for each that ends in one of its rows.
    spans
        What all edges of one source and argument together say of passes, a cell of
        `parent_passes`; None where the rows have none.
    """
    rows = []
    for name, members in groups.items():
        cells = {column: [there[i] for i in members] for column, there in columns.items()}
        found: dict[tuple[str, str], list[Any]] = {}
        for source, role, passes in reads(name, cells):
            found.setdefault((source, role), []).append(passes)
        edges: dict[str, Any] = {
            "parents": tuple(source for source, _ in found),
            "parent_args": tuple(role for _, role in found),
            "n_parents": len(found),
        }
        if spans is not None:
            edges["parent_passes"] = tuple(spans(passes) for passes in found.values())
        rows.append(row(name, cells, edges))
    return rows


def put_together(
    cells: RowCells,
    table: Mapping[str, Callable[[Cells], Any]],
    other: Callable[[Cells], Any],
) -> dict[str, Any]:
    """One cell of each column, by what the table says of it; by `other` where it says nothing."""
    return {name: table.get(name, other)(column) for name, column in cells.items()}


def common(cells: Cells) -> Any:
    """What is the same in all; of sequences, every entry once."""
    first = cells[0]
    if isinstance(first, tuple) and any(cell != first for cell in cells):
        return entries(cells)
    return first


def entries(cells: Cells) -> tuple[Any, ...]:
    """Every entry of the sequences once, in order."""
    return tuple(dict.fromkeys(entry for cell in cells for entry in cell))


def first(cells: Cells) -> Any:
    return cells[0]


def last(cells: Cells) -> Any:
    return cells[-1]


def same_settings(cells: Cells) -> str:
    """Of arguments as JSON, those that are alike in all."""
    if all(cell == cells[0] for cell in cells):
        return str(cells[0])
    here, *others = (json.loads(cell) for cell in cells)
    return json.dumps({k: v for k, v in here.items() if all(o.get(k) == v for o in others)})


_ANY = dict.fromkeys(("requires_grad", "inplace", "random"), any)

#: How the passes of one layer go together; what is not here by `common`.
LAYER: dict[str, Callable[[Cells], Any]] = {
    **dict.fromkeys(("seconds", "numel", "nbytes"), sum),
    **_ANY,
    "shape": last,
    "stride": last,
    "saved": all,
    "config": same_settings,
    # of one module call they must stay a stack, and of one parameter its own argument and shape
    **dict.fromkeys(("module_stack", "module_types"), first),
    **dict.fromkeys(("params", "param_args", "param_shapes", "param_dtypes"), first),
    **dict.fromkeys(("buffers", "buffer_args", "buffer_shapes", "buffer_dtypes"), first),
}

#: How the operations of one module call do; what is not here is that of what it returned.
MODULE: dict[str, Callable[[Cells], Any]] = {
    "seconds": sum,
    **_ANY,
    **dict.fromkeys(("returned_by", "returned_first", "read_by"), entries),
    **dict.fromkeys(("step", "call", "source"), first),
}

#: What names a parameter or buffer, and what stands beside it entry by entry.
HELD = (
    ("params", "param_args", "param_shapes", "param_dtypes"),
    ("buffers", "buffer_args", "buffer_shapes", "buffer_dtypes"),
)


def held_once(cells: RowCells) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The columns of what all rows read, each parameter and buffer once, by its first reader."""
    for columns in HELD:
        there = [column for column in columns if column in cells]
        if columns[0] not in there:
            continue
        once: dict[str, tuple[Any, ...]] = {}
        for row in zip(*(cells[column] for column in there), strict=True):
            for entry in zip(*row, strict=True):
                once.setdefault(entry[0], entry)
        for k, column in enumerate(there):
            yield column, tuple(entry[k] for entry in once.values())

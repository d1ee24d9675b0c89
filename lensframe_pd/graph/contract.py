"""Rows of one group put together as one: what rolling and collapsing have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lensframe_pd.graph.parameters import TOTALS, counted_once, parameters

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


def grouped(groups: Sequence[str], order: Sequence[int]) -> dict[str, list[int]]:
    """Group to its rows in this order; the groups as they come in the frame."""
    found: dict[str, list[int]] = {name: [] for name in groups}
    for i in order:
        found[groups[i]].append(i)
    return found


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
    # of one module call they must stay a stack
    **dict.fromkeys(("module_stack", "module_types"), first),
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


def held_by_passes(cells: RowCells) -> dict[str, Any]:
    """What the passes of one layer read, and what its parameters come to; each counts once.

    Passes of a module may read unlike parameters, as where feedback begins with the second.
    """
    held = dict(held_once(cells)) if _unlike(cells) else {}
    names = {c for columns in HELD for c in columns if c in cells}
    if not held:
        return {name: cells[name][0] for name in names}
    for k, params in enumerate(cells.get("params", ())):
        if {*params} >= {*held["params"]}:  # a pass that reads all of them says what they come to
            return held | {name: cells[name][k] for name in TOTALS if name in cells}
    one = pd.DataFrame(cells)
    return held | parameter_totals(one, [""] * len(one)).get("", {})


def _unlike(cells: RowCells) -> bool:
    columns = [cells[names[0]] for names in HELD if names[0] in cells]
    return any([cell != column[0] for column in columns for cell in column])


def parameter_totals(frame: pd.DataFrame, group: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Elements, bytes and trainable elements of each group's parameters, each counted once."""
    there = [column for column in TOTALS if column in frame.columns]
    if {"params", "param_shapes", *TOTALS} <= {*frame.columns}:
        table = parameters(frame, "collapse")
        sums = counted_once(table.assign(group=[group[i] for i in table["row"]]), "group")
        found = sums.reindex([*dict.fromkeys(group)], fill_value=0)
    else:
        found = frame[there].groupby(pd.Index(group), sort=False).sum()
    return {str(name): dict(zip(there, cells, strict=True)) for name, *cells in found.itertuples()}


def reads_between(
    of: Mapping[str, str],
    merged: Container[str],
    steps: Mapping[str, Any],
    rolled: bool,
) -> Callable[[str, RowCells], Iterator[Read]]:
    """The edges between groups; inside a group only those that are carried round a loop.

    Parameters
    ----------
    of
        Label of a row to the name of its group.
    merged
        The groups that are modules and the like: they name each parent once, as what reads it
        first.
    steps
        Label of a row to when it first ran.
    """

    def reads(name: str, cells: RowCells) -> Iterator[Read]:
        first_role: dict[str, str] = {}
        began = cells.get("step", [0] * len(cells["parents"]))
        spans = cells.get("parent_passes", cells["parent_args"])
        for step, between, (parents, roles) in zip(
            began, spans, zip(cells["parents"], cells["parent_args"], strict=True), strict=True
        ):
            for parent, role, span in zip(parents, roles, between, strict=True):
                source = of.get(parent, parent)
                carried = rolled and is_uneven(span) and steps.get(parent, 0) >= step
                if source != name or carried:  # what goes round a loop is an edge to itself
                    if name in merged:
                        role = first_role.setdefault(source, role)
                    yield source, role, span

    return reads


def each_once(spans: list[str]) -> str:
    return ",".join(dict.fromkeys(spans))


def is_uneven(span: str) -> bool:
    """Whether passes read what other passes made: `1-4>2-5`."""
    source, _, target = span.partition(">")
    return source != target

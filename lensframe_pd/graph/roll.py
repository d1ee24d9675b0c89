"""Recurrent layers as one row each, and back: frame -> frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import names, plain
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.graph.contract import (
    LAYER,
    Cells,
    Read,
    RowCells,
    common,
    contract,
    grouped,
    held_by_passes,
    put_together,
)
from lensframe_pd.graph.edges import ROLLED, frame_like, op_index
from lensframe_pd.labels import labels, split_call
from lensframe_pd.schema import require


def roll(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layer; a layer that ran several times has its passes in one row.

    Sizes and times are those of all passes together, `shape` is that of the last pass, and
    `shape_str` shows the first and the last where they differ. Parameters and buffers are those
    that any pass read, each once. Parents are layers; what an
    earlier pass carried round is among them. A frame in which neither a layer nor a module ran
    twice is given back as it is.

    Parameters
    ----------
    frame
        Rows of `layers`, with any further columns.

    Returns
    -------
    pandas.DataFrame
        Indexed by layer, in order of first execution. Two columns more: `parent_passes`, for each
        parent which of its passes each pass read (`"1-4>2-5"`: a loop), and `unrolled`, JSON from
        which `unroll` makes the passes again.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError
        A column of your own holds cells that JSON cannot.
    LensValueError
        The frame is rolled already.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> def loop(x):
    ...     for _ in range(4):
    ...         x = torch.tanh(x)
    ...     return x
    >>> layers, _ = lf.trace(loop, torch.ones(2))
    >>> rolled = layers.lens.roll()
    >>> rolled.loc["tanh_1", ["parents", "parent_passes"]].tolist()
    [('input_1', 'tanh_1'), ('1>1', '1-3>2-4')]
    """
    require(frame, "roll", "layer", "pass_num", "n_passes", "step", "parents", "parent_args")
    if set(ROLLED) & set(frame.columns):
        raise LensValueError("roll: the frame is rolled already")
    ops, layers = labels(frame, "roll"), [*frame["layer"]]
    passes, several = [*map(int, frame["pass_num"])], [*map(int, frame["n_passes"])]
    if several.count(1) == len(several) and not _has_second_calls(frame):
        return frame.copy()
    place = dict(zip(ops, zip(layers, passes, strict=True), strict=True))
    in_order = np.argsort(frame["step"].to_numpy(), kind="stable").tolist()
    columns = {
        name: [None if cell is pd.NA else plain(cell) for cell in frame[name]]
        for name in frame.columns
    }

    def reads(layer: str, cells: RowCells) -> Iterator[Read]:
        for p, parents, roles in zip(
            cells["pass_num"], cells["parents"], cells["parent_args"], strict=True
        ):
            for parent, role in zip(parents, roles, strict=True):
                source, source_pass = place.get(parent, (parent, 1))
                yield source, role, (source_pass, p)

    rows = contract(columns, grouped(layers, in_order), _rolled, reads, _pass_ranges)
    rows.sort(key=lambda row: row["step"])
    index = op_index(frame, [row["layer"] for row in rows])
    return frame_like(frame, rows, [*frame.columns, *ROLLED], index)


def _has_second_calls(frame: pd.DataFrame) -> bool:
    """Whether a module was called twice: its calls, collapsed later, are passes."""
    if "module_stack" not in frame.columns:
        return False
    stacks = [
        stack if type(stack) is tuple else names("module_stack", stack)
        for stack in frame["module_stack"]
    ]
    calls = {*chain.from_iterable(stacks)}  # deep trees of modules have each in many stacks
    return any([split_call(call)[1] != 1 for call in calls if not call.endswith(":1")])


def unroll(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that `roll` put together, one per pass, in order of execution.

    Parameters
    ----------
    frame
        A rolled frame, or some of its rows.

    Returns
    -------
    pandas.DataFrame
        The frame as it was before `roll`; a frame without recurrent layers as it is.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        The frame has several passes in a row, but not the column `unrolled`: a verb has
        changed its edges since.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> def loop(x):
    ...     for _ in range(4):
    ...         x = torch.tanh(x)
    ...     return x
    >>> layers, _ = lf.trace(loop, torch.ones(2))
    >>> rolled = layers.lens.roll()
    >>> len(layers), len(rolled)
    (6, 3)
    >>> rolled.lens.unroll().equals(layers)
    True
    """
    require(frame, "unroll", "layer", "n_passes")
    if "unrolled" not in frame.columns:
        if "parent_passes" in frame.columns:
            raise LensValueError(
                "unroll: the edges of this frame were changed since roll(), so its passes cannot "
                "be told; unroll() first, then keep() or collapse()"
            )
        return frame.copy()
    names_ = [c for c in frame.columns if c not in ROLLED]
    rows: list[dict[str, Any]] = []
    for cells in zip(*(frame[c] for c in [*names_, "unrolled"]), strict=True):
        row = {c: plain(cell) for c, cell in zip(names_, cells[:-1], strict=True)}
        kept: dict[str, Cells] = json.loads(cells[-1])
        n = len(next(iter(kept.values()), [0]))
        rows += [row | {c: _tuples(v[p]) for c, v in kept.items()} for p in range(n)]
    rows.sort(key=lambda row: row["step"])
    bare = frame_like(frame, rows, names_, pd.RangeIndex(len(rows)))
    bare.index = op_index(frame, labels(bare, "unroll"))
    return bare


def _rolled(layer: str, cells: RowCells, edges: dict[str, Any]) -> dict[str, Any]:
    """One row for the passes of a layer; beside it, what `unroll` needs."""
    row = put_together(cells, LAYER, common) | held_by_passes(cells) | edges
    if "shape_str" in row:
        first, last = cells["shape_str"][0], cells["shape_str"][-1]
        row["shape_str"] = first if first == last else f"{first} ... {last}"
    apart = {name: column for name, column in cells.items() if any(x != row[name] for x in column)}
    return row | {"unrolled": _json(apart)}


def _pass_ranges(passes: list[tuple[int, int]]) -> str:
    """`[(1, 2), (2, 3)]`, from pass to pass, as `"1-2>2-3"`."""
    return f"{_ranges([a for a, _ in passes])}>{_ranges([b for _, b in passes])}"


def _ranges(numbers: Sequence[int]) -> str:
    """`[1, 2, 3, 5]` as `"1-3,5"`."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _json(cells: dict[str, Cells]) -> str:
    for name, column in cells.items():
        try:
            json.dumps(column)
        except TypeError:
            kinds = sorted({type(cell).__name__ for cell in column})
            raise LensTypeError(
                f"roll: column {name!r} holds {', '.join(kinds)}, which it cannot keep for "
                "unroll(); drop the column, or turn it into numbers or text"
            ) from None
    return json.dumps(cells)


def _tuples(cell: Any) -> Any:
    return tuple(_tuples(c) for c in cell) if isinstance(cell, list) else cell

"""Recurrent layers as one row each, and back: frame -> frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.schema import labels, names, plain, require, split_call

#: The columns that only a rolled frame has.
ROLLED = ("parent_passes", "unrolled")

Cells = list[Any]
"""The cells of one column, pass by pass."""


def roll(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layer; a layer that ran several times has its passes in one row.

    Sizes and times are those of all passes together, `shape` is that of the last pass, and
    `shape_str` shows the first and the last where they differ. Parents are layers; what an
    earlier pass carried round is among them. A frame without a recurrent layer is given back as
    it is.

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
    ops = labels(frame, "roll")
    place = {
        op: (layer, int(p), int(n))
        for op, layer, p, n in zip(
            ops, frame["layer"], frame["pass_num"], frame["n_passes"], strict=True
        )
    }
    if all(n == 1 for _, _, n in place.values()):
        return frame.copy()
    groups: dict[str, list[int]] = {}
    for i, layer in enumerate(frame["layer"]):
        groups.setdefault(layer, []).append(i)
    columns = {
        name: [None if cell is pd.NA else plain(cell) for cell in frame[name]]
        for name in frame.columns
    }
    order = np.argsort(frame["step"].to_numpy(), kind="stable").tolist()
    rank = {i: k for k, i in enumerate(order)}
    rows = [
        _rolled({c: [cells[i] for i in sorted(members, key=rank.__getitem__)]
                 for c, cells in columns.items()}, place)
        for members in groups.values()
    ]  # fmt: skip
    rows.sort(key=lambda row: row["step"])
    index = pd.Index([row["layer"] for row in rows], name="op", dtype=frame.index.dtype)
    return frame_like(frame, rows, [*frame.columns, *ROLLED], index)


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
    bare.index = pd.Index(labels(bare, "unroll"), name="op", dtype=frame.index.dtype)
    return bare


def _rolled(cells: dict[str, Cells], place: dict[str, tuple[str, int, int]]) -> dict[str, Any]:
    """One row for the passes of a layer."""
    row = {name: _TOGETHER.get(name, _common)(column) for name, column in cells.items()}
    if "shape_str" in row:
        first, last = cells["shape_str"][0], cells["shape_str"][-1]
        row["shape_str"] = first if first == last else f"{first} ... {last}"
    row |= _parents(cells, place)
    row["unrolled"] = _json({c: v for c, v in cells.items() if any(x != row[c] for x in v)})
    return row


def _parents(
    cells: dict[str, Cells], place: dict[str, tuple[str, int, int]]
) -> dict[str, tuple[str, ...]]:
    """The parents of all passes: each layer and argument once, with the passes that read it."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for p, parents, roles in zip(
        cells["pass_num"], cells["parents"], cells["parent_args"], strict=True
    ):
        for parent, role in zip(parents, roles, strict=True):
            layer, source, _ = place.get(parent, (parent, 1, 1))
            found.setdefault((layer, role), []).append((source, p))
    return {
        "parents": tuple(layer for layer, _ in found),
        "parent_args": tuple(role for _, role in found),
        "n_parents": len(found),  # type: ignore[dict-item]
        "parent_passes": tuple(
            f"{_ranges([s for s, _ in pairs])}>{_ranges([t for _, t in pairs])}"
            for pairs in found.values()
        ),
    }


def _ranges(numbers: Sequence[int]) -> str:
    """`[1, 2, 3, 5]` as `"1-3,5"`."""
    parts: list[list[int]] = []
    for n in sorted(set(numbers)):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _common(cells: Cells) -> Any:
    """What is the same in all passes; of sequences, every entry once."""
    first = cells[0]
    if isinstance(first, tuple) and any(cell != first for cell in cells):
        return tuple(dict.fromkeys(entry for cell in cells for entry in cell))
    return first


def _first(cells: Cells) -> Any:
    return cells[0]


def _last(cells: Cells) -> Any:
    return cells[-1]


def _same_settings(cells: Cells) -> str:
    """Of the arguments, those that all passes have alike."""
    if all(cell == cells[0] for cell in cells):
        return str(cells[0])
    first, *others = (json.loads(cell) for cell in cells)
    return json.dumps({k: v for k, v in first.items() if all(o.get(k) == v for o in others)})


_TOGETHER: dict[str, Callable[[Cells], Any]] = {
    **dict.fromkeys(("seconds", "numel", "nbytes"), sum),
    **dict.fromkeys(("shape", "stride"), _last),
    **dict.fromkeys(("requires_grad", "inplace", "random"), any),
    "saved": all,
    "config": _same_settings,
    # of one module call they must stay a stack, and of one parameter its own argument and shape
    **dict.fromkeys(
        ("module_stack", "module_types", "params", "param_args", "param_shapes"), _first
    ),
    **dict.fromkeys(("buffers", "buffer_args", "buffer_shapes"), _first),
}


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


def frame_like(
    like: pd.DataFrame, rows: Sequence[dict[str, Any]], columns: Sequence[str], index: pd.Index
) -> pd.DataFrame:
    """Rows as a frame whose columns are of the same kind as those of `like`."""
    data: dict[str, Any] = {}
    for name in columns:
        cells = [row[name] for row in rows]
        if name in like.columns and like[name].dtype != object:
            kind: Any = like[name].dtype
            data[name] = pd.array(cells, dtype=kind)
        elif name == "unrolled":
            data[name] = pd.array(cells, dtype=pd.StringDtype(na_value=np.nan))
        else:
            data[name] = np.fromiter(cells, dtype=object, count=len(cells))
    frame = pd.DataFrame(data, index=index, columns=list(columns))
    frame.attrs.update(like.attrs)
    return frame


def edges(frame: pd.DataFrame) -> pd.DataFrame:
    """Every edge that ends in a row of the frame, one row each.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or not.

    Returns
    -------
    pandas.DataFrame
        `source` and `target` are labels, `arg` the argument the source was. `passes` says which
        passes of the source which passes of the target read: `"2>3"`, `"1-4>2-5"`. Sources that
        are no rows of the frame are there too: filter with `source.isin(layers.index)`.

    Raises
    ------
    LensKeyError
        The frame lacks a column.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: x - x.exp(), torch.ones(2))
    >>> layers.lens.edges()[["source", "target", "arg"]].values.tolist()
    [['input_1', 'exp_1', 'input'], ['input_1', 'sub_1', 'input'], ['exp_1', 'sub_1', 'other'], ['sub_1', 'output_1', 'input']]
    """  # noqa: E501 (the printed line is one)
    require(frame, "edges", "pass_num", "parents", "parent_args")
    ops = labels(frame, "edges")
    numbers = dict(zip(ops, frame["pass_num"], strict=True))
    rolled = "parent_passes" in frame.columns
    passes = frame["parent_passes"] if rolled else [None] * len(frame)
    found: list[tuple[str, str, str, str]] = []
    for op, parents, roles, between in zip(
        ops, frame["parents"], frame["parent_args"], passes, strict=True
    ):
        spans = names("parent_passes", between) if rolled else None
        for k, (parent, role) in enumerate(
            zip(names("parents", parents), names("parent_args", roles), strict=True)
        ):
            number = numbers.get(parent, split_call(parent)[1] or 1)
            span = spans[k] if spans else f"{number}>{numbers[op]}"
            found.append((parent, op, role, span))
    columns = ["source", "target", "arg", "passes"]
    return pd.DataFrame(found, columns=columns, dtype=pd.StringDtype(na_value=np.nan))

"""Recurrent layers as one row each, and back; modules as one row each: frame -> frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensTypeError, LensValueError, unknown_names
from lensframe_pd.graph.contract import (
    LAYER,
    MODULE,
    Cells,
    Read,
    RowCells,
    common,
    contract,
    held_once,
    put_together,
)
from lensframe_pd.graph.edges import ROLLED, frame_like
from lensframe_pd.graph.parameters import counted_once, parameters
from lensframe_pd.schema import label, labels, names, path_of, plain, require, split_call


def roll(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per layer; a layer that ran several times has its passes in one row.

    Sizes and times are those of all passes together, `shape` is that of the last pass, and
    `shape_str` shows the first and the last where they differ. Parents are layers; what an
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
    ops = labels(frame, "roll")
    place = {
        op: (layer, int(p), int(n))
        for op, layer, p, n in zip(
            ops, frame["layer"], frame["pass_num"], frame["n_passes"], strict=True
        )
    }
    if all(n == 1 for _, _, n in place.values()) and not _has_second_calls(frame):
        return frame.copy()
    in_order = np.argsort(frame["step"].to_numpy(), kind="stable").tolist()
    layers = [*frame["layer"]]
    columns = {
        name: [None if cell is pd.NA else plain(cell) for cell in frame[name]]
        for name in frame.columns
    }

    def reads(layer: str, cells: RowCells) -> Iterator[Read]:
        for p, parents, roles in zip(
            cells["pass_num"], cells["parents"], cells["parent_args"], strict=True
        ):
            for parent, role in zip(parents, roles, strict=True):
                source, source_pass, _ = place.get(parent, (parent, 1, 1))
                yield source, role, (source_pass, p)

    rows = contract(columns, _grouped(layers, in_order), _rolled, reads, _pass_ranges)
    rows.sort(key=lambda row: row["step"])
    index = pd.Index([row["layer"] for row in rows], name="op", dtype=frame.index.dtype)
    return frame_like(frame, rows, [*frame.columns, *ROLLED], index)


def _has_second_calls(frame: pd.DataFrame) -> bool:
    """Whether a module was called twice: its calls, collapsed later, are passes."""
    if "module_stack" not in frame.columns:
        return False
    stacks = {tuple(names("module_stack", stack)) for stack in frame["module_stack"]}
    return any([split_call(call)[1] != 1 for stack in stacks for call in stack])


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


def collapse(
    frame: pd.DataFrame, modules: str | Iterable[str] | None = None, *, depth: int | None = None
) -> pd.DataFrame:
    """One row for each call of a module, instead of the operations inside it.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or not.
    modules
        Paths of the modules to collapse (`"layer1.0"`). Of nested ones the outermost counts.
    depth
        Collapse every module call at this depth: 1 is the children of the model.

    Returns
    -------
    pandas.DataFrame
        The rows outside as they were; for each call one row of `kind` `"module"`, labelled by the
        path (`path:2` for the second of several calls), with `func` the module's class. Its
        parents are those of the operations inside that come from outside. Shape, dtype, `numel`,
        `nbytes` and saved are those of the first tensor that the module returned, the first that
        a forward hook would see (bytes of all tensors inside: `layers.lens.profile("module")`).
        `seconds` and the parameters are those of all operations inside, a parameter counted once.
        A rolled frame stays rolled: it is as if `roll` came last. The calls of a module are one
        row there, with itself among its parents where a call reads what an earlier one made.

    Raises
    ------
    LensTypeError
        Neither `modules` nor `depth` is given, or both.
    LensKeyError
        A path that no row of the frame is in (near misses are suggested), or a column is lacking.
    LensValueError
        `depth` is less than 1.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> block = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Linear(3, 2)).eval()
    >>> layers, _ = lf.trace(model, torch.ones(4, 3))
    >>> layers.lens.collapse(depth=1)[["kind", "func", "parents", "n_params"]].values.tolist()
    [['input', 'input', (), 0], ['module', 'Sequential', ('input_1',), 12], ['module', 'Linear', ('0',), 8], ['output', 'output', ('1',), 0]]
    """  # noqa: E501 (the printed line is one)
    require(frame, "collapse", "module_stack", "parents", "parent_args")
    if "unrolled" in frame.columns:
        rolled_again = roll(collapse(unroll(frame), modules, depth=depth))
        return rolled_again.drop(columns="unrolled", errors="ignore")  # not of the frame given
    stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
    calls = _chosen(stacks, modules, depth)
    rolled = "parent_passes" in frame.columns
    if rolled:
        calls = _first_calls(calls)
    ops = labels(frame, "collapse")
    counts = _counts(calls)
    of = {op: _name(call, counts) if call else op for op, call in zip(ops, calls, strict=True)}
    columns = {name: [plain(cell) for cell in frame[name]] for name in frame.columns}
    steps = dict(zip(ops, columns.get("step", range(len(ops))), strict=True))
    group = [of[op] for op in ops]
    call_of = {of[op]: call for op, call in zip(ops, calls, strict=True) if call}
    totals = _parameter_totals(frame, group)

    def row(name: str, cells: RowCells, edges: dict[str, Any]) -> dict[str, Any]:
        if name not in call_of:  # a row outside, as it was
            return {column: cell for column, (cell,) in cells.items()} | edges
        path = path_of(call_of[name])
        n_passes = max(cells["n_passes"]) if rolled else counts[path]
        return _collapsed(cells, call_of[name], n_passes) | totals.get(name, {}) | edges

    def reads(name: str, cells: RowCells) -> Iterator[Read]:
        first_role: dict[str, str] = {}  # a module names each parent once, as what reads it first
        began = cells.get("step", [0] * len(cells["parents"]))
        spans = cells.get("parent_passes", cells["parent_args"])
        for step, between, (parents, roles) in zip(
            began, spans, zip(cells["parents"], cells["parent_args"], strict=True), strict=True
        ):
            for parent, role, span in zip(parents, roles, between, strict=True):
                source = of.get(parent, parent)
                carried = rolled and _uneven(span) and steps.get(parent, 0) >= step
                if source != name or carried:  # what goes round a loop is an edge to itself
                    if name in call_of:
                        role = first_role.setdefault(source, role)
                    yield source, role, span

    everything = [*range(len(ops))]
    rows = contract(
        columns, _grouped(group, everything), row, reads, _each_once if rolled else None
    )
    index = pd.Index([*dict.fromkeys(group)], name="op", dtype=frame.index.dtype)
    return frame_like(frame, rows, [*frame.columns], index)


def _grouped(groups: Sequence[str], order: Sequence[int]) -> dict[str, list[int]]:
    """Group to its rows in this order; the groups as they come in the frame."""
    found: dict[str, list[int]] = {name: [] for name in groups}
    for i in order:
        found[groups[i]].append(i)
    return found


def _rolled(layer: str, cells: RowCells, edges: dict[str, Any]) -> dict[str, Any]:
    """One row for the passes of a layer; beside it, what `unroll` needs."""
    row = put_together(cells, LAYER, common) | edges
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


def _chosen(
    stacks: Sequence[tuple[str, ...]], modules: str | Iterable[str] | None, depth: int | None
) -> list[str]:
    """For each row the module call it collapses into, or ''."""
    if (modules is None) == (depth is None):
        raise LensTypeError("collapse: give either module paths or depth=")
    if depth is not None:
        if depth < 1:
            raise LensValueError(f"collapse: depth={depth}; 1 is the children of the model")
        return [stack[depth - 1] if len(stack) >= depth else "" for stack in stacks]
    wanted = {modules} if isinstance(modules, str) else set(modules or ())
    known = dict.fromkeys(path_of(call) for stack in stacks for call in stack)
    unknown = sorted(wanted - known.keys())
    if unknown:
        raise unknown_names(unknown, known, "module")
    return [next((call for call in stack if path_of(call) in wanted), "") for stack in stacks]


def _first_calls(calls: Sequence[str]) -> list[str]:
    """Each call as the first of its module: in a rolled frame they are one row."""
    first: dict[str, str] = {}
    return [first.setdefault(path_of(call), call) if call else "" for call in calls]


def _counts(calls: Sequence[str]) -> dict[str, int]:
    """How many calls of each module are collapsed."""
    counts: dict[str, int] = {}
    for call in dict.fromkeys(calls):
        if call:
            counts[path_of(call)] = counts.get(path_of(call), 0) + 1
    return counts


def _name(call: str, counts: dict[str, int]) -> str:
    path, number = split_call(call)
    return label(path, number, counts[path])


def _collapsed(cells: RowCells, call: str, n_passes: int) -> dict[str, Any]:
    """What one module call did, from the cells of the operations inside."""
    result = _first_result(cells, call)
    row = put_together(cells, MODULE, lambda column: column[result])
    row |= dict(held_once(cells))
    where = next(i for i, stack in enumerate(cells["module_stack"]) if call in stack)
    stack = cells["module_stack"][where]
    types = cells["module_types"][where] if "module_types" in cells else ()
    k = stack.index(call)
    path, number = split_call(call)
    facts: dict[str, Any] = {
        "layer": path,
        "pass_num": number,
        "n_passes": n_passes,
        "kind": "module",
        "func": types[k] if k < len(types) else "module",
        "target": "",
        "config": "{}",
        "n_positional": 0,
        "tuple_args": (),
        "module": path_of(stack[k - 1]) if k else "",
        "module_type": types[k - 1] if k else "",
        "module_stack": stack[:k],
        "module_types": types[:k],
    }
    return row | {name: cell for name, cell in facts.items() if name in cells}


def _first_result(cells: RowCells, call: str) -> int:
    """Which row made the first tensor that a module call returned, as a forward hook sees them."""
    for column in ("returned_first", "returned_by"):
        for i, calls in enumerate(cells.get(column, ())):
            if call in calls:
                return i
    return -1  # what it returned was made elsewhere: the last operation stands for it


def _parameter_totals(frame: pd.DataFrame, group: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Elements, bytes and trainable elements of each group's parameters, each counted once."""
    totals = ["n_params", "params_nbytes", "n_trainable"]
    there = [column for column in totals if column in frame.columns]
    if {"params", "param_shapes", *totals} <= {*frame.columns}:
        table = parameters(frame, "collapse")
        sums = counted_once(table.assign(group=[group[i] for i in table["row"]]), "group")
        found = sums.reindex([*dict.fromkeys(group)], fill_value=0)
    else:
        found = frame[there].groupby(pd.Index(group), sort=False).sum()
    return {str(name): dict(zip(there, cells, strict=True)) for name, *cells in found.itertuples()}


def _each_once(spans: list[str]) -> str:
    return ",".join(dict.fromkeys(spans))


def _uneven(span: str) -> bool:
    """Whether a pass reads what another pass made: `1-4>2-5`."""
    source, _, target = span.partition(">")
    return source != target

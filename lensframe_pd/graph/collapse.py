"""Modules as one row each, by path, by depth, or as many as a picture bears: frame -> frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import names, plain_cells
from lensframe_pd.errors import LensTypeError, LensValueError, unknown_names
from lensframe_pd.graph.contract import (
    MODULE,
    RowCells,
    contract,
    each_once,
    grouped,
    held_once,
    parameter_totals,
    put_together,
    reads_between,
)
from lensframe_pd.graph.edges import frame_like, op_index
from lensframe_pd.graph.outline import MOST, outline
from lensframe_pd.graph.roll import roll, unroll
from lensframe_pd.graph.runs import merge_runs
from lensframe_pd.labels import (
    asked_names,
    distinct_labels,
    label,
    labels,
    names_of,
    path_of,
    split_call,
)
from lensframe_pd.schema import require


def collapse(
    frame: pd.DataFrame,
    modules: Any = None,
    *,
    depth: int | None = None,
    most: int = MOST,
) -> pd.DataFrame:
    """One row for each call of a module, instead of the operations inside it.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or not.
    modules
        Paths of the modules to collapse (`"layer1.0"`), or rows, which stand for the innermost
        modules that made them; of nested ones the outermost counts. A number is `depth`.
        `"auto"`: as many as it takes to have few rows, see Notes (`["auto"]` is a module of that
        name).
    depth
        Collapse modules of so many names, 1 for the children of the model (`layer1.0` has two);
        inside a list that is never called, the first that has more.
    most
        With `"auto"`: how many rows there may be.

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
        Neither `modules` nor `depth` is given, or both; `most` without `"auto"`.
    LensKeyError
        A path that no row of the frame is in (near misses are suggested), or a column is lacking.
    LensValueError
        `depth` or `most` is less than 1.

    Notes
    -----
    `"auto"` rolls first. Then modules are opened, all of one class and level together and the
    largest first, while there are at most `most` rows. A module of one row is that row. Blocks
    that repeat are one row, `layer3.1..5`: siblings of one class, numbered one after the other,
    with equal results and parameters, of which only the next reads the one before. The column
    `repeats` says how many, 1 in all other rows. Where there are still more rows than `most`,
    stretches of three or more operations without parameters are one row each. If those are still
    too many, rows that repeat one another are one row, as of a loop over a list of layers that adds
    something after each: `func` says what one repetition is, `repeats` how many there are.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> block = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Linear(3, 2)).eval()
    >>> layers, _ = lf.trace(model, torch.ones(4, 3))
    >>> layers.lens.collapse(depth=1)[["kind", "func", "parents", "n_params"]].values.tolist()
    [['input', 'input', (), 0], ['module', 'Sequential', ('input_1',), 12], ['module', 'Linear', ('0',), 8], ['output', 'output', ('1',), 0]]
    >>> deep = torch.nn.Sequential(*[torch.nn.Sequential(block, torch.nn.Linear(3, 3)) for _ in "12"])
    >>> lf.trace(deep.eval(), torch.ones(4, 3)).layers.lens.collapse("auto").index.tolist()
    ['input_1', '0..1', 'output_1']
    """  # noqa: E501 (the printed line is one)
    require(frame, "collapse", "module_stack", "parents", "parent_args")
    modules, depth = _asked(modules, depth)
    if isinstance(modules, str) and modules == "auto":
        return _outlined(frame, depth, most)
    if most != MOST:
        raise LensTypeError(f'collapse: most={most} goes with collapse("auto") only')
    if "unrolled" in frame.columns:
        rolled_again = roll(collapse(unroll(frame), modules, depth=depth))
        return rolled_again.drop(columns="unrolled", errors="ignore")  # not of the frame given
    stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
    calls = _chosen(stacks, modules, depth)
    rolled = "parent_passes" in frame.columns
    if rolled:
        calls = _first_calls(calls)
    ops = distinct_labels(frame, "collapse")
    counts = _counts(calls)
    of = {op: _name(call, counts) if call else op for op, call in zip(ops, calls, strict=True)}
    columns = {name: plain_cells(frame[name]) for name in frame.columns}
    steps = dict(zip(ops, columns.get("step", range(len(ops))), strict=True))
    group = [of[op] for op in ops]
    call_of = {of[op]: call for op, call in zip(ops, calls, strict=True) if call}
    totals = parameter_totals(frame, group)

    def row(name: str, cells: RowCells, edges: dict[str, Any]) -> dict[str, Any]:
        if name not in call_of:  # a row outside, as it was
            return {column: cell for column, (cell,) in cells.items()} | edges
        path = path_of(call_of[name])
        n_passes = max(cells["n_passes"]) if rolled else counts[path]
        return _collapsed(cells, call_of[name], n_passes) | totals.get(name, {}) | edges

    reads = reads_between(of, call_of, steps, rolled)
    order = sorted(range(len(ops)), key=lambda i: steps[ops[i]])  # rows may have been sorted
    rows = contract(columns, grouped(group, order), row, reads, each_once if rolled else None)
    index = op_index(frame, [*dict.fromkeys(group)])
    return frame_like(frame, rows, [*frame.columns], index)


def _outlined(frame: pd.DataFrame, depth: int | None, most: int) -> pd.DataFrame:
    """`collapse("auto")`: rolled, modules closed, and then what repeats put together."""
    if depth is not None:
        raise LensTypeError('collapse: give either "auto" or depth=')
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 1:
        raise LensValueError(f"collapse: most={most!r}; it is how many rows there may be, from 1")
    plan = outline(unroll(frame) if "unrolled" in frame.columns else frame, int(most))
    rows = collapse(frame, plan.closed)
    if "parent_passes" not in rows.columns:
        rows = roll(rows)
    return merge_runs(rows.drop(columns="unrolled", errors="ignore"), plan)


def _asked(modules: Any, depth: int | None) -> tuple[str | list[str] | None, int | None]:
    """`modules` and `depth` as they are meant: a number is a depth, rows are their modules."""
    if isinstance(modules, (int, np.integer)) and not isinstance(modules, bool):
        if depth is not None:
            raise LensTypeError("collapse: a number is the depth, and depth= gives another")
        return None, int(modules)
    if isinstance(modules, pd.DataFrame):
        require(modules, "collapse", "module", "kind")
        cells = zip(labels(modules, "collapse"), modules["module"], modules["kind"], strict=True)
        paths = [path_of(op) if kind == "module" else str(path) for op, path, kind in cells]
        return [path for path in dict.fromkeys(paths) if path], depth
    if modules is None or isinstance(modules, str):
        return modules, depth
    return asked_names(modules, "collapse"), depth


def _chosen(
    stacks: Sequence[tuple[str, ...]], modules: str | Iterable[str] | None, depth: int | None
) -> list[str]:
    """For each row the module call it collapses into, or ''."""
    if (modules is None) == (depth is None):
        raise LensTypeError("collapse: give either module paths or depth=")
    if depth is not None:
        if depth < 1:
            raise LensValueError(f"collapse: depth={depth}; 1 is the children of the model")
        return [next((c for c in stack if names_of(c) >= depth), "") for stack in stacks]
    wanted = {modules} if isinstance(modules, str) else set(modules or ())
    calls = dict.fromkeys(chain.from_iterable(stacks))  # each is in many of a deep tree's stacks
    known = dict.fromkeys(map(path_of, calls))
    unknown = sorted(wanted - known.keys())
    if unknown:
        raise unknown_names(unknown, known, "module")
    asked = {call for call in calls if path_of(call) in wanted}
    return [next(filter(asked.__contains__, stack), "") for stack in stacks]


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
        "repeats": 1,  # of a frame that `collapse("auto")` made
    }
    return row | {name: cell for name, cell in facts.items() if name in cells}


def _first_result(cells: RowCells, call: str) -> int:
    """Which row made the first tensor that a module call returned, as a forward hook sees them."""
    for column in ("returned_first", "returned_by"):
        for i, calls in enumerate(cells.get(column, ())):
            if call in calls:
                return i
    return -1  # what it returned was made elsewhere: the last operation stands for it

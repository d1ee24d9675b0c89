"""Modules as one row each: frame -> frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from lensframe_pd.errors import LensTypeError, LensValueError, unknown_names
from lensframe_pd.graph.roll import frame_like
from lensframe_pd.schema import label, labels, names, path_of, plain, require, split_call

_SUMS = ("seconds", "numel", "nbytes")
_JOINED = ("returned_by", "read_by")
_HELD = (("params", "param_args", "param_shapes"), ("buffers", "buffer_args", "buffer_shapes"))
_ANY = ("requires_grad", "inplace", "random")


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
        parents are those of the operations inside that come from outside. `seconds`, `numel`,
        `nbytes`, and the parameters are those of all operations inside, a parameter counted once;
        shape, dtype and saved are those of what the module returned. In a rolled frame a module
        whose operations pass something round a loop has itself among its parents.

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
    stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
    calls = _chosen(stacks, modules, depth)
    ops = labels(frame, "collapse")
    counts = _counts(calls)
    of = {op: _name(call, counts) if call else op for op, call in zip(ops, calls, strict=True)}
    columns = {name: [plain(cell) for cell in frame[name]] for name in frame.columns}
    rolled = "parent_passes" in columns
    steps = dict(zip(ops, columns.get("step", range(len(ops))), strict=True))
    groups: dict[str, list[int]] = {}
    for i, op in enumerate(ops):
        groups.setdefault(of[op], []).append(i)
    rows = []
    for name, members in groups.items():
        call = calls[members[0]]
        cells = {c: [column[i] for i in members] for c, column in columns.items()}
        row = _row(cells, call, counts) if call else {c: v[0] for c, v in cells.items()}
        rows.append(row | _edges(cells, name, of, steps if rolled else {}, merged=bool(call)))
    kept = [c for c in frame.columns if c != "unrolled"]  # these are not the edges it has
    index = pd.Index(list(groups), name="op", dtype=frame.index.dtype)
    return frame_like(frame, rows, kept, index)


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


def _row(cells: dict[str, list[Any]], call: str, counts: dict[str, int]) -> dict[str, Any]:
    """What one module call did, from the cells of the operations inside."""
    path, number = split_call(call)
    returned = [i for i, by in enumerate(cells.get("returned_by", ())) if call in by]
    result = returned[0] if returned else -1  # else the last operation stands for it
    row = {name: column[result] for name, column in cells.items()}
    row |= {name: sum(cells[name]) for name in _SUMS if name in cells}
    row |= {name: any(cells[name]) for name in _ANY if name in cells}
    row |= {name: _union(cells[name]) for name in _JOINED if name in cells}
    row |= _held(cells)
    member = next(i for i, stack in enumerate(cells["module_stack"]) if call in stack)
    k = cells["module_stack"][member].index(call)
    stack = cells["module_stack"][member][:k]
    types = cells["module_types"][member] if "module_types" in cells else ()
    kind = types[k] if k < len(types) else "module"
    n_passes = max(cells["n_passes"]) if "parent_passes" in cells else counts[path]
    facts: dict[str, Any] = {
        "layer": path, "pass_num": number, "n_passes": n_passes, "kind": "module",
        "func": kind, "target": "", "config": "{}", "module_stack": stack,
        "module": path_of(stack[-1]) if stack else "", "module_types": types[:k],
        "module_type": types[k - 1] if k else "",
        **{name: cells[name][0] for name in ("step", "call", "source") if name in cells},
    }  # fmt: skip
    return row | {name: cell for name, cell in facts.items() if name in cells}


def _union(column: list[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(entry for cell in column for entry in cell))


def _held(cells: dict[str, list[Any]]) -> dict[str, Any]:
    """The parameters and buffers of all operations, each once."""
    row: dict[str, Any] = {}
    for columns in _HELD:
        if not set(columns) <= cells.keys():
            continue
        once: dict[str, tuple[Any, ...]] = {}
        for i in range(len(cells[columns[0]])):
            for entry in zip(*(cells[c][i] for c in columns), strict=True):
                once.setdefault(entry[0], entry)
        for k, column in enumerate(columns):
            row[column] = tuple(entry[k] for entry in once.values())
    return row | _parameters(cells)


def _parameters(cells: dict[str, list[Any]]) -> dict[str, int]:
    """Elements, bytes and trainable elements of the parameters, a shared one counted once."""
    sizes = ("n_params", "params_nbytes", "n_trainable")
    if not {"params", "param_shapes", *sizes} <= cells.keys():
        return {name: sum(cells[name]) for name in sizes if name in cells}
    once: dict[str, tuple[int, float, float]] = {}
    for named, shapes, n, nbytes, trainable in zip(
        cells["params"], cells["param_shapes"], *(cells[c] for c in sizes), strict=True
    ):
        for name, shape in zip(named, shapes, strict=True):
            elements = math.prod(shape)
            share = elements / n if n else 0.0
            once.setdefault(name, (elements, nbytes * share, trainable * share))
    return {c: round(sum(entry[k] for entry in once.values())) for k, c in enumerate(sizes)}


def _edges(
    cells: dict[str, list[Any]],
    name: str,
    of: dict[str, str],
    steps: dict[str, int],
    merged: bool,
) -> dict[str, Any]:
    """The parents of a row from outside it, by their names in the collapsed frame.

    A module names each parent once, as the argument of the first operation that reads it. In a
    rolled frame, whose `steps` are given, what it carries round a loop is an edge to itself.
    """
    rolled = bool(steps)
    found: dict[tuple[str, str], list[str]] = {}
    first: dict[str, str] = {}
    spans = cells["parent_passes"] if rolled else [("",) * len(p) for p in cells["parents"]]
    began = cells.get("step", [0] * len(spans))
    for parents, roles, passes, step in zip(
        cells["parents"], cells["parent_args"], spans, began, strict=True
    ):
        for parent, role, span in zip(parents, roles, passes, strict=True):
            source = of.get(parent, parent)
            if source != name or (_uneven(span) and steps.get(parent, 0) >= step):
                role = first.setdefault(source, role) if merged else role
                found.setdefault((source, role), []).append(span)
    row: dict[str, Any] = {
        "parents": tuple(source for source, _ in found),
        "parent_args": tuple(role for _, role in found),
    }
    if rolled:
        row["parent_passes"] = tuple(",".join(dict.fromkeys(s)) for s in found.values())
    if "n_parents" in cells:
        row["n_parents"] = len(found)
    return row


def _uneven(span: str) -> bool:
    """Whether a pass reads what another pass made: `1-4>2-5`."""
    source, _, target = span.partition(">")
    return source != target

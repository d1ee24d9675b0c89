"""Verbs on the graph a frame holds: which rows, and edges across rows that are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.errors import (
    LensKeyError,
    LensTypeError,
    LensValueError,
    shown,
    warn,
)
from lensframe_pd.graph.edges import edges, with_edges
from lensframe_pd.labels import (
    MODULE,
    asked_names,
    labels,
    module_asked,
    path_of,
    unknown_rows,
)
from lensframe_pd.schema import require

Mask = pd.Series | Sequence[bool] | np.ndarray[Any, Any] | Callable[[pd.DataFrame], Any]


def keep(frame: pd.DataFrame, mask: Mask) -> pd.DataFrame:
    """The rows where `mask` is true, still connected: edges pass through the rows dropped.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or not.
    mask
        One boolean per row, aligned by label if it is a Series; or a function of the frame that
        gives them, for chains: `layers.lens.keep(lambda rows: rows["func"] == "conv2d")`.

    Returns
    -------
    pandas.DataFrame
        The kept rows. `parents` are the nearest kept rows upstream; `parent_args` the argument
        the path to them began at. Rows that were missing from the frame already stay parents.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError, LensValueError
        The mask is not boolean, or not one value per row.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: x.exp().sin().cos(), torch.ones(2))
    >>> layers.lens.keep(layers["func"].isin(["input", "cos"]))["parents"].tolist()
    [(), ('input_1',)]
    """
    require(frame, "keep", "parents", "parent_args")
    kept = _boolean(frame, mask)
    ops = labels(frame, "keep")
    parents = {op: names("parents", cell) for op, cell in zip(ops, frame["parents"], strict=True)}
    dropped = {op for op, k in zip(ops, kept, strict=True) if not k}
    through: dict[str, tuple[str, ...]] = {}
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for op, roles, k in zip(ops, frame["parent_args"], kept, strict=True):
        if k:
            found = {
                (source, role): None
                for parent, role in zip(parents[op], names("parent_args", roles), strict=True)
                for source in _upstream(parent, parents, dropped, through)
            }
            rows.append((tuple(s for s, _ in found), tuple(r for _, r in found)))
    return with_edges(frame[kept], rows)


def _upstream(
    op: str,
    parents: dict[str, tuple[str, ...]],
    dropped: set[str],
    through: dict[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """The nearest rows that were not dropped, from `op` upwards; loops end where they began.

    `through` remembers the answer of each dropped row, so that all questions together visit each
    edge once.
    """
    if op not in dropped:
        return (op,)
    # Depth first, by a stack: a chain of dropped rows may be longer than Python's own.
    waiting, begun = [op], {op}
    while waiting:
        here = waiting[-1]
        above = [p for p in parents[here] if p in dropped]
        unanswered = [p for p in above if p not in through and p not in begun]
        if unanswered:
            waiting += unanswered
            begun |= {*unanswered}
            continue
        waiting.pop()
        found: dict[str, None] = {}
        for parent in parents[here]:
            # One that is begun and not answered is below itself, in a loop: it adds nothing.
            kept = through.get(parent, ()) if parent in dropped else (parent,)
            found.update(dict.fromkeys(kept))
        through[here] = tuple(found)
    return through[op]


def _boolean(frame: pd.DataFrame, mask: Mask) -> np.ndarray[Any, Any]:
    if callable(mask):
        mask = mask(frame)
    if isinstance(mask, pd.Series) and not mask.index.equals(frame.index):
        mask = mask.reindex(frame.index)
        if mask.isna().any():
            n = int(mask.isna().sum())
            raise LensValueError(f"keep: the mask has no value for {n} of {len(frame)} rows")
    values = np.asarray(mask)
    if values.dtype != bool:
        try:
            values = np.array([{True: True, False: False}[v] for v in values.tolist()])
        except (KeyError, TypeError):
            raise LensTypeError(
                "keep: the mask is not boolean; give a comparison such as df['func'] == 'conv2d'"
            ) from None
    if values.shape != (len(frame),):
        raise LensValueError(f"keep: the mask has {values.size} values for {len(frame)} rows")
    return values


def find(frame: pd.DataFrame, key: Any) -> pd.DataFrame:
    """The rows that `key` names: an op label, a layer, or the path of a module.

    Parameters
    ----------
    frame
        Rows of `layers`.
    key
        `"conv2d_1"`, `"linear_1:2"` or `"layer1.0"`: all operations inside that module, of all its
        calls; `"layer1.0:2"`: of its second call. Several in a list, or rows of a frame: all that
        they name.

    Returns
    -------
    pandas.DataFrame
        These rows, as they are. A label goes before a layer, and a layer before a module of the
        same name; `"module=relu_1"` is the module for certain.

    Raises
    ------
    LensKeyError
        Nothing in the frame has this name; near misses are suggested.

    Warns
    -----
    LensWarning
        `key` is an operation and the path of a module that has others.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval()
    >>> layers, _ = lf.trace(model, torch.ones(2, 3))
    >>> layers.lens.find("1").index.tolist(), layers.lens.find("linear_1").index.tolist()
    (['relu_1'], ['linear_1'])
    """
    wanted = asked_names(key, "find")
    if len(wanted) == 1:
        return frame[_named(frame, wanted[0])]
    ops = labels(frame, "find")
    told = {*wanted}
    found = np.array([op in told for op in ops], bool)
    unknown = []
    for name in told - {*ops}:
        try:
            found |= _named(frame, name)
        except LensKeyError as error:
            unknown.append(str(error))
    if unknown:
        raise LensKeyError("\n".join(sorted(unknown)))
    return frame[found]


def _named(frame: pd.DataFrame, key: str) -> np.ndarray[Any, Any]:
    """Which rows one name names."""
    ops = labels(frame, "find")
    path = module_asked(key)
    mask = [path is None and op == key for op in ops]
    if path is None and not any(mask) and "layer" in frame.columns:
        mask = [layer == key for layer in frame["layer"]]
    stacks = [names("module_stack", stack) for stack in frame.get("module_stack", ())]
    asked = key if path is None else path
    inside = [any(asked in (call, path_of(call)) for call in stack) for stack in stacks]
    if any(mask):
        _warn_of_module(key, ops, mask, inside)
        return np.array(mask, bool)
    require(frame, "find", "module_stack")
    if not any(inside):
        known = [*ops, *frame.get("layer", ())] if path is None else []
        known += [path_of(call) for stack in stacks for call in stack]
        raise unknown_rows([asked], known, "op, layer or module" if path is None else "module")
    return np.array(inside, bool)


def _warn_of_module(key: str, ops: list[str], meant: list[bool], inside: list[bool]) -> None:
    """Say so where `key` is also the path of a module that did something else."""
    other = [op for op, here, there in zip(ops, meant, inside, strict=False) if there and not here]
    if other:
        warn(
            f"{key!r} is read as the operation; the module of that path has {shown(other, 5)}: ask "
            f"for it as 'module={key}'"
        )


def asked(frame: pd.DataFrame, rows: Any, verb: str) -> list[str]:
    """The labels of rows that were asked for, each once and in the order of the frame.

    Parameters
    ----------
    frame
        Rows of `layers`.
    rows
        A selection of rows of a frame; or a label, a layer, the path of a module or one call of it
        (what that returned, as `save=` has it), or several of these.
    verb
        What an error calls the caller.

    Raises
    ------
    LensKeyError
        Nothing in the frame has one of the names; all are named, with near misses.
    LensTypeError
        `rows` is neither.
    """
    given = asked_names(rows, f"{verb}: rows=")
    known = _by_name(frame, verb)
    unknown = [name for name in given if name not in known]
    if unknown:
        named = sorted(known, key=lambda name: name.startswith(MODULE))
        raise unknown_rows(unknown, named, "op, layer or module")
    found = {op for name in given for op in known[name]}
    return [op for op in labels(frame, verb) if op in found]


def _by_name(frame: pd.DataFrame, verb: str) -> dict[str, list[str]]:
    """What each name stands for: a label before a layer, and a layer before a module."""
    require(frame, verb, "layer", "returned_by")
    ops = labels(frame, verb)
    found = {op: [op] for op in ops}
    by_layer: dict[str, list[str]] = {}
    by_module: dict[str, list[str]] = {}
    cells = zip(ops, frame["layer"], frame["returned_by"], strict=True)
    for op, layer, calls in cells:
        by_layer.setdefault(str(layer), []).append(op)
        for name in dict.fromkeys(n for c in names("returned_by", calls) for n in (c, path_of(c))):
            by_module.setdefault(name, []).append(op)
            by_module.setdefault(f"{MODULE}{name}", []).append(op)
    return {**by_module, **by_layer, **found}


def ancestors(frame: pd.DataFrame, key: Any) -> pd.DataFrame:
    """The rows that what `key` names was computed from, without itself.

    What is above a row that was filtered out is not found: ask first and filter then, or filter
    with `keep`, which connects what it leaves.

    Parameters
    ----------
    frame
        Rows of `layers`.
    key
        An op label, a layer, the path of a module, several, or rows, as for `find`.

    Returns
    -------
    pandas.DataFrame
        These rows, as they are.

    Raises
    ------
    LensKeyError
        Nothing in the frame has this name; near misses are suggested.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: (x.exp().sin(), x.cos()), torch.ones(2))
    >>> layers.lens.ancestors("sin_1").index.tolist()
    ['input_1', 'exp_1']
    """
    return _linked(frame, key, "ancestors", upwards=True)


def descendants(frame: pd.DataFrame, key: Any) -> pd.DataFrame:
    """The rows computed from what `key` names, without itself.

    Parameters
    ----------
    frame
        Rows of `layers`.
    key
        An op label, a layer, the path of a module, several, or rows, as for `find`.

    Returns
    -------
    pandas.DataFrame
        These rows, as they are.

    Raises
    ------
    LensKeyError
        Nothing in the frame has this name; near misses are suggested.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: (x.exp().sin(), x.cos()), torch.ones(2))
    >>> layers.lens.descendants("exp_1").index.tolist()
    ['sin_1', 'output_1']
    """
    return _linked(frame, key, "descendants", upwards=False)


def between(frame: pd.DataFrame, start: Any, end: Any) -> pd.DataFrame:
    """The rows on any path from `start` to `end`, both included.

    Parameters
    ----------
    frame
        Rows of `layers`.
    start, end
        Op labels, layers or paths of modules, several, or rows, as for `find`.

    Returns
    -------
    pandas.DataFrame
        These rows, as they are.

    Raises
    ------
    LensKeyError
        Nothing in the frame has one of these names; near misses are suggested.
    LensValueError
        No path leads from one to the other.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: x.exp() + x.sin(), torch.ones(2))
    >>> layers.lens.between("input_1", "exp_1").index.tolist()
    ['input_1', 'exp_1']
    """
    ops = labels(frame, "between")
    first, last = (set(labels(find(frame, key), "between")) for key in (start, end))
    below = _closure(_neighbours(frame, upwards=False), first) | first
    above = _closure(_neighbours(frame, upwards=True), last) | last
    found = below & above
    if not (found & first and found & last):
        ends = [shown(asked_names(key, "between"), 3) for key in (start, end)]
        raise LensValueError(f"between: no path leads from {ends[0]} to {ends[1]} in this frame")
    return frame[[op in found for op in ops]]


def _linked(frame: pd.DataFrame, key: Any, verb: str, upwards: bool) -> pd.DataFrame:
    start = set(labels(find(frame, key), verb))
    found = _closure(_neighbours(frame, upwards), start) - start
    return frame[[op in found for op in labels(frame, verb)]]


def _neighbours(frame: pd.DataFrame, upwards: bool) -> dict[str, list[str]]:
    table = edges(frame)
    here, there = ("target", "source") if upwards else ("source", "target")
    found: dict[str, list[str]] = {}
    for a, b in zip(table[here], table[there], strict=True):
        found.setdefault(a, []).append(b)
    return found


def _closure(neighbours: dict[str, list[str]], start: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = [*start]
    while waiting:
        for op in neighbours.get(waiting.pop(), ()):
            if op not in found:
                found.add(op)
                waiting.append(op)
    return found

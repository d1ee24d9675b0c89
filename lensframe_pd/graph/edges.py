"""The edges that a frame holds in its cells: read, rewired, and handed to networkx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.labels import labels, split_call
from lensframe_pd.schema import require

if TYPE_CHECKING:
    import networkx

#: The columns that only a rolled frame has.
ROLLED = ("parent_passes", "unrolled")


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


def to_networkx(frame: pd.DataFrame) -> networkx.MultiDiGraph:
    """The rows as a `networkx.MultiDiGraph`: columns as node attributes, `arg` on the edges.

    Edges from rows that are not in the frame are left out.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or not.

    Returns
    -------
    networkx.MultiDiGraph
        Nodes are labels; each edge has the attributes `arg` and `passes`, as `edges` gives them.

    Raises
    ------
    LensKeyError
        The frame lacks a column.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(lambda x: x * x, torch.ones(2))
    >>> graph = layers.lens.to_networkx()
    >>> graph.number_of_edges("input_1", "mul_1"), graph.nodes["mul_1"]["func"]
    (2, 'mul')
    """
    import networkx

    require(frame, "to_networkx", "pass_num", "parents", "parent_args")
    graph = networkx.MultiDiGraph()
    ops = labels(frame, "to_networkx")
    for op, cells in zip(ops, frame.to_dict("records"), strict=True):
        graph.add_node(op, **{str(name): cell for name, cell in cells.items()})
    for source, target, arg, passes in edges(frame).itertuples(index=False):
        if source in graph:
            graph.add_edge(source, target, arg=arg, passes=passes)
    return graph


def with_edges(
    frame: pd.DataFrame, rows: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
) -> pd.DataFrame:
    """The frame with these parents and arguments, and without what old edges alone could tell."""
    columns: dict[str, Any] = {}
    for name, k in (("parents", 0), ("parent_args", 1)):
        cells = np.empty(len(rows), dtype=object)
        cells[:] = [row[k] for row in rows]
        columns[name] = cells
    changed = frame.assign(**columns)
    if "n_parents" in changed.columns:
        changed["n_parents"] = [len(parents) for parents, _ in rows]
    return changed.drop(columns=[c for c in ROLLED if c in changed.columns])


def op_index(frame: pd.DataFrame, ops: Sequence[str]) -> pd.Index:
    """Labels as the index of a frame made of this one."""
    kind: Any = frame.index.dtype if frame.index.name == "op" else "str"
    index: pd.Index[Any] = pd.Index([*ops], name="op", dtype=kind)
    return index


def _as_in(column: pd.Series[Any], cells: list[Any]) -> Any:
    """Cells as an array of a column's kind, where that can hold them: texts are no numbers."""
    kind: Any = column.dtype
    if isinstance(kind, pd.CategoricalDtype) and not {*cells} <= {*kind.categories}:
        kind = kind.categories.dtype
    try:
        return pd.array(cells, dtype=kind)
    except (TypeError, ValueError):
        return pd.array(cells, dtype=object)


def frame_like(
    like: pd.DataFrame, rows: Sequence[dict[str, Any]], columns: Sequence[str], index: pd.Index
) -> pd.DataFrame:
    """Rows as a frame whose columns are of the same kind as those of `like`."""
    data: dict[str, Any] = {}
    columns = [name for name in columns if name != index.name]  # where `op` was a column
    for name in columns:
        cells = [row[name] for row in rows]
        if name in like.columns and like[name].dtype != object:
            data[name] = _as_in(like[name], cells)
        elif name == "unrolled":
            data[name] = pd.array(cells, dtype=pd.StringDtype(na_value=np.nan))
        else:
            arrayed = np.fromiter(cells, dtype=object, count=len(cells))
            data[name] = pd.Series(arrayed, index, dtype=object)  # else pandas looks for texts
    frame = pd.DataFrame(data, index=index, columns=list(columns))
    frame.attrs.update(like.attrs)
    return frame

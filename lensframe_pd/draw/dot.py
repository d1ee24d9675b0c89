"""Rows of `layers` as a picture: frame -> DOT text."""

from __future__ import annotations

import html
import os
from typing import Any

import pandas as pd

from lensframe_pd.draw import style
from lensframe_pd.draw.node import Node, look, nodes_of, text
from lensframe_pd.draw.render import LARGE, Drawing, is_text, refuse_too_large
from lensframe_pd.errors import LensValueError
from lensframe_pd.graph.edges import edges
from lensframe_pd.schema import distinct_labels, names, path_of, require, split_call

_FONT = "Arial"  # graphviz-pure has the metrics of single fonts only
_GRAPH = {
    "fontname": _FONT, "fontsize": "10", "ranksep": "0.3", "nodesep": "0.25",
    "bgcolor": "transparent", "fontcolor": style.FAINT, "labelloc": "b",
}  # fmt: skip
_NODE = {
    "shape": "box", "style": "rounded,filled", "fillcolor": style.PLAIN, "color": style.LINE,
    "fontname": _FONT, "fontsize": "11", "fontcolor": style.TEXT, "margin": "0.12,0.05",
    "height": "0.3",
}  # fmt: skip
_EDGE = {
    "color": "#66717d", "arrowsize": "0.6", "fontname": _FONT, "fontsize": "8",
    "fontcolor": style.FAINT,
}  # fmt: skip
_CLUSTER = {
    "style": "rounded", "color": "#b9c2cc", "fontcolor": style.FAINT, "labeljust": "l",
    "labelloc": "t",
}  # fmt: skip
_CARRIED = {
    "constraint": "false",
    "color": style.DECIDES,
    "fontcolor": style.DECIDES,
    "penwidth": "1.4",
}

Boxes = dict[tuple[str, ...], list[Node]]
"""Nodes by the module calls that enclose them, outermost first."""


def draw(
    frame: pd.DataFrame,
    /,
    path: str | os.PathLike[str] | None = None,
    *,
    color: str | None = None,
    **columns: str,
) -> Drawing:
    """Draw these rows as a graph, one node per row; an edge where both its ends are among them.

    Filter, roll, collapse or keep before you draw. Each node shows the label, shape and bytes,
    the parameters it read and the arguments that are not the defaults; its tooltip the whole row.
    Square corners are what a module returned, round ones operations in passing; a thick border is
    a value that Python read, to decide where to go on. Rows of one module call stand in one box.
    In a rolled frame a layer says how often it ran, and what is carried round a loop is an edge of
    its own colour, with the passes. Edges of functions that do not commute name the argument. The
    legend explains what there is.

    Parameters
    ----------
    frame
        Rows of `layers`.
    path
        Where to write it: .svg, .png, .pdf, .gv or .dot.
    color
        A column to fill the nodes by: numbers on a scale with a colour bar, names of colours as
        they are (`"#ffcc00"`, `"tomato"`), other values one colour each. By default the column
        `color`, if you assign one; rows without a value keep the colour of their kind.
    **columns
        Further node attributes of Graphviz, each with the column that gives it:
        `penwidth="weight"`, `tooltip="note"`, `label="title"`.

    Returns
    -------
    Drawing
        With the DOT text as `.source`; a notebook shows it as SVG.

    Raises
    ------
    LensKeyError
        The frame lacks a column the picture is made from; Graphviz has no such attribute.
    LensValueError
        The frame has no rows, a label twice, too many rows for a picture, or the suffix of `path`
        is unknown.
    LensRuntimeError
        No program is installed that can write this format.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> layers.lens.draw().source.count("->")
    2
    >>> layers.query("func != 'input'").lens.draw(color="numel").source.count("->")
    1
    """
    _check(frame)
    advice = _advice(frame)
    if path is not None and not is_text(path):
        refuse_too_large(len(frame), advice)
    drawing = Drawing(dot(frame, color=color, **columns), len(frame), advice)
    if path is not None:
        drawing.save(path)
    return drawing


def dot(frame: pd.DataFrame, /, *, color: str | None = None, **columns: str) -> str:
    """The DOT text of `draw`."""
    import graphviz  # here, to keep the import of the package cheap

    _check(frame)
    nodes = nodes_of(frame)
    fills = style.fills(frame, color)
    own = style.attributes(frame, columns)
    looks = {
        node.id: look(node, fill) | more
        for node, fill, more in zip(nodes, fills.colors, own, strict=True)
    }
    filled = {node.id: fill for node, fill in zip(nodes, fills.colors, strict=True)}
    graph = graphviz.Digraph(graph_attr=_GRAPH, node_attr=_NODE, edge_attr=_EDGE)
    graph.attr(label=f"<{html.escape(style.caption(frame))}>")
    boxes = _boxes(nodes)
    again = {path_of(c) for calls in boxes for c in calls if c.endswith(":2")}
    _add_modules(graph, boxes, (), again, looks, filled)
    carried = _add_edges(graph, frame, nodes)
    signs = set().union(*(node.signs for node in nodes))
    if any(fills.colors):  # they hide the colours of the kinds
        signs &= {"decides", "own"}
    table = style.legend(signs | ({"carried"} if carried else set()), fills.legend)
    if table:
        graph.node("legend", table, shape="plain", style="", fillcolor="none", tooltip="legend")
    return str(graph.source)


def _check(frame: pd.DataFrame) -> None:
    if not len(frame):
        raise LensValueError("draw: the frame has no rows; loosen the selection before it")
    require(frame, "draw", "kind", "shape_str", "module", "module_stack", "parents", "params")
    distinct_labels(frame, "draw")


def _advice(frame: pd.DataFrame) -> str:
    """Which verb makes the frame small enough to draw."""
    ways = []
    if {"layer", "n_passes"} <= set(frame.columns) and (frame["n_passes"] > 1).any():
        ways.append(f"roll() leaves {frame['layer'].nunique()} rows")
    stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
    for depth in (3, 2, 1):
        ones = {stack[:depth] for stack in stacks if len(stack) >= depth}
        n = len(ones) + sum(len(stack) < depth for stack in stacks)
        if n < len(stacks) / 2:
            ways.append(f"collapse(depth={depth}) leaves {n}")
    return "; ".join(ways) or "draw some of the rows, or keep() the important ones"


def _add_edges(graph: Any, frame: pd.DataFrame, nodes: list[Node]) -> bool:
    """Add every edge whose ends are both there; whether one is carried round a loop."""
    by_label = {node.label: node for node in nodes}
    bare = frame.assign(
        **{c: v for c, v in _missing(frame).items() if c not in frame.columns}
    )  # frames made by hand may lack what only edges need
    table = edges(bare)
    inside = table[table["source"].isin(by_label) & table["target"].isin(by_label)]
    several = inside["target"].map(inside.groupby("target")["arg"].nunique()) > 1
    rolled = "parent_passes" in frame.columns
    any_carried = False
    for (source, target, arg, passes), many in zip(
        inside.itertuples(index=False), several, strict=True
    ):
        a, b = by_label[source], by_label[target]
        said = [arg.removeprefix("tensors.")] if many and b.orders else []
        attributes = {}
        if rolled:
            before, _, after = passes.partition(">")
            carried = _is_carried(before, after, a, b)
            any_carried |= carried
            said += [words] if (words := _span(before, after, a, b, carried)) else []
            attributes = _CARRIED if carried else {}
        # in a large graph a label that has a place of its own costs minutes
        where = "label" if len(nodes) <= LARGE else "xlabel"
        label = {where: f" {', '.join(said)} "} if said else {}
        graph.edge(a.id, b.id, **label, **attributes)
    return any_carried


def _missing(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "pass_num": 1,
        "parent_args": pd.Series(
            [tuple(map(str, range(len(names("parents", cell))))) for cell in frame["parents"]],
            index=frame.index, dtype=object,
        ),
    }  # fmt: skip


def _is_carried(before: str, after: str, a: Node, b: Node) -> bool:
    """Whether an edge leads back, from a layer that first ran after the one that reads it."""
    several = a.row.get("n_passes", 1) > 1
    return several and before != after and a.row.get("step", 0) >= b.row.get("step", 0)


def _span(before: str, after: str, a: Node, b: Node, carried: bool) -> str:
    """The passes of an edge, where they are not simply all."""
    both = a.row.get("n_passes", 1) > 1 and b.row.get("n_passes", 1) > 1
    if carried or (both and before != after):
        return f"{before} to {after}"
    if b.row.get("n_passes", 1) > 1 and after != f"1-{b.row['n_passes']}":
        return f"pass {after}"
    if a.row.get("n_passes", 1) > 1 and before != f"1-{a.row['n_passes']}":
        return f"pass {before}"
    return ""


def _boxes(nodes: list[Node]) -> Boxes:
    """Nodes by the calls worth a box: those that hold two nodes, not all in one inner call."""
    sizes: dict[tuple[str, ...], int] = {}
    for node in nodes:
        for depth in range(1, len(node.stack) + 1):
            sizes[node.stack[:depth]] = sizes.get(node.stack[:depth], 0) + 1
    wrappers = {stack[:-1] for stack, n in sizes.items() if sizes.get(stack[:-1]) == n}
    boxed = {stack for stack, n in sizes.items() if n > 1} - wrappers
    found: Boxes = {}
    for node in nodes:
        calls = tuple(
            call for depth, call in enumerate(node.stack, 1) if node.stack[:depth] in boxed
        )
        found.setdefault(calls, []).append(node)
    return found


def _add_modules(
    graph: Any,
    boxes: Boxes,
    calls: tuple[str, ...],
    again: set[str],
    looks: dict[str, dict[str, str]],
    filled: dict[str, str],
) -> None:
    """Add the nodes of one module call, and the boxes of the calls inside it."""
    around = path_of(calls[-1]) if calls else ""
    for node in boxes.get(calls, ()):
        attributes = looks[node.id]
        label = attributes.get("label") or text(node, around, filled[node.id])
        graph.node(node.id, **{**attributes, "label": label})
    depth = len(calls)
    inner: dict[tuple[str, ...], Node] = {}
    for box, nodes in boxes.items():
        if box[:depth] == calls and len(box) > depth:
            inner.setdefault(box[: depth + 1], nodes[0])
    for box, node in inner.items():
        with graph.subgraph(name=f"cluster_{'/'.join(box)}") as cluster:
            cluster.attr(label=_title(box[-1], node, again), **_CLUSTER)
            _add_modules(cluster, boxes, box, again, looks, filled)


def _title(call: str, node: Node, again: set[str]) -> str:
    """Path and class of a box, and which call it is where there are several."""
    path = path_of(call)
    types = node.row.get("module_types") or ()
    place = node.stack.index(call)
    kind = f" ({types[place]})" if place < len(types) else ""
    number = f", call {split_call(call)[1]}" if path in again else ""
    return f"<{html.escape(path + kind + number)}>"

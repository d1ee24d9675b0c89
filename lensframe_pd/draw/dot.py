"""Rows of `layers` as a picture: frame -> DOT text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pandas as pd

from lensframe_pd.draw import style
from lensframe_pd.draw.boxes import title, worth_a_box
from lensframe_pd.draw.links import Link, links
from lensframe_pd.draw.markup import escaped
from lensframe_pd.draw.node import Node, look, named, nodes_of, text
from lensframe_pd.draw.render import LARGE
from lensframe_pd.errors import LensValueError
from lensframe_pd.schema import distinct_labels, path_of, require

Boxes = dict[tuple[str, ...], list[Node]]
"""Nodes by the module calls that enclose them, outermost first."""


def dot(frame: pd.DataFrame, /, *, color: str | None = None, **columns: str) -> str:
    """The DOT text of `draw`."""
    import graphviz  # here, to keep the import of the package cheap

    check(frame)
    nodes = nodes_of(frame)
    fills = style.fills(frame, color)
    own = style.attributes(frame, columns)
    looks = {
        node.id: named(node) | look(node, fill) | more
        for node, fill, more in zip(nodes, fills.colors, own, strict=True)
    }
    filled = {node.id: fill for node, fill in zip(nodes, fills.colors, strict=True)}
    graph = graphviz.Digraph(graph_attr=style.GRAPH, node_attr=style.NODE, edge_attr=style.EDGE)
    graph.attr(label=f"<{escaped(style.caption(frame))}>")
    boxes = _boxes(nodes)
    again = {path_of(c) for calls in boxes for c in calls if c.endswith(":2")}
    _add_modules(graph, boxes, (), count(), again, looks, filled)
    found = links(frame, nodes)
    _add_edges(graph, found, len(nodes) > LARGE)
    carried = any(link.carried for link in found)
    signs: set[str] = set()
    for node, fill in zip(nodes, fills.colors, strict=True):
        # a colour of its own hides that of the kind
        signs |= node.signs & {"decides", "own"} if fill else node.signs
    table = style.legend(signs | ({"carried"} if carried else set()), fills.legend)
    if table:
        graph.node("legend", table, shape="plain", style="", fillcolor="none", tooltip="legend")
    return str(graph.source)


def check(frame: pd.DataFrame) -> None:
    if not len(frame):
        raise LensValueError("draw: the frame has no rows; loosen the selection before it")
    require(frame, "draw", "kind", "shape_str", "module", "module_stack", "parents", "params")
    distinct_labels(frame, "draw")


def _add_edges(graph: Any, found: list[Link], large: bool) -> None:
    # in a large graph a label that has a place of its own costs minutes
    where = "xlabel" if large else "label"
    for link in found:
        label = {where: f" {link.said} "} if link.said else {}
        graph.edge(
            link.source.id, link.target.id, **label, **(style.CARRIED if link.carried else {})
        )


def _boxes(nodes: list[Node]) -> Boxes:
    """Nodes by the calls around them that are worth a box."""
    boxed = {*worth_a_box(nodes)}
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
    numbers: Iterator[int],
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
        types = node.row.get("module_types") or ()
        place = node.stack.index(box[-1])
        kind = types[place] if place < len(types) else ""
        # a number, not the calls: their names may hold whatever would join them
        with graph.subgraph(name=f"cluster_{next(numbers)}") as cluster:
            cluster.attr(label=title(box, kind, again), **style.CLUSTER)
            _add_modules(cluster, boxes, box, numbers, again, looks, filled)

"""Rows of `layers` as a picture: frame -> DOT text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import pandas as pd

from lensframe_pd.draw import style
from lensframe_pd.draw.boxes import title, worth_a_box
from lensframe_pd.draw.columns import columns_of, is_tall, length_of
from lensframe_pd.draw.links import Link, links
from lensframe_pd.draw.markup import escaped, plain_text
from lensframe_pd.draw.node import Node, look, named, nodes_of, text
from lensframe_pd.draw.render import LARGE, QUICK
from lensframe_pd.errors import LensValueError, unknown_names
from lensframe_pd.labels import distinct_labels, path_of
from lensframe_pd.schema import require

Boxes = dict[tuple[str, ...], list[Node]]
"""Nodes by the module calls that enclose them, outermost first."""


_LONG = 4000  # ranks that edges pass, above which the best layout takes half a minute
_DIRECTIONS = {"down": "TB", "up": "BT", "right": "LR", "left": "RL"}


def dot(
    frame: pd.DataFrame,
    /,
    *,
    color: str | None = None,
    columns: int | str = "auto",
    direction: str = "down",
    **attributes: str,
) -> str:
    """The DOT text of `draw`."""
    import graphviz  # here, to keep the import of the package cheap

    check(frame)
    nodes = nodes_of(frame)
    fills = style.fills(frame, color)
    own = style.attributes(frame, attributes)
    there = {node.label for node in nodes}
    filled = {node.id: fill for node, fill in zip(nodes, fills.colors, strict=True)}
    looks = {
        node.id: named(node) | look(node, fill) | _cut_off(node, there) | more
        for node, fill, more in zip(nodes, fills.colors, own, strict=True)
    }
    found = links(nodes)
    graph_attributes = style.GRAPH | _rankdir(direction)
    if len(nodes) <= LARGE and length_of(nodes, found) > _LONG:
        graph_attributes |= QUICK
    one = columns == "auto" and (len(nodes) > LARGE or "rankdir" in graph_attributes)
    column_of = columns_of(nodes, found, 1 if one else columns)
    if not one and not any(column_of) and is_tall(nodes, found):
        graph_attributes |= style.TALL
    graph = graphviz.Digraph(
        graph_attr=graph_attributes, node_attr=style.NODE, edge_attr=style.EDGE
    )
    graph.attr(label=f"<{escaped(style.caption(frame))}>")
    boxes = [_boxes(part) for part in _parts(nodes, column_of)]
    again = {path_of(c) for part in boxes for calls in part for c in calls if c.endswith(":2")}
    numbers = count()
    for part in boxes:
        _add_modules(graph, part, (), numbers, again, looks, filled)
    column = {node.id: k for node, k in zip(nodes, column_of, strict=True)}
    kept = [link for link in found if column[link.source.id] == column[link.target.id]]
    _add_edges(graph, kept, len(nodes) > LARGE)
    if len(boxes) > 1:
        _add_stubs(graph, nodes, found, column)
    table = style.legend(_signs(nodes, fills.colors, found), fills.legend)
    if table:
        graph.node("legend", table, shape="plain", style="", fillcolor="none", tooltip="legend")
    return str(graph.source)


def _rankdir(direction: str) -> dict[str, str]:
    """The direction as Graphviz calls it; Graphviz' own names are taken too."""
    name = _DIRECTIONS.get(str(direction).lower(), str(direction).upper())
    if name not in _DIRECTIONS.values():
        raise unknown_names([str(direction)], _DIRECTIONS, "direction")
    return {} if name == "TB" else {"rankdir": name}


def _parts(nodes: list[Node], column_of: list[int]) -> list[list[Node]]:
    parts: list[list[Node]] = [[] for _ in range(max(column_of) + 1)]
    for node, k in zip(nodes, column_of, strict=True):
        parts[k].append(node)
    return parts


def _signs(nodes: list[Node], colors: list[str], found: list[Link]) -> set[str]:
    """What the legend explains."""
    signs: set[str] = set()
    for node, fill in zip(nodes, colors, strict=True):
        # a colour of its own hides that of the kind
        signs |= node.signs & {"decides", "own"} if fill else node.signs
    return signs | ({"carried"} if any(link.carried for link in found) else set())


def _cut_off(node: Node, there: set[str]) -> dict[str, str]:
    """A note beside a node on what it reads that is not in the picture."""
    missing = [p for p in dict.fromkeys(node.row["parents"]) if p not in there]
    if not missing:
        return {}
    words = escaped(f"from {_few(missing)}")
    return {"xlabel": f'<<FONT POINT-SIZE="9" COLOR="{style.BESIDE}">{words}</FONT>>'}


def check(frame: pd.DataFrame) -> None:
    if not len(frame):
        raise LensValueError("draw: the frame has no rows; loosen the selection before it")
    require(frame, "draw", "kind", "shape_str", "module", "module_stack", "parents", "params")
    distinct_labels(frame, "draw")


def _add_stubs(graph: Any, nodes: list[Node], found: list[Link], column: dict[str, int]) -> None:
    """Columns beside each other, each from the top; cut edges end in the name of what they led to.

    Every column hangs on a point that is not seen, and these points are in one rank.
    """
    tops = {k: f"top{k}" for k in sorted({*column.values()})}
    fed = {link.target.id for link in found if column[link.source.id] == column[link.target.id]}
    hanging = {k: [n.id for n in nodes if column[n.id] == k and n.id not in fed] for k in tops}
    readers: dict[str, dict[int, list[Node]]] = {}
    of_id = {node.id: node for node in nodes}
    for link in found:
        there = column[link.target.id]
        if column[link.source.id] != there:
            cut = readers.setdefault(link.source.id, {}).setdefault(there, [])
            if link.target not in cut:
                cut.append(link.target)
    for source_id, by_column in readers.items():
        source = of_id[source_id]
        names_ = [target.label for targets in by_column.values() for target in targets]
        out = f"to_{source_id}"
        graph.node(out, plain_text(f"to {_few(names_)}"), **style.STUB)
        graph.edge(source_id, out, **style.CUT)
        for k, targets in by_column.items():
            back = f"from_{source_id}_{k}"
            graph.node(back, plain_text(f"from {source.label}"), **style.STUB)
            hanging[k].append(back)
            for target in targets:
                graph.edge(back, target.id, **style.CUT)
    with graph.subgraph() as rank:
        rank.attr(rank="same")
        for top in tops.values():
            rank.node(top, "", shape="point", width="0", style="invis")
        for a, b in pairwise(tops.values()):
            rank.edge(a, b, style="invis")
    for k, top in tops.items():
        for node_id in hanging[k]:
            graph.edge(top, node_id, style="invis")


def _few(names_: list[str], most: int = 2) -> str:
    """The first of many names."""
    more = f" and {len(names_) - most} more" if len(names_) > most else ""
    return ", ".join(names_[:most]) + more


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

"""Edges as a picture shows them: between which nodes, what they say, whether they lead back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from lensframe_pd.cells import names
from lensframe_pd.draw.node import Node
from lensframe_pd.graph.contract import is_uneven


class Link(NamedTuple):
    """An edge whose ends are both nodes."""

    source: Node
    target: Node
    said: str
    """The argument, where it matters which; the passes, where they are not simply all."""
    carried: bool
    """Whether it leads back, round a loop."""


_APART = 16
"""Edges between the same two nodes up to which each is drawn; more are one, which says how many."""


def links(nodes: Sequence[Node]) -> list[Link]:
    """Every edge whose ends are both there, and one for very many between the same two nodes."""
    there = {node.label: node for node in nodes}
    return [link for node in nodes for link in _into(node, there)]


def _into(node: Node, there: Mapping[str, Node]) -> list[Link]:
    """The edges that end in a node, in the order in which it reads.

    One row may read tens of thousands: they are counted, and looked at where they are drawn.
    """
    sources, arguments, passes = _reads(node, there)
    several = node.orders and len({*arguments}) > 1
    back = {s for s in {*sources} if passes and _may_be_carried(there[s], node)}
    ways: Sequence[Any] = sources
    if back:
        ways = [
            (source, source in back and is_uneven(span))
            for source, span in zip(sources, passes, strict=True)
        ]
    counts = Counter(ways)
    bundled = {ways.index(way): n for way, n in counts.items() if n > _APART}
    apart = [k for k, way in enumerate(ways) if counts[way] <= _APART]
    found = []
    for k in sorted([*bundled, *apart]):
        source, carried = there[sources[k]], bool(back) and ways[k][1]
        said = [arguments[k].removeprefix("tensors.")] if several else []
        if passes and (words := _span(passes[k], source, node, carried)):
            said.append(words)
        words = f"{bundled[k]:,} edges" if k in bundled else ", ".join(said)
        found.append(Link(source, node, words, carried))
    return found


def _reads(node: Node, there: Mapping[str, Node]) -> list[Sequence[str]]:
    """What a node reads of the others: which, as which arguments, and, of a rolled frame, passes.

    Frames made by hand may lack what only edges need.
    """
    row = node.row
    sources = row["parents"]
    columns = [
        sources,
        names("parent_args", row.get("parent_args", range(len(sources)))),
        names("parent_passes", row.get("parent_passes", ())),
    ]
    is_there = [source in there for source in sources]
    return columns if all(is_there) else [[*compress(column, is_there)] for column in columns]


def _may_be_carried(a: Node, b: Node) -> bool:
    """Whether an edge may lead back, from a layer that first ran after the one that reads it."""
    return bool(a.row.get("n_passes", 1) > 1 and a.row.get("step", 0) >= b.row.get("step", 0))


def _span(span: str, a: Node, b: Node, carried: bool) -> str:
    """The passes of an edge, where they are not simply all."""
    before, _, after = span.partition(">")
    if ">" in after:  # several edges that became one, each with passes of its own
        return ""
    both = a.row.get("n_passes", 1) > 1 and b.row.get("n_passes", 1) > 1
    if carried or (both and before != after):
        return f"{before} to {after}"
    if b.row.get("n_passes", 1) > 1 and after != f"1-{b.row['n_passes']}":
        return f"pass {after}"
    if a.row.get("n_passes", 1) > 1 and before != f"1-{a.row['n_passes']}":
        return f"pass {before}"
    return ""

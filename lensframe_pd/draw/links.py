"""Edges as a picture shows them: between which nodes, what they say, whether they lead back."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.draw.node import Node
from lensframe_pd.graph.edges import edges


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


def links(frame: pd.DataFrame, nodes: list[Node]) -> list[Link]:
    """Every edge whose ends are both there, and one for very many between the same two nodes."""
    by_label = {node.label: node for node in nodes}
    bare = frame.assign(
        **{c: v for c, v in _missing(frame).items() if c not in frame.columns}
    )  # frames made by hand may lack what only edges need
    table = edges(bare)
    cells = zip(*(table[c].tolist() for c in ("source", "target", "arg", "passes")), strict=True)
    inside = [cell for cell in cells if cell[0] in by_label and cell[1] in by_label]
    arguments: dict[str, set[str]] = {}
    for _, target, arg, _ in inside:
        arguments.setdefault(target, set()).add(arg)
    rolled = "parent_passes" in frame.columns
    found = []
    for source, target, arg, passes in inside:
        a, b = by_label[source], by_label[target]
        several = len(arguments[target]) > 1
        said = [arg.removeprefix("tensors.")] if several and b.orders else []
        carried = False
        if rolled:
            before, _, after = passes.partition(">")
            carried = _is_carried(before, after, a, b)
            said += [words] if (words := _span(before, after, a, b, carried)) else []
        found.append(Link(a, b, ", ".join(said), carried))
    return _bundled(found)


def _bundled(found: list[Link]) -> list[Link]:
    """One link instead of very many that lead the same way between the same two nodes."""
    ways = [(link.source.id, link.target.id, link.carried) for link in found]
    counts = Counter(ways)
    bundled: dict[Any, Link] = {}  # in the order in which they were met
    for k, (way, link) in enumerate(zip(ways, found, strict=True)):
        if counts[way] <= _APART:
            bundled[k] = link
        elif way not in bundled:
            bundled[way] = link._replace(said=f"{counts[way]:,} edges")
    return [*bundled.values()]


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

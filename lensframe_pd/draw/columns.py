"""Long pictures in columns: how many, and which edges to cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from lensframe_pd.draw.links import Link
from lensframe_pd.draw.node import Node
from lensframe_pd.errors import LensValueError

_MOST = 4  # columns
_FEWEST = 8  # rows of a column
_CUT = 2  # rows read across a cut, from which on the picture is not one that can be cut
_TALL = 2.2  # height to width up to which a picture stays as it is
_APART = 36.0  # points that a line takes, with the room on both sides of it
_LINE, _BETWEEN, _LETTER, _ROOM = 11.0, 34.0, 4.6, 30.0  # points: of a node's text and around it


class Cut(NamedTuple):
    """Where one column ends and the next begins."""

    place: int
    """Number of the first row of the next column."""
    crossing: int
    """How many rows before it are read after it."""


def columns_of(nodes: Sequence[Node], found: Sequence[Link], columns: int | str) -> list[int]:
    """The column of each node, from 0.

    Parameters
    ----------
    columns
        How many; `"auto"`: as few as it takes for a picture that is not much taller than wide,
        and one where that would cut many edges.

    Raises
    ------
    LensValueError
        `columns` is neither `"auto"` nor a number from 1.
    """
    if columns != "auto" and (isinstance(columns, bool) or not isinstance(columns, int)):
        raise LensValueError(f"draw: columns={columns!r}; give a number from 1, or 'auto'")
    if isinstance(columns, int) and columns < 1:
        raise LensValueError(f"draw: columns={columns}; give a number from 1, or 'auto'")
    sorted_nodes, edges = _in_order(nodes, found)
    if isinstance(columns, int):
        cuts = _cuts(sorted_nodes, edges, min(columns, len(nodes)))
    else:
        cuts = _best(sorted_nodes, edges)
    of_place = [sum(rank >= cut.place for cut in cuts) for rank in range(len(nodes))]
    column = {node.id: k for node, k in zip(sorted_nodes, of_place, strict=True)}
    return [column[node.id] for node in nodes]


def is_tall(nodes: Sequence[Node], found: Sequence[Link]) -> bool:
    """Whether a picture of one column is long enough for several, and too tall for its width."""
    if len(nodes) < 2 * _FEWEST:
        return False
    ordered, edges = _in_order(nodes, found)
    height, width = _size(ordered, edges, [0, len(nodes)])
    rank = _ranks(edges, 0, len(nodes))
    passing = [0] * len(nodes)  # how many edges go past each rank, which take room beside it
    for a, b in edges:
        for r in range(rank[a] + 1, rank[b]):
            passing[r] += 1
    return height > _TALL * (width + _APART * max(passing))


def _in_order(
    nodes: Sequence[Node], found: Sequence[Link]
) -> tuple[list[Node], list[tuple[int, int]]]:
    """Nodes as they ran, and edges between their places."""
    order = sorted(range(len(nodes)), key=lambda i: (nodes[i].row.get("step", i), i))
    place = {nodes[i].id: rank for rank, i in enumerate(order)}
    edges = [(place[link.source.id], place[link.target.id]) for link in found]
    return [nodes[i] for i in order], edges


def length_of(nodes: Sequence[Node], found: Sequence[Link]) -> int:
    """How many ranks all edges together pass: what the time of a layout grows with."""
    rank = {node.id: 0 for node in nodes}
    place = {node.id: i for i, node in enumerate(nodes)}
    for link in sorted(found, key=lambda link: place[link.target.id]):
        source, target = link.source.id, link.target.id
        if place[source] < place[target]:
            rank[target] = max(rank[target], rank[source] + 1)
    return sum(abs(rank[link.target.id] - rank[link.source.id]) for link in found)


def _best(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> list[Cut]:
    """The cuts of the fewest columns that make a picture of good shape."""
    for k in range(1, min(_MOST, len(nodes) // _FEWEST) + 1):
        cuts = _cuts(nodes, edges, k)
        if any(cut.crossing > _CUT for cut in cuts):
            break
        chosen = cuts
        height, width = _size(nodes, edges, [0, *(cut.place for cut in cuts), len(nodes)])
        if height <= _TALL * width:
            return cuts
    else:
        return chosen if len(nodes) >= _FEWEST else []
    return chosen if k > 1 else []


def _cuts(nodes: Sequence[Node], edges: Sequence[tuple[int, int]], k: int) -> list[Cut]:
    """Where to cut into k columns: near equal parts, few edges, outside boxes if possible."""
    n = len(nodes)
    found: list[Cut] = []
    for j in range(1, k):
        ideal = n * j / k
        near = max(1, n // (3 * k))
        first = found[-1].place + 1 if found else 1
        places = [c for c in range(first, n) if abs(c - ideal) <= near] or [
            max(first, round(ideal))
        ]
        crossing = {c: _crossing(edges, c) for c in places}
        best = min(places, key=lambda c: (*crossing[c], _inside(nodes, c), abs(c - ideal)))
        found.append(Cut(best, crossing[best][0]))
    return [cut for cut in found if cut.place < n]


def _crossing(edges: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """How many rows are read across a place, and how often."""
    across = {(a, b) for a, b in edges if min(a, b) < place <= max(a, b)}
    return len({a for a, _ in across}), len(across)


def _inside(nodes: Sequence[Node], place: int) -> int:
    """How many boxes a cut goes through."""
    before, after = nodes[place - 1].stack, nodes[place].stack
    return sum(a == b for a, b in zip(before, after, strict=False))


def _size(
    nodes: Sequence[Node], edges: Sequence[tuple[int, int]], ends: Sequence[int]
) -> tuple[float, float]:
    """About how high and wide a picture would be, in points, from its longest paths."""
    height = width = 0.0
    for first, end in pairwise(ends):
        rank = _ranks(edges, first, end)
        rows: dict[int, list[Node]] = {}
        for i, r in enumerate(rank):
            rows.setdefault(r, []).append(nodes[first + i])
        height = max(height, sum(max(map(_height, row)) for row in rows.values()))
        width += max(sum(map(_width, row)) for row in rows.values()) + 2 * _ROOM
    return height, width


def _ranks(edges: Sequence[tuple[int, int]], first: int, end: int) -> list[int]:
    """How many edges lead to each of these nodes on the longest way among them."""
    rank = [0] * (end - first)
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        if first <= a < b < end:
            rank[b - first] = max(rank[b - first], rank[a - first] + 1)
    return rank


def _height(node: Node) -> float:
    lines = 3 + int(bool(node.row.get("params"))) + int(node.row["kind"] == "module")
    return _LINE * lines + _BETWEEN


def _width(node: Node) -> float:
    return _LETTER * max(len(node.label), 26) + _ROOM

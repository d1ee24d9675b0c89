"""The module calls of a frame as boxes that can be shut: a tree, what each holds, its statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.draw.markup import escaped
from lensframe_pd.draw.node import Node
from lensframe_pd.graph.parameters import parameters
from lensframe_pd.labels import label, path_of, split_call
from lensframe_pd.quantities import quantity

Stack = tuple[str, ...]
"""Module calls, outermost first."""

#: Columns whose sum over the rows inside says what a module took.
SUMMED = (
    "seconds", "numel", "nbytes", "flops", "macs", "act_bytes", "backward_bytes", "moved_bytes",
)  # fmt: skip
#: Those of parameters, where each parameter counts once.
COUNTED = ("n_params", "params_nbytes", "n_trainable")


class Box(NamedTuple):
    """A module call that holds more than one row, and not all of them in one call inside it."""

    stack: Stack
    """The calls around it, and it."""
    outer: int
    """Number of the box around it; -1 of none."""
    node: Node
    """As the row that stands for it when it is shut."""
    title: str
    """As the heading over it when it is open; HTML."""
    sums: dict[str, float]


def worth_a_box(nodes: Sequence[Node]) -> list[Stack]:
    """The calls worth a box, in order: those that hold two nodes, not all in one inner call."""
    sizes: dict[Stack, int] = {}
    for node in nodes:
        for depth in range(1, len(node.stack) + 1):
            sizes[node.stack[:depth]] = sizes.get(node.stack[:depth], 0) + 1
    wrappers = {stack[:-1] for stack, n in sizes.items() if sizes.get(stack[:-1]) == n}
    return [stack for stack, n in sizes.items() if n > 1 and stack not in wrappers]


def boxes_of(frame: pd.DataFrame, nodes: Sequence[Node]) -> tuple[list[Box], list[int]]:
    """The boxes, outer ones first, and for each row the number of its innermost (-1: none)."""
    number = {stack: k for k, stack in enumerate(worth_a_box(nodes))}
    innermost: list[int] = []
    inside: list[list[int]] = [[] for _ in number]
    for i, node in enumerate(nodes):
        around = [
            number[s] for d in range(1, len(node.stack) + 1) if (s := node.stack[:d]) in number
        ]
        for k in around:
            inside[k].append(i)
        innermost.append(around[-1] if around else -1)
    held = _held(frame)
    again = {path_of(call) for stack in number for call in stack if split_call(call)[1] > 1}
    found: list[Box] = []
    for stack, members in zip(number, inside, strict=True):
        outer = next(
            (number[stack[:d]] for d in range(len(stack) - 1, 0, -1) if stack[:d] in number), -1
        )
        sums = _sums([nodes[i] for i in members], [held.get(i, {}) for i in members])
        node = _shut(stack, [nodes[i] for i in members], sums, again, len(found))
        found.append(Box(stack, outer, node, title(stack, node.row["func"], again), sums))
    return found, innermost


def title(stack: Stack, kind: str, again: set[str]) -> str:
    """Path and class of a box, and which call it is where there are several; HTML."""
    path, number = split_call(stack[-1])
    words = path + (f" ({kind})" if kind else "")
    return f"<{escaped(words + (f', call {number}' if path in again else ''))}>"


def _held(frame: pd.DataFrame) -> dict[int, dict[str, tuple[float, float, float]]]:
    """Row number to its parameters: elements, bytes, trainable elements."""
    if not {"params", "param_shapes"} <= {*frame.columns}:
        return {}
    found: dict[int, dict[str, tuple[float, float, float]]] = {}
    table = parameters(frame, "draw")
    cells = (table[c] for c in ("row", "name", "numel", "nbytes", "trainable"))
    for row, name, *counts in zip(*cells, strict=True):
        found.setdefault(row, {})[name] = (counts[0], counts[1], counts[2])
    return found


def _sums(
    members: Sequence[Node], held: Sequence[dict[str, tuple[float, float, float]]]
) -> dict[str, float]:
    there = members[0].row
    sums = {c: _sum([node.row[c] for node in members]) for c in SUMMED if c in there}
    once: dict[str, tuple[float, float, float]] = {}
    for parameters_ in held:
        once.update(parameters_)
    sums |= {
        column: _sum([counts[k] for counts in once.values()])
        for k, column in enumerate(COUNTED)
        if column in there
    }
    return sums


def _sum(cells: Sequence[Any]) -> float:
    present = [float(cell) for cell in cells if not pd.isna(cell)]
    total = sum(present)
    return int(total) if total == int(total) else total


def _shut(
    stack: Stack, members: Sequence[Node], sums: dict[str, float], again: set[str], number: int
) -> Node:
    """The row of a module call, as `collapse` would make it, of what a picture shows."""
    result = _result(stack[-1], members)
    k = len(stack) - 1
    first = members[0]
    types = first.row.get("module_types") or ()
    path, call_number = split_call(stack[-1])
    row: dict[str, Any] = {
        "kind": "module",
        "func": types[k] if k < len(types) else "",
        "shape_str": result.get("shape_str", ""),
        "module": path_of(stack[k - 1]) if k else "",
        "module_stack": stack[:k],
        "params": (),
        "n_params": sums.get("n_params", 0),
        "n_passes": first.row.get("n_passes", 1) if not call_number else 1,
    }
    if "nbytes" in result:
        row["nbytes"] = result["nbytes"]
    name = label(path, call_number, 2 if path in again else 1)
    return Node(f"m{number}", name, row, stack[:k])


def _result(call: str, members: Sequence[Node]) -> Any:
    """The row of the first tensor that a call returned; the last row where it made none."""
    for column in ("returned_first", "returned_by"):
        for node in members:
            returned = node.row.get(column) or ()
            if call in returned or call in [path_of(c) for c in returned]:
                return node.row
    return members[-1].row


def facts(box: Box) -> dict[str, str]:
    """What a reader is told of a box, beside its sums."""
    path, number = split_call(box.stack[-1])
    row = box.node.row
    return {
        "module": path,
        **({"call": str(number)} if number else {}),
        "class": str(row["func"]),
        "result": row["shape_str"] or "scalar",
        "parameters": quantity(box.sums.get("n_params", 0)),
    }

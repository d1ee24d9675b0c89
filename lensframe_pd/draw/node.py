"""One row as a node: its text, its look, its tooltip."""

from __future__ import annotations

import functools
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lensframe_pd.cells import each_plain, names, plain_cells
from lensframe_pd.draw.markup import escaped, plain_text
from lensframe_pd.draw.style import (
    DECIDES,
    FAINT,
    FROZEN,
    KINDS,
    TRAINABLE,
    text_on,
)
from lensframe_pd.labels import labels, path_of
from lensframe_pd.quantities import quantity
from lensframe_pd.tape.functions import COMMUTATIVE

_WIDTH = 38
_TOLD = 160  # letters of a cell in a tooltip
_BACKEND = frozenset(("cudnn_enabled", "benchmark", "deterministic", "allow_tf32"))
_NAMES = ("parents", "params", "module_stack")
_WHOLE = ("parents", "parent_args", "parent_passes", "module_stack", "module_types")
_NOT_IN_TOOLTIPS = (
    "op",
    "unrolled",
    "parent_passes",
    "saved",
    "unsaved_reason",
    "stride",
    "shape_str",
)


class Node(NamedTuple):
    """A row of the frame, as the picture needs it."""

    id: str
    """Safe in DOT, where `linear_1:2` would be port 2 of node linear_1."""
    label: str
    row: Mapping[str, Any]
    stack: tuple[str, ...]
    """The module calls around it; without their numbers where the frame is rolled."""

    @property
    def signs(self) -> set[str]:
        """What of it the legend explains."""
        row = self.row
        found = {row["kind"]} & {*KINDS}
        if row["kind"] == "op" and row["params"]:
            found.add("frozen" if row.get("n_trainable", 1) == 0 else "trainable")
        if row.get("read_by"):
            found.add("decides")
        if _is_own(row):
            found.add("own")
        return found

    @property
    def orders(self) -> bool:
        """Whether it matters which argument is which."""
        return self.row["kind"] != "module" and self.row.get("func", "") not in COMMUTATIVE


def nodes_of(frame: pd.DataFrame) -> list[Node]:
    """The rows as nodes, in order."""
    ops = labels(frame, "draw")
    rolled = "parent_passes" in frame.columns
    columns = {str(c): _cells(frame, c) for c in frame.columns}
    found = []
    for i, op in enumerate(ops):
        row = {name: cells[i] for name, cells in columns.items()}
        stack = row["module_stack"]
        if rolled:
            stack = tuple(path_of(call) for call in stack)
        found.append(Node(f"n{i}", op, row, stack))
    return found


def _cells(frame: pd.DataFrame, name: Any) -> list[Any]:
    """A column; of what a module holds as much as is told: one may be all of a model."""
    column = frame[name]
    if column.dtype != object and name not in _NAMES:  # of a file may be text
        return plain_cells(column)
    cells = [*column]
    if name not in _WHOLE:
        kinds = frame["kind"]
        cells = [_head(c) if k == "module" else c for c, k in zip(cells, kinds, strict=True)]
    return [names(name, cell) for cell in cells] if name in _NAMES else each_plain(cells)


def _head(cell: Any) -> Any:
    return cell[:_TOLD] if isinstance(cell, (tuple, list, np.ndarray)) else cell


def look(node: Node, color: str) -> dict[str, str]:
    """The Graphviz attributes that a node has by itself; what names it, `named` gives."""
    row = node.row
    signs = node.signs
    fill = color or KINDS.get(row["kind"], "")
    if not fill and row["params"]:
        fill = FROZEN if "frozen" in signs else TRAINABLE
    attributes: dict[str, str] = {}
    if fill:
        attributes["fillcolor"] = fill
    if color:
        attributes["fontcolor"] = text_on(color)
    if "own" in signs:
        attributes["style"] = "filled"
    if row["kind"] == "alias":
        attributes["style"] = "rounded,filled,dashed"
    if row["kind"] == "module":
        attributes |= {"shape": "box3d", "style": "filled"}
    if "decides" in signs:
        attributes |= {"color": DECIDES, "penwidth": "2"}
    return attributes


def named(node: Node) -> dict[str, str]:
    """The attributes by which an SVG tells its nodes apart: the label, and the whole row."""
    return {"id": plain_text(node.label), "tooltip": plain_text(_tooltip(node))}


def _is_own(row: Mapping[str, Any]) -> bool:
    """Whether it is what its module returned: an operation of the module, not in passing."""
    stack = row.get("module_stack") or ()
    return bool(row["kind"] == "op" and stack and stack[-1] in (row.get("returned_by") or ()))


def text(node: Node, around: str, color: str = "") -> str:
    """The node's label: what it is, its shape and size, its parameters, what was set.

    Parameters
    ----------
    around
        Path of the module whose box it is in, which need not be said again.
    """
    row = node.row
    title = node.label
    if row.get("n_passes", 1) > 1 and ":" not in node.label:
        title += f" (x{row['n_passes']})"
    faint = text_on(color) if color else FAINT
    lines = [f"<B>{escaped(line)}</B>" for line in wrapped(title)]
    if row["kind"] == "module" and row.get("func"):
        repeats = f"{row['repeats']} x " if row.get("repeats", 1) > 1 else ""
        lines.append(_small(f"{repeats}{row['func']}", faint))
    size = f", {quantity(row['nbytes'], 'B')}" if "nbytes" in row else ""
    lines.append(_small(f"{row['shape_str'] or 'scalar'}{size}", faint))
    module = "" if row["module"] == around else row["module"].removeprefix(f"{around}.")
    if row["kind"] == "module" and node.label.startswith(row["module"]):
        module = ""  # its label says where it is
    more = [module, _parameters(row), _settings(row)]
    if row["kind"] in ("input", "output", "constant"):
        more.append(row.get("path", ""))
    for part in more:
        lines += [_small(line, faint) for line in wrapped(part)]
    for reader in row.get("read_by") or ():
        lines.append(_small(f"read by {reader}", faint if color else DECIDES))
    return f"<{'<BR/>'.join(lines)}>"


def wrapped(words: str) -> list[str]:
    """The lines of a label; a name that is longer than a line breaks at its dots."""
    if len(words) <= _WIDTH:
        return [words] if words else []
    found: list[str] = []
    for line in textwrap.wrap(words, _WIDTH, break_on_hyphens=False, break_long_words=False):
        while len(line) > _WIDTH:
            cut = line.rfind(".", 1, _WIDTH) + 1 or _WIDTH
            found.append(line[:cut])
            line = line[cut:]
        found.append(line)
    return found


def _small(words: str, color: str) -> str:
    return f'<FONT POINT-SIZE="9" COLOR="{color}">{escaped(words)}</FONT>'


def _parameters(row: Mapping[str, Any]) -> str:
    """`weight 64x3x7x7, bias 64`; of a collapsed module only how many."""
    if row["kind"] == "module":
        return f"{quantity(row['n_params'])} parameters" if row.get("n_params") else ""
    shapes = row.get("param_shapes") or [()] * len(row["params"])
    return ", ".join(
        " ".join([name.removeprefix(f"{row['module']}."), "x".join(map(str, shape))]).strip()
        for name, shape in zip(row["params"], shapes, strict=False)
    )


def _settings(row: Mapping[str, Any]) -> str:
    """The arguments that are not the function's defaults: `stride=2, padding=3`."""
    if row["kind"] != "op":
        return ""
    config = json.loads(row.get("config") or "{}")
    usual = _defaults(row.get("target", ""))
    shown = {
        k: v
        for k, v in config.items()
        if v is not None
        and k not in _BACKEND
        and not _is_tensors(v)
        and not _among(v, usual.get(k, ()))
    }
    if set(shown) <= {"0", "1"}:  # of a function that does not name them
        return ", ".join(_short(v) for v in shown.values())
    return ", ".join(f"{k}={_short(v)}" for k, v in shown.items())


def _is_tensors(value: Any) -> bool:
    """Whether a sequence holds nothing but tensors, which are edges."""
    return isinstance(value, list) and 0 < len(value) == value.count({"$tensor": True})


def _among(value: Any, usual: tuple[Any, ...]) -> bool:
    if any(isinstance(u, list) and u and all(v == value for v in u) for u in usual):
        return True
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        return value in usual or value[0] in usual
    return value in usual


def _short(value: Any) -> str:
    """A JSON value as one would write it: `[2, 2]` as `2`, `{"$slice": [0, 5, null]}` as `0:5`."""
    if isinstance(value, dict):
        if "$slice" in value:
            start, stop, step = ("" if v is None else _short(v) for v in value["$slice"])
            return f"{start}:{stop}" + (f":{step}" if step else "")
        if "$ellipsis" in value:
            return "..."
        if "$tensor" in value:
            return "tensor"
        if len(value) == 1:
            return _short(next(iter(value.values())))
    if isinstance(value, list):
        scalars = not any(isinstance(v, (dict, list)) for v in value)
        if scalars and len({*map(str, value)}) == 1:  # the same along every axis
            return _short(value[0])
        words = ", ".join(map(_short, value[:6])) + (", ..." if len(value) > 6 else "")
        return f"[{words}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return textwrap.shorten(str(value), 24, placeholder="...")


@functools.cache
def _defaults(target: str) -> dict[str, tuple[Any, ...]]:
    """The default values of a function's arguments, over all its overloads."""
    name = target.rpartition(".")[2]
    found: dict[str, list[Any]] = {}
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}") if name else ():
        for argument in schema.arguments:
            if argument.has_default_value():
                value = argument.default_value
                found.setdefault(argument.name, []).append(value)
    for function in (_resolved(target), getattr(torch.nn.functional, name, None)):
        try:
            parameters = inspect.signature(function).parameters if callable(function) else {}
        except (TypeError, ValueError):  # a C function
            continue
        for argument_name, parameter in parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                found.setdefault(argument_name, []).append(parameter.default)
    return {
        k: tuple(v if not isinstance(v, tuple) else [*v] for v in vs) for k, vs in found.items()
    }


def _resolved(target: str) -> Any:
    """The function of that name, None if torch has none."""
    owner: Any = torch
    for part in target.split(".")[1:]:
        owner = getattr(owner, part, None)
    return owner


def _tooltip(node: Node) -> str:
    """Every cell that says something."""
    lines = [node.label]
    for name, cell in node.row.items():
        if _is_empty(cell) or name in _NOT_IN_TOOLTIPS:
            continue
        if isinstance(cell, tuple):
            cell = ", ".join(map(str, cell[:_TOLD]))  # what is behind has no place
        words = _beginning(str(cell))
        if len(words) > _TOLD:  # textwrap is slow, and this is done for every cell
            words = textwrap.shorten(words, _TOLD, placeholder="...")
        lines.append(f"{name}: {words}")
    return "\n".join(lines)


def _beginning(text: str) -> str:
    """Its words, at least as many as fit in a tooltip: one box may stand for all of a model."""
    words: list[str] = []
    letters = 0
    for match in re.finditer(r"\S+", text):
        words.append(match[0][: 2 * _TOLD])
        letters += len(words[-1]) + 1
        if letters > 2 * _TOLD:
            break
    return " ".join(words)


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, (tuple, str)):
        return cell in ((), "", "{}")
    return cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))

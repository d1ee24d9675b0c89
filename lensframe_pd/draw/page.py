"""Rows of `layers` as one HTML file whose modules open and shut: frame -> page."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.draw import style
from lensframe_pd.draw.boxes import COUNTED, SUMMED, Box, boxes_of, facts
from lensframe_pd.draw.links import links
from lensframe_pd.draw.node import Node, look, nodes_of, text
from lensframe_pd.errors import LensRuntimeError
from lensframe_pd.graph.parameters import parameters
from lensframe_pd.labels import names_of, path_of
from lensframe_pd.quantities import unit_of
from lensframe_pd.schema import model_class

_NOT_TOLD = frozenset(("unrolled", "parent_passes", "op"))
_SEARCHED = ("module", "module_type", "func", "shape_str", "params", "source", "path")
_WALL = 150  # boxes above which all modules are shut at first
_LONGEST = 400  # letters of a cell
_LAYOUT = "easydot.assets"
_EXPORT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")
_WORK = """
;Graphviz_.load().then(g => {
  onmessage = e => {
    const began = performance.now();
    try { postMessage({svg: g.layout(e.data, "svg", "dot"), ms: performance.now() - began}); }
    catch (x) { postMessage({error: String(x.message ?? x)}); }
  };
  postMessage({ready: true});
});"""


def page(
    frame: pd.DataFrame,
    opened: Sequence[str],
    static: str,
    color: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> str:
    """The HTML of a page that shows these rows, without a network.

    Parameters
    ----------
    frame
        Rows of `layers`.
    opened
        Paths of the modules that are open at first.
    static
        An SVG that is seen until the page is alive, and without JavaScript.
    color
        The column to colour by at first.
    columns
        Node attributes of Graphviz and the columns that give them.

    Raises
    ------
    LensRuntimeError
        The package `easydot`, of which the layout is, is not installed.
    """
    code = _asset("page.js")
    nodes = nodes_of(frame)
    boxes, inner = boxes_of(frame, nodes)
    data = _data(frame, nodes, boxes, inner, {*opened}, color, columns or {})
    parts = {
        "TITLE": html.escape(model_class(frame) or "layers"),
        "HASH": f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}",
        "STATIC": static,
        "MODULES": _table(module_table(frame, boxes)),
        "DATA": _packed(_json(data)),
        "LIB": _graphviz(),
        "CODE": code,
    }
    # in one go: a name of the user's may look like a place of the template
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def _data(
    frame: pd.DataFrame,
    nodes: list[Node],
    boxes: list[Box],
    inner: list[int],
    opened: set[str],
    color: str | None,
    columns: Mapping[str, str],
) -> dict[str, Any]:
    """What the page's program works on."""
    own = style.attributes(frame, dict(columns))
    numbers = {node.label: i for i, node in enumerate(nodes)}
    around = [path_of(boxes[k].stack[-1]) if k >= 0 else "" for k in inner]
    signs: set[str] = {"module"} if boxes else set()
    for node in nodes:
        signs |= node.signs
    statements = [
        _attributes(look(node, ""), text(node, path), more)
        for node, path, more in zip(nodes, around, own, strict=True)
    ]
    chosen = style.column_of(frame, color)
    return {
        "head": "".join(
            f"{kind} [{_attributes(values)}];"
            for kind, values in (
                ("graph", style.GRAPH), ("node", style.NODE), ("edge", style.EDGE)
            )
        ),
        "cluster": "; ".join(f'{k}="{v}"' for k, v in style.CLUSTER.items()) + ";",
        "carried": " ".join(f'{k}="{v}"' for k, v in style.CARRIED.items()).replace(
            'constraint="false"', "constraint=false"
        ),
        "work": _WORK,
        "labels": [node.label for node in nodes],
        "rows": statements,
        "inner": inner,
        "given": [int(node.row["kind"] in style.GIVEN) for node in nodes],
        "edges": [
            [numbers[link.source.label], numbers[link.target.label]]
            + ([_quoted(f" {link.said} ") if link.said else "", int(link.carried)]
               if link.said or link.carried else [])
            for link in links(nodes)
        ],
        "boxes": [_box(box) for box in boxes],
        "opened": _opened(boxes, inner, opened),
        "columns": _columns(frame, nodes, chosen),
        "searched": _SEARCHED,
        "color": chosen,
        "key": [[fill, words] for fill, words in style.meanings(signs)],
        "neutral": style.NEUTRAL,
        "scale": style.scale_colors(),
        "categories": style.CATEGORIES,
    }  # fmt: skip


def _opened(boxes: Sequence[Box], inner: Sequence[int], opened: set[str]) -> list[int]:
    """The boxes that are open at first; none if that would be a wall of boxes."""
    found = {k for k, box in enumerate(boxes) if {*map(path_of, box.stack)} <= opened}
    seen = {_seen(boxes, found, k, row) for row, k in enumerate(inner)}
    return sorted(found) if len(seen) <= _WALL else []


def _seen(boxes: Sequence[Box], opened: set[int], box: int, row: int) -> tuple[str, int]:
    """What stands for a row: its outermost box that is shut, else itself."""
    seen = ("row", row)
    while box >= 0:
        if box not in opened:
            seen = ("box", box)
        box = boxes[box].outer
    return seen


def _box(box: Box) -> dict[str, Any]:
    label = text(box.node, box.node.row["module"])
    return {
        "outer": box.outer,
        "depth": names_of(box.stack[-1]),
        "dot": _attributes(look(box.node, ""), label, {}),
        "title": box.title,
        "sums": box.sums,
        "facts": facts(box),
    }


def _attributes(
    values: Mapping[str, str], label: str = "", more: Mapping[str, str] | None = None
) -> str:
    """Attributes as Graphviz writes them, `a=b c=d`."""
    from graphviz.quoting import a_list

    labelled = {**values, **({"label": label} if label else {}), **(more or {})}
    return str(a_list(kwargs=labelled))


def _quoted(words: str) -> str:
    from graphviz.quoting import quote

    return str(quote(words))


def _columns(
    frame: pd.DataFrame, nodes: Sequence[Node], chosen: str | None
) -> list[dict[str, Any]]:
    found = []
    for key in frame.columns:
        name, column = str(key), frame[key]
        if name in _NOT_TOLD:
            continue
        kind = column.dtype
        numeric = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
        raw = [node.row[name] for node in nodes]
        once = {id(cell): cell for cell in raw}  # rows share cells
        made = {key: _cell(cell, bool(numeric)) for key, cell in once.items()}
        cells = [made[id(cell)] for cell in raw]
        if name == chosen and not numeric:
            cells = [style.hex_color(cell) for cell in cells]
        found.append({
            "name": name, "cells": cells, "numeric": bool(numeric), "unit": unit_of(name),
            "sum": name in SUMMED + COUNTED, "timed": name in style.OF_CALLS,
        })  # fmt: skip
    return found


def _cell(cell: Any, numeric: bool) -> Any:
    """A cell as JSON has it: a number, a text that is not too long, or null."""
    if isinstance(cell, tuple):
        cell = ", ".join(map(str, cell))
    missing = cell is None or cell is pd.NA or cell is pd.NaT
    if missing or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if numeric and isinstance(cell, (int, float)):
        return cell if math.isfinite(cell) else str(cell)
    words = str(cell)
    return words if len(words) <= _LONGEST else words[: _LONGEST - 3] + "..."


def _table(modules: pd.DataFrame) -> str:
    """The modules with their shares: what a reader without JavaScript has."""
    if modules.empty:
        return "<p>No module holds these rows.</p>"
    heads = "".join(f"<th>{html.escape(str(c))}</th>" for c in modules.columns)
    rows = "".join(
        f"<tr><td>{html.escape(str(path))}</td>"
        + "".join(f'<td class="n">{html.escape(str(cell))}</td>' for cell in cells)
        + "</tr>"
        for path, *cells in modules.itertuples()
    )
    return f"<h2>modules</h2><table><tr><th>module</th>{heads}</tr>{rows}</table>"


def module_table(frame: pd.DataFrame, boxes: Sequence[Box], most: int = 40) -> pd.DataFrame:
    """Modules with their share of parameters, FLOPs and time, the largest levels first, as text."""
    wanted = {"parameters": "n_params", "FLOPs": "flops", "time": "seconds"}
    there = {title: column for title, column in wanted.items() if column in frame.columns}
    totals = {column: _total(boxes, frame, column) for column in there.values()}
    depth = max(
        (d for d in range(1, 9) if sum(len(b.stack) <= d for b in boxes) <= most), default=0
    )
    shown: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.stack) <= depth:
            shown.setdefault(path_of(box.stack[-1]), []).append(box)
    cells = {
        title: [_share(_of_calls(path, calls, frame, column), totals[column])
                for path, calls in shown.items()]
        for title, column in there.items()
    }  # fmt: skip
    return pd.DataFrame(cells, index=[*shown])


def _of_calls(path: str, calls: Sequence[Box], frame: pd.DataFrame, column: str) -> float | None:
    """What all calls of a module come to; a parameter that several read counts once."""
    if len(calls) > 1 and column in COUNTED and {"params", "param_shapes"} <= {*frame.columns}:
        stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
        inside = [path in map(path_of, stack) for stack in stacks]
        return _counted(frame[inside])
    sums = [box.sums[column] for box in calls if column in box.sums]
    return sum(sums) if sums else None


def _total(boxes: Sequence[Box], frame: pd.DataFrame, column: str) -> float:
    if column in COUNTED and {"params", "param_shapes"} <= {*frame.columns}:
        return _counted(frame)
    return float(pd.to_numeric(frame[column]).sum())


def _counted(frame: pd.DataFrame) -> float:
    """Elements of the parameters that rows read, each counted once."""
    return float(parameters(frame, "draw").drop_duplicates("name")["numel"].sum())


def _share(part: float | None, whole: float) -> str:
    return f"{part / whole:.1%}" if part is not None and whole else ""


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _packed(words: str) -> str:
    # surrogates that stand alone are no UTF-8; without a time the same frame is the same file
    raw = words.encode(errors="replace")
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return (resources.files("lensframe_pd") / "draw" / name).read_text(encoding="utf-8")


@functools.cache
def _graphviz() -> str:
    """Graphviz as WebAssembly, for a classic worker: a module's exports are no statement there.

    From a file a browser starts no worker that is a module.
    """
    try:
        asset = resources.files(_LAYOUT) / "index.js"
        code = asset.read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        raise LensRuntimeError(
            "a page is laid out by Graphviz in the browser, which the package easydot brings: "
            'pip install "lensframe-pd[page]"'
        ) from None
    return _packed(classic(code))


def classic(code: str) -> str:
    """A module's code as a script that calls its class `Graphviz` by the name `Graphviz_`.

    Raises
    ------
    LensRuntimeError
        The module does not export `Graphviz`, or not at its end.
    """
    exports = [*_EXPORT.finditer(code)]
    name = re.search(r"(\w+)\s+as\s+Graphviz\b", exports[-1][1]) if exports else None
    if name is None:
        raise LensRuntimeError(
            "this version of easydot has no export Graphviz, so no page can be made; "
            'pip install "easydot==0.4.0"'
        )
    end = exports[-1]
    return f"{code[: end.start()]};const Graphviz_ = {name[1]};"

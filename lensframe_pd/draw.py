"""Rows of `layers` as a picture: frame -> DOT text -> SVG, PNG or PDF."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.errors import LensRuntimeError, LensValueError
from lensframe_pd.schema import labels, names, require

_FONT = "Arial"  # graphviz-pure has the metrics of single fonts only
_GRAPH = {"fontname": _FONT, "fontsize": "10", "ranksep": "0.3", "nodesep": "0.25"}
_NODE = {
    "shape": "box", "style": "rounded,filled", "fillcolor": "#ffffff", "color": "#8a96a3",
    "fontname": _FONT, "fontsize": "11", "margin": "0.12,0.05", "height": "0.3",
}  # fmt: skip
_EDGE = {"color": "#66717d", "arrowsize": "0.6"}
_CLUSTER = {"style": "rounded", "color": "#b9c2cc", "fontcolor": "#66717d", "labeljust": "l"}
_WITH_PARAMETERS = {"fillcolor": "#d6e4f5"}
_KINDS = {
    "input": {"fillcolor": "#cfe8d5"},
    "output": {"fillcolor": "#f6d5c3"},
    "constant": {"fillcolor": "#e8e8e8"},
    "alias": {"fillcolor": "#f7efcf", "style": "rounded,filled,dashed"},
}
_TEXT_SUFFIXES = (".gv", ".dot")
_PICTURE_SUFFIXES = (".svg", ".png", ".pdf")
_PURE_FORMATS = ("svg", "png")
_PURE_PROGRAMS = ("graphviz-pure", "graphviz-pure.exe")


class Drawing:
    """A drawn graph; shows itself in a notebook.

    Attributes
    ----------
    source
        The graph as DOT text.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def render(self, form: str) -> bytes:
        """The picture as `"svg"`, `"png"` or `"pdf"`.

        Raises
        ------
        LensRuntimeError
            No program is installed that can write this format, or it failed.
        """
        return _run(self.source, form)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture (.svg, .png, .pdf) or its text (.gv, .dot), as the suffix says.

        Raises
        ------
        LensValueError
            The suffix is none of these.
        LensRuntimeError
            No program is installed that can write this format, or it failed.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in _TEXT_SUFFIXES:
            path.write_text(self.source, encoding="utf-8")
        elif suffix in _PICTURE_SUFFIXES:
            path.write_bytes(self.render(suffix[1:]))
        else:
            raise LensValueError(
                f"cannot draw to {path.name!r}: its suffix must be one of "
                f"{', '.join((*_PICTURE_SUFFIXES, *_TEXT_SUFFIXES))}"
            )
        return path

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()

    def __repr__(self) -> str:
        return f"<Drawing: {len(self.source.splitlines())} lines of DOT>"


def draw(frame: pd.DataFrame, path: str | os.PathLike[str] | None = None) -> Drawing:
    """Draw the rows of `frame` as a graph, one node per row.

    Each node shows the label, the shape, the module and the parameters it read; rows of one
    module call stand in one box. Green is an input, orange an output, blue an operation with
    parameters, grey a constant, dashed yellow an alias.

    Parameters
    ----------
    frame
        Rows of `layers`, filtered and ordered at will. An edge is drawn where both ends are
        rows of the frame. A column `color`, if you assign one, fills the nodes (`"#ffcc00"`,
        `"tomato"`); rows without a value keep the colour of their kind.
    path
        Where to write it: .svg, .png, .pdf, .gv or .dot.

    Returns
    -------
    Drawing
        With the DOT text as `.source`; a notebook shows it as SVG.

    Raises
    ------
    LensKeyError
        The frame lacks a column the picture is made from.
    LensValueError
        The frame has no rows, a label twice, or the suffix of `path` is unknown.
    LensRuntimeError
        No program is installed that can write this format.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> draw(layers).source.count("->")
    2
    >>> draw(layers.query("func != 'input'")).source.count("->")
    1
    """
    drawing = Drawing(dot(frame))
    if path is not None:
        drawing.save(path)
    return drawing


def dot(frame: pd.DataFrame) -> str:
    """The DOT text of `draw`."""
    import graphviz  # here, to keep the import of the package cheap

    nodes = _nodes(frame)
    graph = graphviz.Digraph(graph_attr=_GRAPH, node_attr=_NODE, edge_attr=_EDGE)
    _add_modules(graph, _boxes(nodes), ())
    ids = {node.label: node.id for node in nodes}
    for node in nodes:
        for parent in dict.fromkeys(node.parents):
            if parent in ids:
                graph.edge(ids[parent], node.id)
    return str(graph.source)


class _Node(NamedTuple):
    id: str
    """Safe in DOT, where `linear_1:2` would be port 2 of node linear_1."""
    label: str
    kind: str
    shape: str
    module: str
    stack: tuple[str, ...]
    parents: tuple[str, ...]
    params: tuple[str, ...]
    color: str
    """The user's; empty for the colour of the kind."""


def _nodes(frame: pd.DataFrame) -> list[_Node]:
    if not len(frame):
        raise LensValueError("draw: the frame has no rows; loosen the selection before it")
    require(frame, "draw", "kind", "shape_str", "module", "module_stack", "parents", "params")
    ops = labels(frame, "draw")
    twice = [op for op, n in Counter(ops).items() if n > 1]
    if twice:
        raise LensValueError(
            f"draw: {', '.join(map(repr, twice[:5]))} {'is' if len(twice) == 1 else 'are'} more "
            "than once in the frame; draw the rows of one trace"
        )
    colors = frame["color"] if "color" in frame.columns else pd.Series("", frame.index)
    return [
        _Node(
            f"n{i}", label, kind, shape, module, names("module_stack", stack),
            names("parents", parents), names("params", params), color,
        )
        for i, (label, kind, shape, module, stack, parents, params, color) in enumerate(
            zip(
                ops, frame["kind"], frame["shape_str"], frame["module"], frame["module_stack"],
                frame["parents"], frame["params"], colors.where(colors.notna(), ""), strict=True,
            )
        )
    ]  # fmt: skip


Boxes = dict[tuple[str, ...], list[_Node]]
"""Nodes by the module calls that enclose them, outermost first."""


def _boxes(nodes: list[_Node]) -> Boxes:
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


def _add_modules(graph: Any, boxes: Boxes, calls: tuple[str, ...]) -> None:
    """Add the nodes of one module call, and the boxes of the calls inside it."""
    for node in boxes.get(calls, ()):
        graph.node(node.id, _label(node, calls), **_look(node))
    depth = len(calls)
    inner = dict.fromkeys(c[: depth + 1] for c in boxes if c[:depth] == calls and len(c) > depth)
    for box in inner:
        path, number = _split(box[-1])
        again = any(_split(call) == (path, 2) for other in boxes for call in other)
        text = f"{path}, call {number}" if again else path
        with graph.subgraph(name=f"cluster_{'/'.join(box)}") as cluster:
            cluster.attr(label=f"<{html.escape(text)}>", **_CLUSTER)
            _add_modules(cluster, boxes, box)


def _split(call: str) -> tuple[str, int]:
    path, _, number = call.rpartition(":")
    return path, int(number)


def _look(node: _Node) -> dict[str, str]:
    import graphviz

    look = {
        "id": graphviz.escape(node.label),  # so that SVG elements have the label
        **_KINDS.get(node.kind, _WITH_PARAMETERS if node.params else {}),
    }
    return {**look, "fillcolor": node.color} if node.color else look


def _label(node: _Node, calls: tuple[str, ...]) -> str:
    """Label, shape, and what of module and parameters the surrounding box does not say."""
    lines = [f"<B>{html.escape(node.label)}</B>", _small(node.shape or "scalar")]
    around = _split(calls[-1])[0] if calls else ""
    module = "" if node.module == around else node.module.removeprefix(f"{around}.")
    own = ", ".join(name.removeprefix(f"{node.module}.") for name in node.params)
    text = f"{module} ({own})" if module and own else module or own
    lines += [_small(line) for line in textwrap.wrap(text, 36, break_on_hyphens=False)]
    return f"<{'<BR/>'.join(lines)}>"


def _small(text: str) -> str:
    return f'<FONT POINT-SIZE="9" COLOR="#4a5560">{html.escape(text)}</FONT>'


def _run(source: str, form: str) -> bytes:
    """Render with the first program that can: Graphviz' own `dot`, else graphviz-pure."""
    command = next(_commands(form), None)
    if command is None:
        also = ", or pip install graphviz-pure" if form in _PURE_FORMATS else ""
        raise LensRuntimeError(
            f"nothing here can draw {form}: install Graphviz so that `dot` is on PATH{also}; "
            "a path that ends in .gv writes the graph as text"
        )
    done = subprocess.run([command, f"-T{form}"], input=source.encode(), capture_output=True)
    if done.returncode:
        raise LensRuntimeError(f"{command} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _commands(form: str) -> Iterator[str]:
    system = shutil.which("dot")
    if system:
        yield system
    if form in _PURE_FORMATS:
        try:
            files = metadata.files("graphviz-pure") or []
        except metadata.PackageNotFoundError:
            return
        # The package is one program, in a folder that need not be on PATH.
        yield from (str(f.locate()) for f in files if f.name in _PURE_PROGRAMS)

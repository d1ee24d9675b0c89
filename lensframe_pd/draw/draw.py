"""The verb `draw`: rows of `layers` as a picture, a page, or text."""

from __future__ import annotations

import math
import os

import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.draw import style
from lensframe_pd.draw.columns import length_of
from lensframe_pd.draw.dot import check, dot
from lensframe_pd.draw.links import links
from lensframe_pd.draw.node import nodes_of
from lensframe_pd.draw.page import page
from lensframe_pd.draw.render import (
    LARGE,
    PAGE,
    Drawing,
    Page,
    is_text,
    place_of,
    refuse_too_large,
)
from lensframe_pd.errors import LensError, LensValueError
from lensframe_pd.graph.collapse import collapse
from lensframe_pd.labels import names_of, path_of
from lensframe_pd.profile.costs import with_costs

_SLOW = 300_000  # ranks that edges pass
_STATIC = 200  # boxes up to which a page shows a picture before it is alive


def draw(
    frame: pd.DataFrame,
    /,
    path: str | os.PathLike[str] | None = None,
    *,
    color: str | None = None,
    columns: int | str = "auto",
    direction: str = "down",
    scale: float = 1.0,
    **attributes: str,
) -> Drawing:
    """Draw these rows as a graph, one node per row; an edge where both its ends are among them.

    What a row reads that is not among them is named beside it.

    Filter, roll, collapse or keep before you draw. Each node shows the label, shape and bytes,
    the parameters it read and the arguments that are not the defaults; its tooltip the whole row.
    Square corners are what a module returned, round ones operations in passing; a thick border is
    a value that Python read, to decide where to go on. Rows of one module call stand in one box.
    In a rolled frame a layer says how often it ran, and what is carried round a loop is an edge of
    its own colour, with the passes. Edges of functions that do not commute name the argument; more
    than sixteen between the same two nodes are one, which says how many. The legend explains what
    there is.

    Parameters
    ----------
    frame
        Rows of `layers`.
    path
        Where to write it: .svg, .png, .pdf, .gv or .dot; .html is a page whose modules open and
        shut, with search and colours, in one file that needs no network (extra `page`).
    color
        A column to fill the nodes by: numbers on a scale with a colour bar, names of colours as
        they are (`"#ffcc00"`, `"tomato"`), other values one colour each. By default the column
        `color`, if you assign one. Rows without a value are pale grey; where the column has names
        of colours they keep that of their kind.
    columns
        In how many columns a long picture stands; `"auto"`: as few as it takes, up to 4, where
        few edges are cut. A cut edge ends in a stub with the name of what it led to.
    direction
        `"down"`, `"right"`, `"up"` or `"left"`.
    scale
        Size of the picture, as a factor.
    **attributes
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
    LensFileError
        Nothing can be written at `path`: there is no such folder, or you may not.
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
    check(frame)
    style.column_of(frame, color)
    _check_scale(scale)
    advice = _advice(frame)
    if path is not None:
        place_of(path)  # refused before anything is laid out
    paged = path is not None and os.fspath(path).lower().endswith(PAGE)
    if path is not None and not is_text(path) and not paged:
        refuse_too_large(len(frame), advice)

    def source() -> str:
        return dot(frame, color=color, columns=columns, direction=direction, **attributes)

    drawing = Drawing(
        source if paged else source(),
        len(frame),
        advice,
        lambda: _page(frame, color, attributes),
        scale,
        slow=not paged and _is_slow(frame),
    )
    if path is not None:
        drawing.save(path)
    return drawing


def _is_slow(frame: pd.DataFrame) -> bool:
    """Whether a layout takes about a minute, or more."""
    if len(frame) <= LARGE:
        return False
    nodes = nodes_of(frame)
    return length_of(nodes, links(nodes)) > _SLOW


def _check_scale(scale: float) -> None:
    if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise LensValueError(f"draw: scale={scale!r}; it is a factor, 1 for the usual size")


def _page(frame: pd.DataFrame, color: str | None, attributes: dict[str, str]) -> Page:
    """The page, with what is to be seen before it is alive."""
    few, opened = _outlined(frame)
    static = ""
    if len(few) <= _STATIC:
        own = {name: column for name, column in attributes.items() if column in few.columns}
        picture = Drawing(dot(few, color=color if color in few.columns else None, **own), len(few))
        static = picture._repr_svg_()
        static = static[static.index("<svg") :]
    return Page(page(_costed(frame), opened, static, color, attributes))


def _outlined(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`collapse("auto")` of the rows, and the modules that it leaves open."""
    try:
        few = collapse(frame, "auto")
    except LensError:  # a frame made by hand need not have the columns
        return frame, []
    stacks = [names("module_stack", stack) for stack in few["module_stack"]]
    return few, [*{path_of(call) for stack in stacks for call in stack}]


def _costed(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with FLOPs, where they are as traced."""
    if "flops" in frame.columns:
        return frame
    try:
        return with_costs(frame, "draw")
    except LensError:
        return frame


def _advice(frame: pd.DataFrame) -> str:
    """Which verb makes the frame small enough to draw."""
    ways = []
    if {"layer", "n_passes"} <= set(frame.columns) and (frame["n_passes"] > 1).any():
        ways.append(f"roll() leaves {frame['layer'].nunique()} rows")
    stacks = [names("module_stack", stack) for stack in frame["module_stack"]]
    for depth in (3, 2, 1):
        calls = [next((c for c in stack if names_of(c) >= depth), "") for stack in stacks]
        n = len({*calls} - {""}) + calls.count("")
        if n < len(stacks) / 2:
            ways.append(f"collapse(depth={depth}) leaves {n}")
    return "; ".join(ways) or "draw some of the rows, or keep() the important ones"

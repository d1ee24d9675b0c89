"""What nodes look like: colours by kind or by a column, the legend and the caption."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensframe_pd.draw.markup import attribute, escaped
from lensframe_pd.errors import LensKeyError, unknown_names
from lensframe_pd.quantities import quantity, unit_of
from lensframe_pd.schema import model_class, unknown_column

# Tints of Okabe and Ito's colours, which the colour-blind can tell apart
# (https://jfly.uni-koeln.de/color/).
TRAINABLE, FROZEN, PLAIN = "#b9dcf2", "#dfe5ea", "#ffffff"
KINDS = {
    "input": "#b5e3d3", "output": "#f7caa3", "constant": "#e6e3dc", "alias": "#f7efb9",
    "edit": "#f3b3a6", "module": "#ead2e2",
}  # fmt: skip
DECIDES = "#d55e00"
NEUTRAL = "#f0f2f4"  #: of a row without a value
BESIDE = "#6f7b87"  #: of text on no box, to be read on white and on black
TEXT, FAINT, LINE = "#1d2733", "#4a5560", "#8a96a3"
CATEGORIES = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#999999",
)  # fmt: skip
_MEANINGS = {
    "input": "input", "output": "output", "trainable": "has trainable parameters",
    "frozen": "has frozen parameters", "constant": "constant", "alias": "alias: seen after a write",
    "edit": "edit: a value that was given", "module": "module, collapsed",
    "decides": "Python reads its value: steers the control flow",
    "own": "square corners: the module's own operation", "carried": "carried round a loop",
}  # fmt: skip

_FONT = "Arial"  # graphviz-pure has the metrics of single fonts only
GRAPH = {
    "fontname": _FONT, "fontsize": "10", "ranksep": "0.3", "nodesep": "0.25",
    "bgcolor": "transparent", "fontcolor": FAINT, "labelloc": "b",
}  # fmt: skip
#: Of a long picture that cannot stand in columns, as many edges lead far down (a U-Net's): these
#: have room beside each other, and ranks are closer.
TALL = {"ranksep": "0.22", "nodesep": "0.5"}
NODE = {
    "shape": "box", "style": "rounded,filled", "fillcolor": PLAIN, "color": LINE,
    "fontname": _FONT, "fontsize": "11", "fontcolor": TEXT, "margin": "0.12,0.05",
    "height": "0.3",
}  # fmt: skip
EDGE = {
    "color": "#66717d", "arrowsize": "0.6", "fontname": _FONT, "fontsize": "8",
    "fontcolor": FAINT,
}  # fmt: skip
CLUSTER = {
    "style": "rounded", "color": "#b9c2cc", "fontcolor": FAINT, "labeljust": "l",
    "labelloc": "t",
}  # fmt: skip
STUB = {
    "shape": "plain", "style": "", "fillcolor": "none", "fontsize": "9", "fontcolor": BESIDE,
    "tooltip": "goes on in another column", "class": "stub",
}  # fmt: skip
CUT = {"style": "dashed", "class": "cut"}
CARRIED = {
    "constraint": "false",
    "color": DECIDES,
    "fontcolor": DECIDES,
    "penwidth": "1.4",
}

#: Kinds of rows that no call made.
GIVEN = ("input", "output", "constant")
#: Columns that say what a call took, or how fast it was: rows that no call made have none.
OF_CALLS = frozenset("seconds flops macs moved_bytes intensity flops_per_s".split())

#: Node attributes of Graphviz that a column may give, besides `color`, which fills the node.
ATTRIBUTES = frozenset(
    """color fillcolor fontcolor fontname fontsize height label margin penwidth peripheries shape
    style tooltip URL width xlabel bordercolor""".split()
)


_ELSEWHERE = {
    "depth": "modules become boxes by layers.lens.collapse(depth).lens.draw(...)",
    **dict.fromkeys(("rankdir", "orientation"), 'direction="right" lays the picture on its side'),
    **dict.fromkeys(("format", "filetype"), "the suffix of the path says it: .svg, .png, .html"),
    **dict.fromkeys(("size", "figsize", "dpi"), "scale= sizes the picture"),
}

_NAMED = 12  # values that a legend names


class Fills(NamedTuple):
    """The colour of each row by a column, '' for that of its kind, and what the legend says."""

    colors: list[str]
    legend: str


def column_of(frame: pd.DataFrame, column: str | None) -> str | None:
    """The column to colour by: the one asked for, else `color` where there is one.

    Raises
    ------
    LensKeyError
        The frame has no such column.
    """
    if column is None:
        return "color" if "color" in frame.columns else None
    _column(frame, column)
    return column


def fills(frame: pd.DataFrame, column: str | None) -> Fills:
    """Colours by a column: numbers on a scale, colour names as they are, else one per value."""
    column = column_of(frame, column)
    if column is None:
        return Fills([""] * len(frame), "")
    cells = _column(frame, column)
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        if column in OF_CALLS and "kind" in frame.columns:
            nothing = frame["kind"].isin(GIVEN).to_numpy() & (cells.fillna(0) == 0).to_numpy(bool)
            cells = cells.astype("Float64").mask(nothing)
        return _scale(cells, column)
    texts = [str(cell) if here else "" for cell, here in zip(cells, cells.notna(), strict=True)]
    values = [text for text in dict.fromkeys(texts) if text]
    if all(is_color(value) for value in values):
        return Fills(texts, "")  # rows that have none are of their kind, as they were
    chosen = {value: CATEGORIES[i % len(CATEGORIES)] for i, value in enumerate(values)}
    rows = "".join(_swatch(color, value) for value, color in list(chosen.items())[:_NAMED])
    if len(chosen) > _NAMED:
        rows += _line(_text(f"and {len(chosen) - _NAMED} more"))
    colors = [chosen.get(text, NEUTRAL) for text in texts]
    return Fills(colors, f"{_heading(column)}{rows}{_without(colors)}")


def _without(colors: list[str]) -> str:
    return _swatch(NEUTRAL, "no value") if NEUTRAL in colors else ""


def _column(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    if column not in frame.columns:
        if is_color(column):
            raise LensKeyError(
                f"no column to draw by {column!r}, which is a colour: a column gives each row its "
                f"own, as layers.assign(color={column!r}).lens.draw(...)"
            )
        raise unknown_column(column, frame, "column to draw by")
    return frame[column]


def is_color(cell: Any) -> bool:
    from matplotlib.colors import is_color_like

    return isinstance(cell, str) and (is_color_like(cell) or cell.startswith("/"))


def _scale(cells: pd.Series[Any], column: str) -> Fills:
    """A continuous column on matplotlib's `cividis`, with its colour bar."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    values = cells.to_numpy(dtype=float, na_value=np.nan)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    colormap = colormaps["cividis"]
    places = np.clip((values - low) / (high - low or 1.0), 0, 1)
    colors = [to_hex(colormap(p)) if np.isfinite(p) else NEUTRAL for p in places]
    bar = "".join(f'<TD BGCOLOR="{color}" WIDTH="10" HEIGHT="12"></TD>' for color in scale_colors())
    table = (
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0"><TR>{bar}</TR></TABLE>'
    )
    ends = " to ".join(quantity(end, unit_of(column)) for end in (low, high))
    explained = _line(table) + _line(_text(ends)) if len(finite) else ""
    return Fills(colors, f"{_heading(column)}{explained}{_without(colors)}")


def hex_color(cell: Any) -> Any:
    """The name of a colour as `#rrggbb`; what is none as it is."""
    from matplotlib.colors import is_color_like, to_hex

    return to_hex(cell) if isinstance(cell, str) and is_color_like(cell) else cell


def scale_colors(n: int = 12) -> list[str]:
    """Colours of the scale, from low to high."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["cividis"](k / (n - 1))) for k in range(n)]


def text_on(color: str) -> str:
    """Dark or light text, whichever is easier to read on a colour (WCAG relative luminance)."""
    from matplotlib.colors import is_color_like, to_rgb

    if not is_color_like(color):  # one of Graphviz' own schemes
        return TEXT
    channels = np.asarray(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return TEXT if float(linear @ [0.2126, 0.7152, 0.0722]) > 0.26 else "#ffffff"


def legend(meanings: Iterable[str], more: str) -> str:
    """An HTML-like table of the signs in use; '' if there is nothing to explain."""
    rows = []
    for sign in _MEANINGS:
        if sign not in meanings:
            continue
        color = {"trainable": TRAINABLE, "frozen": FROZEN, **KINDS}.get(sign, PLAIN)
        if sign == "decides":
            rows.append(_swatch(PLAIN, _MEANINGS[sign], border=DECIDES))
        elif sign == "carried":
            line = f'<FONT COLOR="{DECIDES}">&#8594;</FONT>'
            rows.append(f'<TR><TD>{line}</TD><TD ALIGN="LEFT">{_text(_MEANINGS[sign])}</TD></TR>')
        else:
            rows.append(_swatch(color, _MEANINGS[sign]))
    if not rows and not more:
        return ""
    return (
        '<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="3" CELLPADDING="1">'
        f"{''.join(rows)}{more}</TABLE>>"
    )


def meanings(signs: Iterable[str]) -> list[tuple[str, str]]:
    """Fill and words of the signs in use that are a fill."""
    filled = {"trainable": TRAINABLE, "frozen": FROZEN, **KINDS}
    return [
        (filled[sign], words) for sign, words in _MEANINGS.items() if sign in {*signs} & {*filled}
    ]


def _heading(column: str) -> str:
    return _line(f"<B>{_text(column)}</B>")


def _line(cell: str) -> str:
    return f'<TR><TD></TD><TD ALIGN="LEFT">{cell}</TD></TR>'


def _swatch(color: str, text: str, border: str = LINE) -> str:
    box = f'<TD BGCOLOR="{color}" BORDER="1" COLOR="{border}" WIDTH="18" HEIGHT="10"></TD>'
    return f'<TR>{box}<TD ALIGN="LEFT">{_text(text)}</TD></TR>'


def _text(text: str) -> str:
    return f'<FONT POINT-SIZE="9" COLOR="{BESIDE}">{escaped(text)}</FONT>'


def caption(frame: pd.DataFrame) -> str:
    """Model, rows, parameters, bytes and time, of what the frame has columns for."""
    n = len(frame)
    parts = [model_class(frame), f"{n} row{'s' if n != 1 else ''}"]
    if {"params", "param_shapes"} <= set(frame.columns):
        numel = _numel(frame)
        parts.append(f"{quantity(numel)} parameters" if numel else "")
    if "nbytes" in frame.columns:
        parts.append(f"{quantity(frame['nbytes'].sum(), 'B')} of tensors")
    if "seconds" in frame.columns:
        parts.append(quantity(frame["seconds"].sum(), "s"))
    return ", ".join(part for part in parts if part)


def _numel(frame: pd.DataFrame) -> int:
    """How many elements the parameters have, each counted once, by name."""
    cells = [*map(tuple, frame["params"])]
    apart = len({*chain.from_iterable(cells)}) == sum(map(len, cells))
    if apart and "n_params" in frame.columns and frame["n_params"].dtype == np.int64:
        return int(frame["n_params"].sum())  # no row reads what another does
    found: dict[str, int] = {}
    for cell, shapes in zip(cells, frame["param_shapes"], strict=True):
        found |= zip(map(str, cell), map(math.prod, shapes), strict=True)
    return sum(found.values())


def attributes(frame: pd.DataFrame, columns: dict[str, str]) -> list[dict[str, str]]:
    """Graphviz attributes of each node, by the columns that give them."""
    unknown = sorted(columns.keys() - ATTRIBUTES)
    if unknown:
        lines = [str(unknown_names(unknown, sorted(ATTRIBUTES), "node attribute"))]
        lines += [f"{name}: {_ELSEWHERE[name]}" for name in unknown if name in _ELSEWHERE]
        raise LensKeyError("\n".join(lines))
    found: list[dict[str, str]] = [{} for _ in range(len(frame))]
    for name, column in columns.items():
        for look, cell in zip(found, _column(frame, column), strict=True):
            missing = cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell))
            written = "" if missing else attribute(name, str(cell))
            if written:
                look["color" if name == "bordercolor" else name] = written
    return found

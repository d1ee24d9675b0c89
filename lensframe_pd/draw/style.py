"""What nodes look like: colours by kind or by a column, the legend and the caption."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensframe_pd.errors import unknown_names
from lensframe_pd.graph.parameters import parameters
from lensframe_pd.schema import model_class, quantity, unit_of

# Tints of Okabe and Ito's colours, which the colour-blind can tell apart
# (https://jfly.uni-koeln.de/color/).
TRAINABLE, FROZEN, PLAIN = "#b9dcf2", "#dfe5ea", "#ffffff"
KINDS = {
    "input": "#b5e3d3", "output": "#f7caa3", "constant": "#e6e3dc", "alias": "#f7efb9",
    "edit": "#f3b3a6", "module": "#ead2e2",
}  # fmt: skip
DECIDES = "#d55e00"
TEXT, FAINT, LINE = "#1d2733", "#4a5560", "#8a96a3"
_CATEGORIES = (
    "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#999999",
)  # fmt: skip
_MEANINGS = {
    "input": "input", "output": "output", "trainable": "has trainable parameters",
    "frozen": "has frozen parameters", "constant": "constant", "alias": "alias: seen after a write",
    "edit": "edit: a value that was given", "module": "module, collapsed",
    "decides": "Python reads its value: steers the control flow",
    "own": "square corners: the module's own operation", "carried": "carried round a loop",
}  # fmt: skip

#: Node attributes of Graphviz that a column may give, besides `color`, which fills the node.
ATTRIBUTES = frozenset(
    """color fillcolor fontcolor fontname fontsize height label margin penwidth peripheries shape
    style tooltip URL width xlabel bordercolor""".split()
)


class Fills(NamedTuple):
    """The colour of each row by a column, '' for that of its kind, and what the legend says."""

    colors: list[str]
    legend: str


def fills(frame: pd.DataFrame, column: str | None) -> Fills:
    """Colours by a column: numbers on a scale, colour names as they are, else one per value."""
    if column is None:
        column = "color" if "color" in frame.columns else None
        if column is None:
            return Fills([""] * len(frame), "")
    cells = _column(frame, column)
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        return _scale(cells, column)
    present = cells.notna() & (cells.astype(str) != "")
    if all(is_color(cell) for cell in cells[present]):
        return Fills(cells.where(present, "").astype(str).tolist(), "")
    values = list(dict.fromkeys(cells[present].astype(str)))
    chosen = {value: _CATEGORIES[i % len(_CATEGORIES)] for i, value in enumerate(values)}
    rows = "".join(_swatch(color, value) for value, color in list(chosen.items())[:12])
    colors = [chosen[str(cell)] if here else "" for cell, here in zip(cells, present, strict=True)]
    return Fills(colors, f"{_heading(column)}{rows}")


def _column(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    if column not in frame.columns:
        raise unknown_names([column], map(str, frame.columns), "column to draw by")
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
    colors = [to_hex(colormap(p)) if np.isfinite(p) else "" for p in places]
    bar = "".join(
        f'<TD BGCOLOR="{to_hex(colormap(k / 11))}" WIDTH="10" HEIGHT="12"></TD>' for k in range(12)
    )
    table = (
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0"><TR>{bar}</TR></TABLE>'
    )
    ends = " to ".join(quantity(end, unit_of(column)) for end in (low, high))
    return Fills(
        colors,
        f'{_heading(column)}<TR><TD></TD><TD ALIGN="LEFT">{table}</TD></TR>'
        f'<TR><TD></TD><TD ALIGN="LEFT">{_text(ends)}</TD></TR>',
    )


def text_on(color: str) -> str:
    """Dark or light text, whichever is easier to read on a colour (WCAG relative luminance)."""
    from matplotlib.colors import to_rgb

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


def _heading(column: str) -> str:
    return f'<TR><TD></TD><TD ALIGN="LEFT"><B>{_text(column)}</B></TD></TR>'


def _swatch(color: str, text: str, border: str = LINE) -> str:
    box = f'<TD BGCOLOR="{color}" BORDER="1" COLOR="{border}" WIDTH="18" HEIGHT="10"></TD>'
    return f'<TR>{box}<TD ALIGN="LEFT">{_text(text)}</TD></TR>'


def _text(text: str) -> str:
    return f'<FONT POINT-SIZE="9" COLOR="{FAINT}">{html.escape(text)}</FONT>'


def caption(frame: pd.DataFrame) -> str:
    """Model, rows, parameters, bytes and time, of what the frame has columns for."""
    n = len(frame)
    parts = [model_class(frame), f"{n} row{'s' if n != 1 else ''}"]
    if {"params", "param_shapes"} <= set(frame.columns):
        once = parameters(frame, "draw").drop_duplicates("name")
        parts.append(f"{quantity(once['numel'].sum())} parameters" if len(once) else "")
    if "nbytes" in frame.columns:
        parts.append(f"{quantity(frame['nbytes'].sum(), 'B')} of tensors")
    if "seconds" in frame.columns:
        parts.append(quantity(frame["seconds"].sum(), "s"))
    return ", ".join(part for part in parts if part)


def attributes(frame: pd.DataFrame, columns: dict[str, str]) -> list[dict[str, str]]:
    """Graphviz attributes of each node, by the columns that give them."""
    unknown = sorted(columns.keys() - ATTRIBUTES)
    if unknown:
        raise unknown_names(unknown, sorted(ATTRIBUTES), "node attribute")
    found: list[dict[str, str]] = [{} for _ in range(len(frame))]
    for name, column in columns.items():
        for look, cell in zip(found, _column(frame, column), strict=True):
            if not (isinstance(cell, float) and np.isnan(cell)) and cell is not pd.NA:
                look["color" if name == "bordercolor" else name] = str(cell)
    return found

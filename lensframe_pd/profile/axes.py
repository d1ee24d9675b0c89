"""Axes that plots of a profile are drawn in: made, labelled, with a legend that covers nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensframe_pd.errors import LensValueError
from lensframe_pd.quantities import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, GREY, ORANGE = "#4c72b0", "#b9c2cc", "#dd8452"
#: To be read on white and on black.
BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#6f7b87"}
# Of seaborn's style "ticks" what is no colour: those are of the style that is set, dark or light.
_TICKS: Any = {"axes.grid": False, "xtick.bottom": True, "ytick.left": True, "axes.axisbelow": True}


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones."""
    import matplotlib.pyplot as plt
    import seaborn

    if ax is not None:
        return ax
    with plt.rc_context(_TICKS):
        _, made = plt.subplots(figsize=size, layout="constrained")
    seaborn.despine(ax=made)
    return made


def check_any(table: pd.DataFrame, message: str) -> None:
    if table.empty:
        raise LensValueError(message)


def legend_beside(ax: Axes, new: bool) -> None:
    """The legend where it covers nothing: beside axes of ours; in others, where least is."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if new else {}
    legend = ax.legend(fontsize=8, frameon=False, **(place or {"loc": "best"}))
    sizes = False
    for text in legend.get_texts():
        if sizes:  # seaborn writes milliseconds, as the points have them
            text.set_text(quantity(float(text.get_text()) / 1e3, "s"))
        sizes = sizes or text.get_text() == "time"


def labelled(what: str) -> Callable[[float, Any], str]:
    """How the numbers of an axis are written, by its name."""
    if what == "time":  # in milliseconds
        return lambda value, _: quantity(value / 1e3, "s")
    unit = what if what.endswith("/s") else ""
    return lambda value, _: quantity(value, unit)

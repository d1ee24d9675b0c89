"""Pictures of a profile; each returns matplotlib's Axes, to be changed at will."""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.errors import LensValueError
from lensframe_pd.labels import labels, names_of, path_of
from lensframe_pd.profile.axes import (
    BESIDE,
    BLUE,
    GREY,
    ORANGE,
    axes_of,
    check_any,
)
from lensframe_pd.profile.memory import memory
from lensframe_pd.profile.profile import profile
from lensframe_pd.quantities import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 25
_LEVELS = 3  # how many module calls deep the ruler looks for modules that divide the steps
_MOST = 0.85
_NEARLY_ALL = 0.95  # of the time: bars that show one module of it show nothing
_LETTER = 0.009  # width of a letter, of the axes


def plot_time(
    frame: pd.DataFrame, depth: int | Literal["auto"] | None = "auto", ax: Axes | None = None
) -> Axes:
    """Time of each module: bars in tree order, what it does itself dark, what is inside it pale.

    Parameters
    ----------
    frame
        Rows of `layers`.
    depth
        Leave out modules of more than so many names (`layer1.0` has two); None for all. `"auto"`:
        two, or as many more as it takes until no module at the end of the tree shown has more than
        95 % of the time. Where there are more modules than fit, the longest are shown.
    ax
        Axes to draw into; by default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        There are no operations, or `depth` is negative.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Sequential(torch.nn.ReLU()).eval(), torch.ones(4, 3))
    >>> layers.lens.plot_time().get_xlabel()
    'time'
    """
    table = _telling(profile(frame, "module")) if depth == "auto" else _to_depth(frame, depth)
    check_any(table, "plot_time: the model ran no operation")
    total, own = table["seconds"] * 1e3, table["self_seconds"] * 1e3
    ax = _bars("time", total, own, table["share"].map("{:.1%}".format), ax)
    ax.set_xlabel("time")
    ax.xaxis.set_major_formatter(lambda value, _: quantity(value / 1e3, "s"))
    return ax


def _to_depth(frame: pd.DataFrame, depth: int | str | None) -> pd.DataFrame:
    if isinstance(depth, str):
        raise LensValueError(f"plot_time: depth={depth!r}; give a number, None for all, or 'auto'")
    return profile(frame, "module", depth)


def _telling(modules: pd.DataFrame) -> pd.DataFrame:
    """Down to where the time is divided: two names, or more while one row has nearly all of it."""
    level = np.array([names_of(path) for path in modules.index])
    depth = 2
    while depth < level.max(initial=0):
        shown = modules[level <= depth]
        ends = [not _is_holder(path, shown.index) for path in shown.index]
        if not (shown["share"][ends] > _NEARLY_ALL).any():
            break
        depth += 1
    return modules[level <= depth]


def _is_holder(path: str, paths: pd.Index) -> bool:
    return any([other.startswith(f"{path}." if path else "") and other != path for other in paths])


def plot_params(frame: pd.DataFrame, depth: int | None = 2, ax: Axes | None = None) -> Axes:
    """Parameters of each module: bars in tree order, those of modules with others inside pale.

    Parameters
    ----------
    frame
        Rows of `layers`.
    depth
        Leave out modules of more than so many names (`layer1.0` has two); None for all. Where
        there are more modules than fit, the largest are shown.
    ax
        Axes to draw into; by default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        No row reads a parameter, or `depth` is negative.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), torch.ones(4, 3))
    >>> layers.lens.plot_params().get_xlabel()
    'parameters'
    """
    table = profile(frame, "module", depth)
    table = table[table["params"] > 0]
    check_any(table, "plot_params: no row of the frame reads a parameter")
    params = table["params"]
    ax = _bars("parameters", params, 0 * params, params.map(quantity), ax)
    ax.set_xlabel("parameters")
    ax.xaxis.set_major_formatter(lambda value, _: quantity(value))
    return ax


def plot_memory(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Memory at each step of the forward, above what is held throughout; the peak is named.

    Give it all rows of a forward, as `memory`, or rows with its columns.

    Parameters
    ----------
    frame
        Rows of `layers`.
    ax
        Axes to draw into; by default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        The frame has no rows, a label twice, or is rolled or collapsed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> layers.lens.plot_memory().get_xlabel()
    'step'
    """
    import seaborn

    table = frame if {"live_bytes", "held_bytes"} <= set(frame.columns) else memory(frame)
    table = table.set_axis(labels(table, "plot_memory")).sort_values("step")
    ax = axes_of(ax, (9.0, 4.0))
    steps, live = table["step"].to_numpy(), table["live_bytes"].to_numpy() / 1e6
    seaborn.lineplot(x=steps, y=live, ax=ax, drawstyle="steps-mid", color=BLUE, linewidth=1)
    ax.fill_between(steps, live, step="mid", color=BLUE, alpha=0.25, linewidth=0)
    top = int(live.argmax())
    ax.plot(steps[top], live[top], "o", color=ORANGE, markersize=5)
    right = top > len(live) / 2
    ax.annotate(
        f"{table.index[top]}: {quantity(live[top] * 1e6, 'B')}", (steps[top], live[top]),
        (-6 if right else 6, 4), textcoords="offset points", ha="right" if right else "left",
        fontsize=9,
    )  # fmt: skip
    held = quantity(table["held_bytes"].iloc[0], "B")
    ax.set(xlabel="step", ylabel="live activations", ylim=(0, None))
    ax.yaxis.set_major_formatter(lambda value, _: quantity(value * 1e6, "B"))
    ax.margins(x=0.01)
    ax.set_title(f"besides {held} of parameters, buffers and inputs")
    _module_ruler(ax, table)
    return ax


def _bars(what: str, total: pd.Series, own: pd.Series, texts: pd.Series, ax: Axes | None) -> Axes:
    """A pale bar for each module, a dark one over it, a text at its end; the first on top.

    What a module does itself is all it does, unless modules inside it have bars as well.
    """
    import seaborn

    modules = total if len(total) == 1 else total.drop(index="", errors="ignore")
    most = {*modules.nlargest(_BARS).index}
    shown = modules[[path in most for path in modules.index]]  # in the order they had
    holds = [any(p.startswith(f"{path}.") for p in modules.index) for path in shown.index]
    dark = own[shown.index].where(np.array(holds), shown)
    ax = axes_of(ax, (7.0, 0.9 + 0.24 * len(shown)))
    places = range(len(shown))  # not the names, which may be equal once they are short
    for values, color in ((shown, GREY), (dark, BLUE)):
        widths = values.to_numpy("float64")
        seaborn.barplot(
            x=widths, y=places, orient="h", errorbar=None, color=color, saturation=1, ax=ax
        )
    ax.set_yticks(places, [_whole(path) for path in shown.index])
    ends = zip(texts[shown.index], shown, strict=True)
    for place, (text, end) in enumerate(ends):
        ax.annotate(text, (float(end), place), (3, 0), **BESIDE, va="center")
    ax.set_ylabel("")
    ax.tick_params(axis="y", labelsize=8, length=0)
    ax.margins(x=0.08)
    few = len(shown) < len(modules)
    more = f": the largest {len(shown)} of {len(modules)}" if few else ""
    ax.set_title(f"{what} by module{more}")
    return ax


def _whole(path: str, width: int = 44) -> str:
    """A path, on several lines where it is long, broken at its dots."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+", path):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines) or "(model)"


def _module_ruler(ax: Axes, table: pd.DataFrame) -> None:
    """Names of the modules that divide the steps, where there is room for them."""
    steps = table["step"].to_numpy()
    length = max(1, int(steps[-1] - steps[0]))
    spans: list[tuple[str, int, int]] = []
    for level in range(_LEVELS):
        spans = _module_spans(table, level)
        if max(last - first for _, first, last in spans) < _MOST * length:
            break
    for name, first, last in spans:
        if name and (last - first) / length > _LETTER * len(name):
            place = ((first + last) / 2, 0.0)
            ax.annotate(name, place, (0, 3), **BESIDE, ha="center")
            ax.axvline(first - 0.5, color=GREY, linewidth=0.6, zorder=0)


def _module_spans(table: pd.DataFrame, level: int) -> list[tuple[str, int, int]]:
    """Runs of steps in one module call, so many calls deep: name, first and last step."""
    stacks = (names("module_stack", cell) for cell in table["module_stack"])
    modules = [path_of(stack[min(level, len(stack) - 1)]) if stack else "" for stack in stacks]
    runs = groupby(zip(modules, table["step"], strict=True), key=itemgetter(0))
    spans = []
    for name, run in runs:
        steps = [int(step) for _, step in run]
        spans.append((name, steps[0], steps[-1]))
    return spans

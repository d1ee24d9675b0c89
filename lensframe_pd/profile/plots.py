"""Pictures of a profile; each returns matplotlib's Axes, to be changed at will."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensValueError
from lensframe_pd.profile.memory import memory
from lensframe_pd.profile.profile import profile
from lensframe_pd.schema import labels, names, names_of, path_of, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 25
_FUNCS = 8  # as many as colours that are told apart
_NAMED = 8
_LEVELS = 3  # how many module calls deep the ruler looks for modules that divide the steps
_MOST = 0.85
_NEARLY_ALL = 0.95  # of the time: bars that show one module of it show nothing
_LETTER = 0.009  # width of a letter, of the axes
_BLUE, _GREY, _ORANGE = "#4c72b0", "#b9c2cc", "#dd8452"
_BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#66717d"}


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
    _check_any(table, "plot_time: the model ran no operation")
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
    _check_any(table, "plot_params: no row of the frame reads a parameter")
    params = table["params"]
    ax = _bars("parameters", params, 0 * params, params.map(quantity), ax)
    ax.set_xlabel("parameters")
    ax.xaxis.set_major_formatter(lambda value, _: quantity(value))
    return ax


def plot_flops(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """FLOPs of each operation against its time, both logarithmic; diagonals are equal FLOP/s.

    Operations without FLOPs are not shown; how much time they took is in the title.

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
        No operation has FLOPs and a time.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> layers.lens.plot_flops().get_ylabel()
    'FLOPs'
    """
    given = ax
    table = profile(frame, "op")
    axis_names = "time", "FLOPs"
    shown = _points(table, "plot_flops", *axis_names)
    ax = _scatter(shown, *axis_names, ax, alpha=0.7, s=30)
    _diagonals(ax)
    _name_points(ax, shown.nlargest(_NAMED, "seconds")[[*axis_names]])
    rest = 1 - shown["seconds"].sum() / table["seconds"].sum()
    ax.set_title(f"{len(shown)} operations; {rest:.0%} of the time is in others, without FLOPs")
    _legend_beside(ax, new=given is None)
    return ax


def plot_roofline(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """FLOP/s of each operation against its arithmetic intensity, under the best seen here.

    The roof is measured, not the machine's: the highest FLOP/s and the highest traffic per second
    of any operation in the frame. Points far under it leave something to gain (Williams,
    Waterman and Patterson 2009, doi:10.1145/1498765.1498785).

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
        No operation has FLOPs and a time.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> layers.lens.plot_roofline().get_ylabel()
    'FLOP/s'
    """
    given = ax
    table = profile(frame, "op")
    axis_names = "FLOPs per byte", "FLOP/s"
    shown = _points(table, "plot_roofline", *axis_names)
    ax = _scatter(shown, *axis_names, ax, alpha=0.6, size="time", sizes=(12, 160))
    timed = table[table["seconds"] > 0]
    traffic = float((timed["moved_bytes"].astype("Float64") / timed["seconds"]).max())
    peak = float(shown["FLOP/s"].max())
    low, high = ax.get_xlim()
    at = np.geomspace(low, high, 200)
    ax.plot(at, np.minimum(at * traffic, peak), color=_GREY, linewidth=1, zorder=0)
    ax.set_xlim(low, high)
    ax.set_title(f"best seen: {quantity(peak, 'FLOP/s')}, {quantity(traffic, 'B/s')}")
    _legend_beside(ax, new=given is None)
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
    ax = _axes(ax, (9.0, 4.0))
    steps, live = table["step"].to_numpy(), table["live_bytes"].to_numpy() / 1e6
    seaborn.lineplot(x=steps, y=live, ax=ax, drawstyle="steps-mid", color=_BLUE, linewidth=1)
    ax.fill_between(steps, live, step="mid", color=_BLUE, alpha=0.25, linewidth=0)
    top = int(live.argmax())
    ax.plot(steps[top], live[top], "o", color=_ORANGE, markersize=5)
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


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones."""
    import matplotlib.pyplot as plt
    import seaborn

    if ax is not None:
        return ax
    with seaborn.axes_style("ticks"):
        _, made = plt.subplots(figsize=size, layout="constrained")
    seaborn.despine(ax=made)
    return made


def _check_any(table: pd.DataFrame, message: str) -> None:
    if table.empty:
        raise LensValueError(message)


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
    ax = _axes(ax, (7.0, 0.9 + 0.24 * len(shown)))
    places = range(len(shown))  # not the names, which may be equal once they are short
    for values, color in ((shown, _GREY), (dark, _BLUE)):
        widths = values.to_numpy("float64")
        seaborn.barplot(
            x=widths, y=places, orient="h", errorbar=None, color=color, saturation=1, ax=ax
        )
    ax.set_yticks(places, [_whole(path) for path in shown.index])
    ends = zip(texts[shown.index], shown, strict=True)
    for place, (text, end) in enumerate(ends):
        ax.annotate(text, (float(end), place), (3, 0), **_BESIDE, va="center")
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


def _points(table: pd.DataFrame, verb: str, x: str, y: str) -> pd.DataFrame:
    """The operations that logarithmic axes can show, by the names of the axes."""
    numbers = table[["flops", "intensity", "flops_per_s"]].astype("float64")
    numbers = numbers.set_axis(["FLOPs", "FLOPs per byte", "FLOP/s"], axis=1)
    points = table[["func", "seconds"]].join(numbers)
    points["time"] = points["seconds"] * 1e3
    shown = points[(points[[x, y]] > 0).all(axis=1)]
    _check_any(shown, f"{verb}: no operation of the frame has FLOPs and a time")
    common = shown["func"].value_counts().index[:_FUNCS]
    return shown.assign(function=shown["func"].where(shown["func"].isin(common), "other"))


def _scatter(points: pd.DataFrame, x: str, y: str, ax: Axes | None, **look: Any) -> Axes:
    """Operations as points, coloured by function, on logarithmic axes."""
    import seaborn

    ax = _axes(ax, (7.0, 5.0))
    seaborn.scatterplot(points, x=x, y=y, hue="function", ax=ax, linewidth=0.3, **look)
    ax.set(xlabel=x, ylabel=y)
    _log_axes(ax)
    return ax


def _legend_beside(ax: Axes, new: bool) -> None:
    """The legend where it covers nothing: beside axes of ours; in others, where least is."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if new else {}
    legend = ax.legend(fontsize=8, frameon=False, **(place or {"loc": "best"}))
    sizes = False
    for text in legend.get_texts():
        if sizes:  # seaborn writes milliseconds, as the points have them
            text.set_text(quantity(float(text.get_text()) / 1e3, "s"))
        sizes = sizes or text.get_text() == "time"


def _log_axes(ax: Axes) -> None:
    """Logarithmic axes labelled with numbers and units, at 2 and 5 too where they are short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        subs = (1.0, 2.0, 5.0) if high < low * 1e3 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter(_labelled(axis.get_label_text()))
        axis.set_minor_formatter(NullFormatter())


def _labelled(what: str) -> Callable[[float, Any], str]:
    """How the numbers of an axis are written, by its name."""
    if what == "time":  # in milliseconds
        return lambda value, _: quantity(value / 1e3, "s")
    unit = what if what.endswith("/s") else ""
    return lambda value, _: quantity(value, unit)


def _diagonals(ax: Axes) -> None:
    """Lines of equal FLOP/s, one per power of ten."""
    (left, right), (low, high) = limits = ax.get_xlim(), ax.get_ylim()
    slowest, fastest = low / right * 1e3, high / left * 1e3  # x is in milliseconds
    for power in range(math.ceil(math.log10(slowest)), math.floor(math.log10(fastest)) + 1):
        each_ms = 10.0**power / 1e3
        ends = np.array([left, right])
        ax.plot(ends, ends * each_ms, color=_GREY, linewidth=0.6, zorder=0)
        x = min(right, high / each_ms)
        if x > left * 1.3:  # else its name would be outside
            speed = quantity(10.0**power, "FLOP/s")
            ax.annotate(speed, (x, x * each_ms), (-2, -2), **_BESIDE, ha="right", va="top")
    ax.set(xlim=limits[0], ylim=limits[1])  # the lines would widen them


def _name_points(ax: Axes, points: pd.DataFrame) -> None:
    """Name the points, as far as their names do not cover one another."""
    taken: list[Any] = []
    for op, x, y in points.itertuples():
        text = ax.annotate(op, (x, y), (-4, -4), **_BESIDE, ha="right", va="top")
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


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
            ax.annotate(name, place, (0, 3), **_BESIDE, ha="center")
            ax.axvline(first - 0.5, color=_GREY, linewidth=0.6, zorder=0)


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

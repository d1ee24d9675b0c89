"""Operations of a profile as points: FLOPs by time, and the roofline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensframe_pd.profile.axes import (
    BESIDE,
    GREY,
    axes_of,
    check_any,
    labelled,
    legend_beside,
)
from lensframe_pd.profile.profile import profile
from lensframe_pd.quantities import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FUNCS = 8  # as many as colours that are told apart
_NAMED = 8


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
    legend_beside(ax, new=given is None)
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
    ax.plot(at, np.minimum(at * traffic, peak), color=GREY, linewidth=1, zorder=0)
    ax.set_xlim(low, high)
    ax.set_title(f"best seen: {quantity(peak, 'FLOP/s')}, {quantity(traffic, 'B/s')}")
    legend_beside(ax, new=given is None)
    return ax


def _points(table: pd.DataFrame, verb: str, x: str, y: str) -> pd.DataFrame:
    """The operations that logarithmic axes can show, by the names of the axes."""
    numbers = table[["flops", "intensity", "flops_per_s"]].astype("float64")
    numbers = numbers.set_axis(["FLOPs", "FLOPs per byte", "FLOP/s"], axis=1)
    points = table[["func", "seconds"]].join(numbers)
    points["time"] = points["seconds"] * 1e3
    shown = points[(points[[x, y]] > 0).all(axis=1)]
    check_any(shown, f"{verb}: no operation of the frame has FLOPs and a time")
    common = shown["func"].value_counts().index[:_FUNCS]
    return shown.assign(function=shown["func"].where(shown["func"].isin(common), "other"))


def _scatter(points: pd.DataFrame, x: str, y: str, ax: Axes | None, **look: Any) -> Axes:
    """Operations as points, coloured by function, on logarithmic axes."""
    import seaborn

    ax = axes_of(ax, (7.0, 5.0))
    seaborn.scatterplot(points, x=x, y=y, hue="function", ax=ax, linewidth=0.3, **look)
    ax.set(xlabel=x, ylabel=y)
    _log_axes(ax)
    return ax


def _log_axes(ax: Axes) -> None:
    """Logarithmic axes labelled with numbers and units, at 2 and 5 too where they are short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        subs = (1.0, 2.0, 5.0) if high < low * 1e3 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter(labelled(axis.get_label_text()))
        axis.set_minor_formatter(NullFormatter())


def _diagonals(ax: Axes) -> None:
    """Lines of equal FLOP/s, one per power of ten."""
    (left, right), (low, high) = limits = ax.get_xlim(), ax.get_ylim()
    slowest, fastest = low / right * 1e3, high / left * 1e3  # x is in milliseconds
    for power in range(math.ceil(math.log10(slowest)), math.floor(math.log10(fastest)) + 1):
        each_ms = 10.0**power / 1e3
        ends = np.array([left, right])
        ax.plot(ends, ends * each_ms, color=GREY, linewidth=0.6, zorder=0)
        x = min(right, high / each_ms)
        if x > left * 1.3:  # else its name would be outside
            speed = quantity(10.0**power, "FLOP/s")
            ax.annotate(speed, (x, x * each_ms), (-2, -2), **BESIDE, ha="right", va="top")
    ax.set(xlim=limits[0], ylim=limits[1])  # the lines would widen them


def _name_points(ax: Axes, points: pd.DataFrame) -> None:
    """Name the points, as far as their names do not cover one another."""
    taken: list[Any] = []
    for op, x, y in points.itertuples():
        text = ax.annotate(op, (x, y), (-4, -4), **BESIDE, ha="right", va="top")
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)

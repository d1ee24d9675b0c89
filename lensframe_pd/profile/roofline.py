"""FLOPs against time and traffic; each picture is matplotlib's Axes, to be changed at will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensValueError
from lensframe_pd.profile.plots import BESIDE, GREY, axes
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.summary import large

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 8
_FUNCS = 8
_STEP = 1000.0


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
    import seaborn

    table = profile(frame, "op")
    shown = table[(table["flops"].fillna(0) > 0) & (table["seconds"] > 0)]
    if shown.empty:
        raise LensValueError("plot_flops: no operation of the frame has FLOPs and a time")
    data = pd.DataFrame(
        {
            "time": shown["seconds"].to_numpy() * 1e3,
            "flops": shown["flops"].to_numpy("float64"),
            "function": _most_common(shown["func"]),
        }
    )
    ax = axes(ax, (7.0, 5.0))
    seaborn.scatterplot(
        data, x="time", y="flops", hue="function", ax=ax, alpha=0.7, s=30, linewidth=0.3
    )
    _log_axes(ax)
    ax.set(xlabel="time (ms)", ylabel="FLOPs")
    _diagonals(ax)
    _name_points(ax, data, list(shown.index))
    rest = 1 - shown["seconds"].sum() / table["seconds"].sum()
    ax.set_title(f"{len(shown)} operations; {rest:.0%} of the time is in others, without FLOPs")
    ax.legend(loc="upper left", fontsize=8, frameon=False)
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
    import seaborn

    table = profile(frame, "op")
    timed = table[table["seconds"] > 0]
    shown = timed[(timed["flops"].fillna(0) > 0) & timed["intensity"].notna()]
    if shown.empty:
        raise LensValueError("plot_roofline: no operation of the frame has FLOPs and a time")
    data = pd.DataFrame(
        {
            "intensity": shown["intensity"].to_numpy("float64"),
            "speed": shown["flops_per_s"].to_numpy("float64"),
            "time (ms)": shown["seconds"].to_numpy() * 1e3,
            "function": _most_common(shown["func"]),
        }
    )
    ax = axes(ax, (7.0, 5.0))
    seaborn.scatterplot(
        data, x="intensity", y="speed", hue="function", size="time (ms)", sizes=(12, 160),
        ax=ax, alpha=0.6, linewidth=0.3,
    )  # fmt: skip
    _log_axes(ax)
    ax.set(xlabel="FLOPs per byte", ylabel="FLOP/s")
    traffic = float((timed["moved_bytes"].astype("Float64") / timed["seconds"]).max())
    peak = float(data["speed"].max())
    low, high = ax.get_xlim()
    at = np.geomspace(low, high, 200)
    ax.plot(at, np.minimum(at * traffic, peak), color=GREY, linewidth=1, zorder=0)
    ax.set_xlim(low, high)
    ax.set_title(f"best seen: {large(peak)}FLOP/s, {large(traffic)}B/s")
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    return ax


def _most_common(funcs: pd.Series) -> list[str]:
    common = set(funcs.value_counts().index[:_FUNCS])
    return [func if func in common else "other" for func in funcs]


def _log_axes(ax: Axes) -> None:
    """Logarithmic axes labelled with plain numbers, at 2 and 5 too where they are short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        subs = (1.0, 2.0, 5.0) if high < low * 1e3 else (1.0,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter(lambda value, _: _plain(value))
        axis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    return large(value).strip() if value >= _STEP else f"{value:g}"


def _diagonals(ax: Axes) -> None:
    """Lines of equal FLOP/s, one per power of ten."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    first, last = np.log10(low / right * 1e3), np.log10(high / left * 1e3)
    for power in range(int(np.ceil(first)), int(np.floor(last)) + 1):
        speed = 10.0**power
        ends = np.array([left, right])
        ax.plot(ends, ends / 1e3 * speed, color=GREY, linewidth=0.6, zorder=0)
        x = min(right, high / speed * 1e3)
        if x > left * 1.3:
            place = (x, x / 1e3 * speed)
            ax.annotate(f"{large(speed)}FLOP/s", place, (-2, -2), **BESIDE, ha="right", va="top")
    ax.set(xlim=(left, right), ylim=(low, high))


def _name_points(ax: Axes, data: pd.DataFrame, names: list[str]) -> None:
    """Name the slowest few, as far as their names do not cover one another."""
    taken: list[Any] = []
    for place in data["time"].nlargest(_NAMED).index:
        point = data.loc[place, ["time", "flops"]].to_numpy("float64")
        text = ax.annotate(names[place], tuple(point), (-4, -4), **BESIDE, ha="right", va="top")
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)

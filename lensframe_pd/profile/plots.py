"""Pictures of a profile; each returns matplotlib's Axes, to be changed at will."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensValueError
from lensframe_pd.profile.memory import memory
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.summary import large
from lensframe_pd.schema import labels, path_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 25
_LEVELS = 3  # how many module calls deep the ruler looks for modules that divide the steps
_MOST = 0.85
_LETTER = 0.009  # width of a letter, of the axes
_BLUE, GREY, _ORANGE = "#4c72b0", "#b9c2cc", "#dd8452"
BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#66717d"}


def plot_time(frame: pd.DataFrame, depth: int | None = 2, ax: Axes | None = None) -> Axes:
    """Time of each module: bars in tree order, what it does itself dark, what is inside it pale.

    Parameters
    ----------
    frame
        Rows of `layers`.
    depth
        Leave out modules of more than so many names (`layer1.0` has two); None for all. Where
        there are more modules than fit, the longest are shown.
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
    'time (ms)'
    """
    table = _below_root(profile(frame, "module", depth))
    shown = _largest(table, "seconds")
    total = shown["seconds"] * 1e3
    own = (shown["self_seconds"] * 1e3).where(_have_inside(shown, table), total)
    ax = _bars(total, own, [f"{share:.1%}" for share in shown["share"]], ax)
    ax.set(xlabel="time (ms)", title=_title("time", shown, table))
    return ax


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
    table = _below_root(table[table["params"] > 0])
    if table.empty:
        raise LensValueError("plot_params: no row of the frame reads a parameter")
    shown = _largest(table, "params")
    own = shown["params"].mask(_have_inside(shown, table), 0)
    ax = _bars(shown["params"], own, [large(n).strip() for n in shown["params"]], ax)
    ax.xaxis.set_major_formatter(lambda value, _: large(value).strip())
    ax.set(xlabel="parameters", title=_title("parameters", shown, table))
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
    ax = axes(ax, (9.0, 4.0))
    steps, live = table["step"].to_numpy(), table["live_bytes"].to_numpy() / 1e6
    seaborn.lineplot(x=steps, y=live, ax=ax, drawstyle="steps-mid", color=_BLUE, linewidth=1)
    ax.fill_between(steps, live, step="mid", color=_BLUE, alpha=0.25, linewidth=0)
    top = int(live.argmax())
    ax.plot(steps[top], live[top], "o", color=_ORANGE, markersize=5)
    right = top > len(live) / 2
    ax.annotate(
        f"{table.index[top]}: {large(live[top] * 1e6)}B", (steps[top], live[top]),
        (-6 if right else 6, 4), textcoords="offset points", ha="right" if right else "left",
        fontsize=9,
    )  # fmt: skip
    held = large(int(table["held_bytes"].iloc[0]))
    ax.set(xlabel="step", ylabel="live activations (MB)", ylim=(0, None))
    ax.margins(x=0.01)
    ax.set_title(f"besides {held}B of parameters, buffers and inputs")
    _module_ruler(ax, table)
    return ax


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes given, or new ones."""
    import matplotlib.pyplot as plt
    import seaborn

    if ax is not None:
        return ax
    with seaborn.axes_style("ticks"):
        _, made = plt.subplots(figsize=size, layout="constrained")
    seaborn.despine(ax=made)
    return made


def _bars(total: pd.Series, dark: pd.Series, texts: list[str], ax: Axes | None) -> Axes:
    """Pale bars with dark ones over them and a text at their ends, the first module on top."""
    import seaborn

    ax = axes(ax, (7.0, 0.9 + 0.24 * len(total)))
    names = [_short(path) for path in total.index]
    for values, color in ((total, GREY), (dark, _BLUE)):
        seaborn.barplot(x=values.to_numpy("float64"), y=names, color=color, ax=ax, saturation=1)
    for place, text in enumerate(texts):
        end = (float(total.iloc[place]), place)
        ax.annotate(text, end, (3, 0), **BESIDE, va="center")
    ax.set_ylabel("")
    ax.tick_params(axis="y", labelsize=8, length=0)
    ax.margins(x=0.08)
    return ax


def _below_root(table: pd.DataFrame) -> pd.DataFrame:
    """Without the model as a whole, unless it has no modules."""
    return table.drop(index="") if len(table) > 1 and "" in table.index else table


def _largest(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The largest rows, in the order they had."""
    if len(table) <= _BARS:
        return table
    return table.loc[table.index.isin(table[column].nlargest(_BARS).index)]


def _have_inside(shown: pd.DataFrame, table: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Whether modules inside are rows of the table, too."""
    return np.array([any(p.startswith(f"{path}.") for p in table.index) for path in shown.index])


def _title(what: str, shown: pd.DataFrame, table: pd.DataFrame) -> str:
    if len(shown) == len(table):
        return f"{what} by module"
    return f"{what} by module: the largest {len(shown)} of {len(table)}"


def _short(path: str, width: int = 40) -> str:
    return (path if len(path) <= width else f"…{path[1 - width :]}") or "(model)"


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
    spans: list[tuple[str, int, int]] = []
    for step, cell in zip(table["step"], table["module_stack"], strict=True):
        name = path_of(str(cell[min(level, len(cell) - 1)])) if len(cell) else ""
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], int(step))
        else:
            spans.append((name, int(step), int(step)))
    return spans

"""A picture of scores: lines over layers, with intervals and ceilings, in the style's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensTypeError, LensValueError, shown, unknown_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 25
"""Layers whose names have room at an axis."""
_MEASURED = ("subject", "run", "fold", "target")
"""Columns that tell apart scores of one layer which the line is the mean of."""
_VALUES = frozenset(
    "score low high mean mean_low mean_high ceiling_low ceiling_high alpha n_train n_test delta"
    .split()
)  # fmt: skip


def plot_scores(
    frame: pd.DataFrame, x: str = "depth", hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """Scores of layers: a line for each reference, with its intervals and its noise ceiling.

    Parameters
    ----------
    frame
        What `activations.lens.score` gives, or some rows of it; of `encode` too.
    x
        A column: `depth`, `step`, or one of text, as `op`, in the order of the rows.
    hue
        A column; a line for each of its values. None: `reference`, where there is one.
    ax
        Axes to draw into; by default new ones.

    Returns
    -------
    matplotlib.axes.Axes
        Where there is a score for each subject or run, they are small dots, and the line is their
        mean; so it is over folds and targets. Bars are intervals of what the line shows, or of
        many layers a pale band. The band across is the noise ceiling, from its lower to its upper
        bound.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError
        It is no frame.
    LensValueError
        No row has a score; or rows of one op differ in something else, as `checkpoint`, over which
        nobody asked to average.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> ids = list("abcdef")
    >>> layers, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.rand(6, 9), stimulus=ids)
    >>> brain = pd.DataFrame(torch.rand(6, 20).numpy(), index=ids)
    >>> scores = activations.lens.score({"brain": brain}, layers)
    >>> scores.lens.plot_scores().get_ylabel()
    'spearman'
    """
    if not isinstance(frame, pd.DataFrame):
        raise LensTypeError(f"plot_scores draws a frame of scores, not a {type(frame).__name__}")
    hue = "reference" if hue is None and "reference" in frame else hue
    wanted = ["op", "score", x] + ([] if hue is None else [hue])
    lacking = [column for column in wanted if column not in frame]
    if lacking:
        raise unknown_names(lacking, map(str, frame.columns), "column")
    lines = _lines(frame, x, hue)
    ax = _axes(ax)
    places = _places(frame, x)
    colours = _colours(len(lines))
    _draw_ceilings(ax, lines, colours)
    for (name, line), colour in zip(lines.items(), colours, strict=True):
        _draw_line(ax, line, line[x].map(places).to_numpy(float), name, colour)
    _name_places(ax, frame, x, places)
    ax.set_ylabel(_what(frame))
    if ax.get_ylim()[0] < 0:
        ax.axhline(0, color=_ink(), linewidth=0.5, alpha=0.5, zorder=0)
    if len(lines) > 1 or ax.patches:
        handles, said = ax.get_legend_handles_labels()
        order = sorted(range(len(said)), key=lambda k: handles[k] in ax.patches)  # lines first
        ax.legend(
            [handles[k] for k in order], [said[k] for k in order], fontsize=8, frameon=False,
            loc="upper left", bbox_to_anchor=(1.01, 1.0),
        )  # fmt: skip
    return ax


def _lines(frame: pd.DataFrame, x: str, hue: str | None) -> dict[Any, pd.DataFrame]:
    """A frame for each line: where it is, intervals, ceilings, and what it is the mean of."""
    there = frame[frame["score"].notna()]
    if there.empty:
        raise LensValueError("plot_scores: no row has a score")
    by_line = [("", there)] if hue is None else [*there.groupby(hue, sort=False, observed=True)]
    found = {}
    for name, rows in by_line:
        points = [
            _point(name, op, some, x) for op, some in rows.groupby("op", sort=False, observed=True)
        ]
        line = pd.DataFrame(points)
        found[name] = line if isinstance(there[x].iloc[0], str) else line.sort_values(x)
    return found


def _point(name: Any, op: Any, rows: pd.DataFrame, x: str) -> dict[str, Any]:
    measured = [c for c in _MEASURED if c in rows and rows[c].notna().any()]
    if rows.duplicated(measured).any() if measured else len(rows) > 1:
        raise LensValueError(_ambiguous(name, op, rows, measured))
    first = rows.iloc[0]
    several, score = bool(measured) and len(rows) > 1, rows["score"].mean()
    low, high = (first.get(end, np.nan) for end in ("low", "high"))
    if several:  # the interval of the mean, if this is the mean of all that it is of
        is_of_all = np.isclose(first.get("mean", np.nan), score)
        ends = [first.get(end, np.nan) for end in ("mean_low", "mean_high")]
        low, high = ends if is_of_all else (np.nan, np.nan)
    return {
        x: first[x], "op": op, "score": score, "low": low, "high": high,
        "ceiling_low": first.get("ceiling_low", np.nan),
        "ceiling_high": first.get("ceiling_high", np.nan),
        "each": rows["score"].to_numpy() if several else np.empty(0),
    }  # fmt: skip


def _ambiguous(name: Any, op: Any, rows: pd.DataFrame, measured: list[str]) -> str:
    others = [c for c in rows if c not in _VALUES and c not in measured]
    differ = [str(c) for c in others if rows[c].astype(str).unique().size > 1]
    if not differ:
        return f"plot_scores: {op!r} is there {len(rows)} times for {name!r}; each is to be once"
    return (
        f"plot_scores: {op!r} has {len(rows)} rows for {name!r} that differ in {shown(differ)}; "
        f"give hue={differ[0]!r}, or select one: frame[frame[{differ[0]!r}] == ...]"
    )


def _axes(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    if ax is not None:
        return ax
    _, made = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    made.spines[["top", "right"]].set_visible(False)
    return made


def _colours(n: int) -> list[Any]:
    """Those of the style, which has them for its background; more are spread over a map."""
    import matplotlib.pyplot as plt

    cycle = plt.rcParams["axes.prop_cycle"].by_key().get("color", ["C0"])
    if n <= len(cycle):
        return list(cycle[:n])
    return [plt.get_cmap("turbo")(k) for k in np.linspace(0.1, 0.9, n)]


def _ink() -> Any:
    import matplotlib.pyplot as plt

    return plt.rcParams["axes.edgecolor"]


def _draw_ceilings(ax: Axes, lines: dict[Any, pd.DataFrame], colours: list[Any]) -> None:
    """A band for each line that has a ceiling; one of no colour, if it is the same of all."""
    bands = [
        (name, colour, low, high)
        for (name, line), colour in zip(lines.items(), colours, strict=True)
        for low, high in line[["ceiling_low", "ceiling_high"]].dropna().drop_duplicates().to_numpy()
    ]
    if len({(low, high) for *_, low, high in bands}) == 1 and len(bands) == len(lines) > 1:
        bands = [("", _ink(), *bands[0][2:])]
    for name, colour, low, high in bands:
        said = f"noise ceiling of {name}" if str(name) else "noise ceiling"
        ax.axhspan(low, high, color=colour, alpha=0.22, linewidth=0, label=said, zorder=0)
        for end in (low, high):  # a band alone is faint on a dark background
            ax.axhline(end, color=colour, linewidth=0.6, alpha=0.7, zorder=0)


def _draw_line(ax: Axes, line: pd.DataFrame, places: Any, name: Any, colour: Any) -> None:
    score = line["score"].to_numpy(float)
    means = pd.Series(score).groupby(places).mean()  # passes of a layer share their depth
    ax.plot(means.index, means, color=colour, linewidth=1.4, label=str(name), zorder=2)
    ends = line[["low", "high"]].to_numpy(float)
    whole = ~np.isnan(ends).any(axis=1)
    if len(means) > _NAMED and len(means) == len(line):
        ax.fill_between(places, *ends.T, color=colour, alpha=0.2, linewidth=0, zorder=1)
        return
    ax.vlines(places[whole], ends[whole, 0], ends[whole, 1], color=colour, linewidth=1.4, zorder=2)
    ax.plot(places, score, "o", color=colour, markersize=4.5, zorder=3)
    for place, each in zip(places, line["each"], strict=True):
        if len(each):
            at_place = [place] * len(each)
            ax.plot(at_place, each, ".", color=colour, markersize=3, alpha=0.45, zorder=1)


def _places(frame: pd.DataFrame, x: str) -> dict[Any, float]:
    """Where each value of x is: numbers at themselves, others in the order of the rows."""
    values = frame[x].dropna().drop_duplicates()
    if pd.api.types.is_numeric_dtype(values):
        return {value: float(value) for value in values}
    return {value: float(k) for k, value in enumerate(values)}


def _name_places(ax: Axes, frame: pd.DataFrame, x: str, places: dict[Any, float]) -> None:
    """The layers at the ticks of depth, and the values of what is no number."""
    ax.set_xlabel(x)
    names = dict(zip(places.values(), map(str, places), strict=True))
    if pd.api.types.is_numeric_dtype(frame[x]):
        column = "layer" if "layer" in frame else "op"
        layers = frame.groupby(x)[column].agg(lambda some: "\n".join(dict.fromkeys(map(str, some))))
        if x != "depth" or len(layers) > _NAMED:
            return
        names = dict(zip(map(float, layers.index), layers, strict=True))
    ax.set_xticks([*names], [*names.values()], rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", labelsize=8)


def _what(frame: pd.DataFrame) -> str:
    for column in ("comparison", "measure"):
        if column in frame:
            said = ", ".join(dict.fromkeys(map(str, frame[column].dropna())))
            break
    else:
        said = "score"
    over = [c for c in _MEASURED if c in frame and frame[c].dropna().unique().size > 1]
    return f"{said}, mean over {', '.join(over)}" if over else said

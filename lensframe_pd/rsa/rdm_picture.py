"""A picture of RDMs: side by side, on one colour scale. Colours follow matplotlib's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, shown, unknown_names
from lensframe_pd.rsa.ids import positions
from lensframe_pd.rsa.rdm import SECOND
from lensframe_pd.rsa.repeated import Over, at, labels_of
from lensframe_pd.schema import STIMULUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 60
"""Panels that can still be told apart."""
_BESIDE = 6
"""Panels in a row, at most."""
_NAMED = 40
"""Stimuli whose ids have room at an axis."""
_GROUPS = 25
_UNITS = {
    "correlation": "1 - Pearson's r", "spearman": "1 - Spearman's rho", "cosine": "1 - cosine",
    "mahalanobis": "squared Mahalanobis distance / feature", "crossnobis": "crossnobis / feature",
    "sqeuclidean": "squared Euclidean distance", "euclidean": "Euclidean distance",
}  # fmt: skip


def plot_rdm(
    rdms: xr.DataArray | pd.DataFrame,
    sort: str | Sequence[Any] | None = None,
    label: str | None = None,
) -> Figure:
    """RDMs side by side, on one colour scale, with the stimuli in one order.

    Parameters
    ----------
    rdms
        What `activations.lens.rdm` gives, or some of it; or one RDM with ids on both sides. There
        is a panel for each layer, and for each place that layers are repeated at.
    sort
        A coordinate of the stimuli, as `"category"`, that they are sorted by; or ids, in the order
        wanted. None: as they are.
    label
        A coordinate whose values name stretches of equal stimuli, with lines between them;
        `"stimulus"` for ids. None: what they are sorted by; else ids, if there are few.

    Returns
    -------
    matplotlib.figure.Figure
        One colour bar, from 0 (or below, if values are) to the largest value. Missing values are
        grey.

    Raises
    ------
    LensKeyError
        No coordinate of the stimuli has this name.
    LensTypeError
        It is no array.
    LensValueError
        It is no RDM: not stimulus by stimulus, or with other ids on its two sides. More panels
        than can be seen; or nothing but NaN.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> table = pd.DataFrame({"kind": list("ababa")}, index=list("vwxyz"))
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:5], stimulus=table)
    >>> figure = lf.plot_rdm(activations.lens.rdm(), sort="kind")
    >>> [ax.get_title() for ax in figure.axes][:2]
    ['input_1', 'linear_1']
    """
    import matplotlib.pyplot as plt

    whole = _square(rdms)
    order = _order(whole, sort)
    whole = whole.isel({STIMULUS: order, SECOND: order})
    over = Over({str(d): labels_of(whole, str(d), "the RDM") for d in whole.dims[:-2]})
    if over.size > _MOST:
        raise LensValueError(
            f"plot_rdm: {over.size} RDMs, along {shown(over.dims)}, are more than can be seen; "
            f"select some of them, {_MOST} at most"
        )
    values = whole.to_numpy()
    known = values[np.isfinite(values)]
    if not known.size:
        raise LensValueError("plot_rdm: there is no dissimilarity that is a number")
    low, high = min(0.0, float(known.min())), float(known.max())
    columns = min(over.size, _BESIDE)
    rows = math.ceil(over.size / columns)
    groups = _groups(whole, sort if label is None and isinstance(sort, str) else label)
    beside = 0.07 * max((len(name) for name, _, _ in groups), default=0)  # of letters, in inches
    size = (1.2 + 2.1 * columns + beside, 0.5 + 2.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # type: ignore[union-attr,call-arg]
    colours = plt.get_cmap("viridis").with_extremes(bad="#999999")
    image: Any = None
    for ax, place in zip(axes.flat, over.places(), strict=False):
        image = ax.imshow(
            np.ma.masked_invalid(at(whole, place).to_numpy()), vmin=low, vmax=high or 1.0,
            cmap=colours, interpolation="nearest",
        )  # fmt: skip
        ax.set_title(_title(whole, over, place), fontsize=9)
        _name_stimuli(ax, groups, first=ax in axes[:, 0])
    for ax in axes.flat[over.size :]:
        ax.remove()
    metric = str(whole.attrs.get("metric", ""))
    bar = figure.colorbar(image, ax=[*axes.flat[: over.size]], shrink=0.8)
    bar.set_label(_UNITS.get(metric, metric or "dissimilarity"), fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return figure


def _square(rdms: Any) -> xr.DataArray:
    if isinstance(rdms, pd.DataFrame):
        rdms = xr.DataArray(rdms.to_numpy(), _sides(rdms.index, rdms.columns), (STIMULUS, SECOND))
    if not isinstance(rdms, xr.DataArray):
        raise LensTypeError(
            f"plot_rdm draws what activations.lens.rdm() gives, or a DataFrame with ids on both "
            f"sides, not a {type(rdms).__name__}"
        )
    if not {STIMULUS, SECOND} <= {*rdms.dims}:
        raise LensValueError(
            f"plot_rdm: an RDM has axes {STIMULUS} and {SECOND}, and this has "
            f"{', '.join(map(str, rdms.dims)) or 'none'}"
        )
    square: xr.DataArray = rdms.transpose(..., STIMULUS, SECOND)
    if square.sizes[STIMULUS] != square.sizes[SECOND]:
        raise LensValueError(
            f"plot_rdm: one side has {square.sizes[STIMULUS]} stimuli, the other "
            f"{square.sizes[SECOND]}; select on both: .sel(stimulus=ids, stimulus_=ids)"
        )
    if STIMULUS in square.indexes and SECOND in square.indexes:
        # sorted along one axis only, as by .sortby("category")
        first, second = square.indexes[STIMULUS], square.indexes[SECOND]
        return square.isel({SECOND: positions(first, second, STIMULUS, SECOND)})
    return square


def _sides(first: pd.Index, second: pd.Index) -> dict[str, pd.Index]:
    return {STIMULUS: first, SECOND: second}


def _order(rdms: xr.DataArray, sort: Any) -> Any:
    n = rdms.sizes[STIMULUS]
    if sort is None:
        return np.arange(n)
    if isinstance(sort, str):
        return np.argsort(_column(rdms, sort), kind="stable")
    ids = rdms.indexes.get(STIMULUS, pd.RangeIndex(n))
    return positions(pd.Index(sort), ids, "sort=", "the RDM")


def _column(rdms: xr.DataArray, name: str) -> Any:
    known = [str(k) for k, coord in rdms.coords.items() if coord.dims == (STIMULUS,)]
    if name not in known:
        raise unknown_names([name], known, "coordinate of the stimuli")
    return rdms[name].to_numpy()


def _groups(rdms: xr.DataArray, label: str | None) -> list[tuple[str, int, int]]:
    """Stretches of stimuli of one label: its text, first and last position."""
    if label is None:
        if STIMULUS not in rdms.indexes or rdms.sizes[STIMULUS] > _NAMED:
            return []
        label = STIMULUS
    found, start = list[tuple[str, int, int]](), 0
    for value, some in groupby(_column(rdms, label)):
        end = start + len([*some])
        found.append((str(value), start, end - 1))
        start = end
    return found


def _name_stimuli(ax: Axes, groups: list[tuple[str, int, int]], first: bool) -> None:
    """The names beside the first panel of a row; lines between stretches in all of them."""
    ax.set(xticks=[], yticks=[])
    several = any(end > start for _, start, end in groups)
    if several and len(groups) <= _GROUPS:
        for _, start, _ in groups[1:]:
            ax.axhline(start - 0.5, color="white", linewidth=0.6)
            ax.axvline(start - 0.5, color="white", linewidth=0.6)
    if first and groups:
        step = math.ceil(len(groups) / _NAMED)
        named = groups[::step]
        ax.set_yticks([(a + b) / 2 for _, a, b in named], [name for name, _, _ in named])
        ax.tick_params(axis="y", labelsize=min(8.0, 120 / len(named)), length=0)


def _title(rdms: xr.DataArray, over: Over, place: dict[str, int]) -> str:
    labels = over.named(place)
    single = rdms["layer"].item() if "layer" in rdms.coords and not rdms["layer"].ndim else None
    layer = labels.pop("layer", single)
    rest = [f"{d} {value}" for d, value in labels.items()]
    return "\n".join([str(layer)] * (layer is not None) + rest)

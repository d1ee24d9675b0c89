"""Representational dissimilarity matrices of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensValueError, shown, warn
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.rsa.blockwise import rdm_of
from lensframe_pd.rsa.distances import Array, Dissimilarities
from lensframe_pd.rsa.features import feature_names, patterns, repeated_executions
from lensframe_pd.rsa.noise import METRICS, check_noise, crossnobis, mahalanobis, root_of
from lensframe_pd.rsa.pooling import Pool, check_axes, pooled
from lensframe_pd.rsa.repeated import (
    Over,
    Place,
    Repeated,
    at,
    check_free,
    check_same,
    coords_of,
    labels_of,
    over_of,
)
from lensframe_pd.rsa.reported import pool_text, reported
from lensframe_pd.rsa.runs import side_by_side
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, memory_of, opened
from lensframe_pd.schema import STIMULUS

SECOND = "stimulus_"


def rdm(
    dataset: xr.Dataset,
    layers: Any = None,
    metric: str = "correlation",
    *,
    pool: Pool = None,
    over: str | None = None,
    noise: Any = None,
    memory: int | str = DEFAULT_MEMORY,
) -> xr.DataArray:
    """Dissimilarity of each stimulus with each other, in every layer and pass.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    layers
        Labels, layers or module paths, or rows of `layers`; a layer with several passes gives one
        RDM per pass. None: every variable with a stimulus axis and another.
    metric
        `correlation` (1 - Pearson's r), `spearman`, `cosine`, `euclidean`, `sqeuclidean`, or any
        other of `scipy.spatial.distance.pdist`. `mahalanobis` and `crossnobis` are about the noise
        of the measurements, squared and per feature, as in rsatoolbox.
    pool
        What to do with space, tokens or time first, as for `features`: `"mean"`,
        `{"token": "last"}`. Layers that lack an axis are taken as they are, if one layer has it.
    over
        Of `crossnobis` the axis of the repeated measurements, as `"run"`, or a column of the
        stimuli, where each comes once in each run: each run is multiplied with the others, so that
        noise adds nothing on average. Values below 0 are right there.
    noise
        Of `mahalanobis` and `crossnobis` the precision of the noise, the inverse of its covariance,
        feature x feature, as rsatoolbox's `prec_from_residuals` estimates it; or its diagonal, or
        a mapping of labels to such; joined by the names of the features where both have any. A
        DataArray may have an axis that layers are repeated over, as `subject`: each has its own.
        `"identity"`: independent noise of one size.
    memory
        Of a store, as `xarray.open_zarr` or `lf.read` open it: bytes, or a text as "500 MB", that
        may be taken beside the result. A larger layer is read by pairs of blocks of stimuli: n
        stimuli, R of them in a block, are read (n / R - 1) / 2 times and a little. `seuclidean`
        cannot be had so; `crossnobis` takes another RDM beside, and reads every run twice so.

    Returns
    -------
    xarray.DataArray
        `(layer, stimulus, stimulus_)`, float64; `layer` holds labels, and both stimulus axes the
        ids. After `layer` come axes that no operation made, such as the `checkpoint` of several
        Datasets joined: an RDM at each of their places. Computed in float64, by chunks of
        features. Attributes say how: `metric`, `pool`, `n_stimuli`, `n_pairs`, `versions`.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name, or `noise` nothing for a layer.
    LensValueError
        An unknown metric, an axis to pool that no layer has, or axes of which it cannot be known
        whether they are features. A metric about the noise without it, one run, or a `noise` that
        is no precision of these features. A store that is not finished, or larger than the memory
        and of a metric that needs all stimuli at once; too little memory.

    Warns
    -----
    LensWarning
        Naming patterns without a dissimilarity, which is then NaN: constant ones (for
        `euclidean` there are none), and those that hold NaN or infinity.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
    >>> activations.lens.rdm(["input_1", "linear_1"]).sizes
    Frozen({'layer': 2, 'stimulus': 3, 'stimulus_': 3})

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Representational similarity analysis, Frontiers in
    Systems Neuroscience 2:4, doi:10.3389/neuro.06.004.2008.
    """
    check_finished(dataset, "rdm")
    check_noise(metric, over, noise)
    way = _Way(metric, pool, over, noise, memory_of(memory))
    layered = repeated_executions(opened(dataset), layers)
    if over is not None:
        layered = side_by_side(layered, over)
    arrays = {label: array for label, (array, _) in layered.items()}
    check_axes(arrays, pool)
    axes = _axes(layered, over, noise)
    n = next(iter(arrays.values())).sizes[STIMULUS]
    values = np.empty((len(arrays), *axes.shape, n, n))
    n_features, notes = [], list[str]()
    layers_done = counted([*zip(values, arrays.items(), strict=True)], "rdm", "layers")
    for of_layer, (label, array) in layers_done:
        for place in axes.places(map(str, array.dims)):
            one = at(array, place)
            out = of_layer[tuple(place.get(d, 0) for d in axes.dims)]
            found, p = way.at(place).rdm(one, label, out)
            notes += _notes(axes.said(label, place), one, found.constant, found.broken)
            if len(place) < len(axes.dims):  # one for all places of the others
                of_layer[tuple(place.get(d, slice(None)) for d in axes.dims)] = out
        n_features.append(p)
    if notes:
        warn("\n".join(notes))
    coords = _coords(arrays, axes)
    coords["n_features"] = ("layer", np.array(n_features))
    dims = ("layer", *axes.dims, STIMULUS, SECOND)
    return xr.DataArray(values, coords, dims, name="rdm", attrs=way.reported(n))


def _axes(layered: Mapping[str, Repeated], over: str | None, noise: Any) -> Over:
    """What there is an RDM of at each place: all that layers are repeated over but runs."""
    if over is not None:
        _check_runs(layered, over)
    found = over_of(
        {label: (a, tuple(d for d in dims if d != over)) for label, (a, dims) in layered.items()}
    )
    check_free(found, ("layer", STIMULUS, SECOND, "n_features"), "rdm")
    if isinstance(noise, xr.DataArray):
        for dim in [d for d in found.dims if d in noise.dims]:
            own = labels_of(noise, dim, "noise=")
            check_same(dim, found.labels[dim], own, "the layers", "noise=")
    return found


class _Way(NamedTuple):
    """How RDMs are made."""

    metric: str
    pool: Pool
    over: str | None
    noise: Any
    memory: int

    def rdm(self, array: xr.DataArray, label: str, out: Array) -> tuple[Dissimilarities, int]:
        """One, and of how many features."""
        if self.over is not None:
            return self._over_runs(array, label, out)
        rows = patterns(array, self.pool, label, self.memory)
        p = rows.shape[1]
        if self.metric not in METRICS:
            return rdm_of(rows, self.metric, out), p
        return mahalanobis(rows, self._root(array, label, p), out), p

    def at(self, place: Place) -> _Way:
        """With the noise of this place, if each has its own."""
        if isinstance(self.noise, xr.DataArray):
            return self._replace(noise=at(self.noise, place))
        return self

    def reported(self, n: int) -> dict[str, Any]:
        """What is to be said of it."""
        facts = {"metric": self.metric, "pool": pool_text(self.pool), "n_stimuli": n}
        facts["n_pairs"] = n * (n - 1) // 2
        if self.over is not None:
            facts["over"] = self.over
        if self.noise is not None:
            facts["noise"] = self.noise if isinstance(self.noise, str) else "given"
        return reported(**facts)

    def _over_runs(
        self, array: xr.DataArray, label: str, out: Array
    ) -> tuple[Dissimilarities, int]:
        array = pooled(array, self.pool, label, strict=False).transpose(self.over, ...)
        runs = [patterns(run, None, label, self.memory) for run in array]
        mean = array.mean(self.over, dtype=np.float64, skipna=False)
        rows = patterns(mean, None, label, self.memory, stored=len(runs))
        p = rows.shape[1]
        return crossnobis(runs, rows, self._root(array[0], label, p), out), p

    def _root(self, array: xr.DataArray, label: str, p: int) -> Array | None:
        return root_of(self.noise, label, feature_names(array, p))


def _coords(arrays: Mapping[str, xr.DataArray], axes: Over) -> dict[Any, Any]:
    first = next(iter(arrays.values()))
    coords: dict[Any, Any] = {
        name: coord.variable for name, coord in first.coords.items() if coord.dims == (STIMULUS,)
    }
    if STIMULUS in coords:
        coords[SECOND] = (SECOND, coords[STIMULUS].to_numpy())
    coords |= coords_of(arrays.values(), axes)
    return coords | {"layer": ("layer", np.array(list(arrays), dtype=np.str_))}


def _check_runs(layered: Mapping[str, Repeated], over: str) -> None:
    for label, (array, dims) in layered.items():
        if over not in dims:
            there = f"it is repeated over {shown(dims)}" if dims else "it is repeated over nothing"
            raise LensValueError(f"over={over!r} is no axis of repeats of {label!r}: {there}")
        if array.sizes[over] < 2:
            has = "one" if array.sizes[over] else "no"
            raise LensValueError(
                f"{label!r} has {has} {over}: crossnobis multiplies runs with one another, needs "
                "two at least; metric='mahalanobis' takes one"
            )


def _notes(of: str, array: xr.DataArray, constant: Any, broken: Any) -> Iterable[str]:
    names = array.indexes.get(STIMULUS, np.arange(array.sizes[STIMULUS]))
    for rows, what in ((constant, "constant patterns"), (broken, "patterns with NaN or infinity")):
        if rows.any():
            yield f"{what} in {of}, whose dissimilarity is NaN: {shown(names[rows])}"

"""Representational dissimilarity matrices of layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import shown, warn
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.rsa.blockwise import rdm_of
from lensframe_pd.rsa.features import Pool, check_axes, executions, patterns
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, memory_of, opened
from lensframe_pd.schema import STIMULUS

SECOND = "stimulus_"


def rdm(
    dataset: xr.Dataset,
    layers: Any = None,
    metric: str = "correlation",
    *,
    pool: Pool = None,
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
        other of `scipy.spatial.distance.pdist` but `mahalanobis`: in this field it is about the
        covariance of the noise, and scipy's about that of the stimuli.
    pool
        What to do with space, tokens or time first, as for `features`: `"mean"`,
        `{"token": "last"}`. Layers that lack an axis are taken as they are, if one layer has it.
    memory
        Of a store, as `xarray.open_zarr` or `lf.read` open it: bytes, or a text as "500 MB", that
        may be taken beside the result. A larger layer is read by pairs of blocks of stimuli: n
        stimuli, R of them in a block, are read (n / R - 1) / 2 times and a little. `seuclidean`
        cannot be had so.

    Returns
    -------
    xarray.DataArray
        `(layer, stimulus, stimulus_)`, float64; `layer` holds labels, and both stimulus axes the
        ids. Computed in float64, by chunks of features.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name.
    LensValueError
        An unknown metric, an axis to pool that no layer has, or an axis that no operation made,
        such as the `checkpoint` of several Datasets joined. A store that is not finished, or
        larger than the memory and of a metric that needs all stimuli at once; too little memory.

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
    memory = memory_of(memory)
    arrays = executions(opened(dataset), layers)
    check_axes(arrays, pool)
    n = next(iter(arrays.values())).sizes[STIMULUS]
    values = np.empty((len(arrays), n, n))
    n_features, notes = [], list[str]()
    layers_done = counted([*zip(values, arrays.items(), strict=True)], "rdm", "layers")
    for out, (label, array) in layers_done:
        rows = patterns(array, pool, label, memory)
        found = rdm_of(rows, metric, out)
        n_features.append(rows.shape[1])
        notes += _notes(label, array, found.constant, found.broken)
    if notes:
        warn("\n".join(notes))
    first = next(iter(arrays.values()))
    coords: dict[Any, Any] = {
        name: coord.variable for name, coord in first.coords.items() if coord.dims == (STIMULUS,)
    }
    if STIMULUS in coords:
        coords[SECOND] = (SECOND, first[STIMULUS].to_numpy())
    coords["layer"] = ("layer", np.array(list(arrays), dtype=np.str_))
    coords["n_features"] = ("layer", np.array(n_features))
    return xr.DataArray(
        values, coords, ("layer", STIMULUS, SECOND), name="rdm", attrs={"metric": metric}
    )


def _notes(label: str, array: xr.DataArray, constant: Any, broken: Any) -> Iterable[str]:
    names = array.indexes.get(STIMULUS, np.arange(array.sizes[STIMULUS]))
    for rows, what in ((constant, "constant patterns"), (broken, "patterns with NaN or infinity")):
        if rows.any():
            yield f"{what} in {label}, whose dissimilarity is NaN: {shown(names[rows])}"

"""Activations in the terms of others: rsatoolbox, Brain-Score, xarray, scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, needs, shown
from lensframe_pd.files.atomic import new_file
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.files.places import place_to_write
from lensframe_pd.labels import one_name
from lensframe_pd.rsa.features import executions, features, flat
from lensframe_pd.rsa.ids import ids_of
from lensframe_pd.rsa.pooling import Pool, check_axes, pooled
from lensframe_pd.rsa.rdm import SECOND, rdm
from lensframe_pd.rsa.repeated import Over, at, not_features
from lensframe_pd.schema import STIMULUS


def to_rsatoolbox(dataset: xr.Dataset, key: Any, pool: Pool = None) -> Any:
    """One layer as an `rsatoolbox.data.Dataset`.

    Parameters
    ----------
    dataset, key, pool
        As for `features`.

    Returns
    -------
    rsatoolbox.data.Dataset
        Measurements stimulus x feature in float64; ids and stimulus columns are observation
        descriptors, the axes of the features (channel, y, x) channel descriptors. What rsatoolbox
        makes of it by a descriptor, it sorts as text ("10" before "9"): join that by its pattern
        descriptors, not by position.

    Raises
    ------
    LensRuntimeError
        rsatoolbox is not installed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
    >>> activations.lens.to_rsatoolbox("linear_1").measurements.shape
    (3, 4)
    """
    needs("rsatoolbox", "rsatoolbox's objects")
    from rsatoolbox.data.dataset import Dataset

    key = one_name(key, "to_rsatoolbox")
    found = _one_matrix(dataset, key, pool)
    descriptors = {"layer": key, **{k: v for k, v in dataset.attrs.items() if k == "model"}}
    make: Any = Dataset  # untyped
    return make(
        found.to_numpy().astype(np.float64),
        descriptors=descriptors,
        obs_descriptors=_columns(found, STIMULUS),
        channel_descriptors=_columns(found, "feature"),
    )


def to_rsatoolbox_rdms(
    dataset: xr.Dataset,
    layers: Any = None,
    metric: str = "correlation",
    *,
    pool: Pool = None,
    over: str | None = None,
    noise: Any = None,
) -> Any:
    """RDMs of layers as one `rsatoolbox.rdm.RDMs`, for its comparison, noise ceilings, inference.

    Parameters
    ----------
    dataset, layers, metric, pool, over, noise
        As for `rdm`. rsatoolbox's `euclidean` is the squared distance over the number of features:
        that is what `metric="sqeuclidean"` hands over, under rsatoolbox's name for it, `squared
        euclidean`. Other metrics are handed over as they are, under their own names.

    Returns
    -------
    rsatoolbox.rdm.RDMs
        RDM descriptors `layer`, `n_features` and the axes that layers are repeated over, one RDM
        at each place; pattern descriptors are ids and stimulus columns.

    Raises
    ------
    LensRuntimeError
        rsatoolbox is not installed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
    >>> rdms = activations.lens.to_rsatoolbox_rdms(metric="sqeuclidean")
    >>> rdms.n_rdm, rdms.dissimilarity_measure
    (3, 'squared euclidean')
    """
    return as_rsatoolbox_rdms(rdm(dataset, layers, metric, pool=pool, over=over, noise=noise))


_THEIR_METRICS = {"sqeuclidean": "squared euclidean", "mahalanobis": "squared mahalanobis"}


def as_rsatoolbox_rdms(rdms: xr.DataArray) -> Any:
    """What `rdm` gave, as one `rsatoolbox.rdm.RDMs`; see `to_rsatoolbox_rdms`."""
    needs("rsatoolbox", "rsatoolbox's objects")
    from rsatoolbox.rdm.rdms import RDMs

    metric = str(rdms.attrs["metric"])
    dims = [str(d) for d in rdms.dims if d not in (STIMULUS, SECOND)]
    over = Over({d: rdms.indexes.get(d, pd.RangeIndex(rdms.sizes[d])) for d in dims})
    each = [at(rdms, place).to_numpy() for place in over.places()]
    labels = [over.named(place) for place in over.places()]
    descriptors: dict[str, Any] = {d: np.array([label[d] for label in labels]) for d in dims}
    descriptors["n_features"] = np.repeat(rdms["n_features"].to_numpy(), len(each) // len(rdms))
    if metric == "sqeuclidean":
        each = [one / p for one, p in zip(each, descriptors["n_features"], strict=True)]
    make: Any = RDMs  # untyped
    return make(
        np.array(each),
        dissimilarity_measure=_THEIR_METRICS.get(metric, metric),
        rdm_descriptors=descriptors,
        pattern_descriptors=_columns(rdms, STIMULUS),
    )


def to_assembly(
    dataset: xr.Dataset,
    layers: Any = None,
    *,
    pool: Pool = None,
    path: str | os.PathLike[str] | None = None,
) -> xr.DataArray:
    """Layers as an assembly in the manner of Brain-Score and brainio: presentation x neuroid.

    Parameters
    ----------
    dataset, layers, pool
        As for `rdm`.
    path
        Also write it there as netCDF, as brainio does: one array, all coordinates flat.

    Returns
    -------
    xarray.DataArray
        Presentation coordinates `stimulus_id` and the stimulus columns; neuroid coordinates
        `neuroid_id`, `neuroid_num`, `model`, `layer`, `channel`, `channel_x`, `channel_y`. As in
        Brain-Score's own, `channel_x` numbers the first spatial axis (rows) and `channel_y` the
        second, and both are NaN in layers without space. Other axes keep their names.

    Raises
    ------
    LensFileError
        Nothing can be written at `path`: there is no such folder, or you may not.
    LensValueError
        The stimuli have no ids.
    LensRuntimeError
        With `path`: h5netcdf is not installed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:2], stimulus=[5, 6])
    >>> assembly = activations.lens.to_assembly("linear_1")
    >>> assembly.dims, str(assembly["neuroid_id"].values[0])
    (('presentation', 'neuroid'), 'Linear.linear_1.0')

    References
    ----------
    Schrimpf et al. (2020), Neuron 108:413; github.com/brain-score/vision, model_helpers.
    """
    place = None
    if path is not None:
        needs("h5netcdf", "netCDF files")
        place = place_to_write(path, folder=False)
    ids = ids_of(dataset, "the Dataset").to_numpy()
    model = str(dataset.attrs.get("model", "model"))
    parts = [_neuroids(array, name, model) for name, array in _pooled(dataset, layers, pool)]
    filled = _same_coordinates(parts, "neuroid")
    joined = xr.concat(filled, "neuroid", coords="minimal", compat="override", join="override")
    joined = joined.drop_vars(STIMULUS).rename({STIMULUS: "presentation"}).rename(None)
    joined = joined.assign_coords(stimulus_id=("presentation", ids))
    joined.attrs = {"identifier": model}
    if place is not None:
        with new_file(place) as new:
            joined.rename("activations").to_netcdf(new, engine="h5netcdf")
    return joined


def to_stacked(dataset: xr.Dataset, layers: Any = None, *, pool: Pool = None) -> xr.DataArray:
    """All features of several layers side by side: stimulus x feature.

    Parameters
    ----------
    dataset, layers, pool
        As for `rdm`.

    Returns
    -------
    xarray.DataArray
        `(stimulus, feature)`; `feature` is a MultiIndex of `layer` and `unit`, so
        `.sel(layer="relu_1")` gives one back.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name.
    LensValueError
        An axis to pool that no layer has.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:3])
    >>> stacked = activations.lens.to_stacked(["input_1", "linear_1"])
    >>> stacked.shape, stacked.sel(layer="linear_1").shape
    ((3, 13), (3, 4))
    """
    parts = []
    for name, array in _pooled(dataset, layers, pool):
        part = flat(array, name).drop_attrs()
        part = part.drop_vars([c for c in part.coords if part[c].dims == ("feature",)])
        units = {
            "layer": ("feature", np.full(part.sizes["feature"], name)),
            "unit": ("feature", np.arange(part.sizes["feature"])),
        }
        parts.append(part.rename(None).assign_coords(units))
    joined = xr.concat(parts, "feature", coords="minimal", compat="override", join="override")
    return joined.set_index(feature=["layer", "unit"])


def to_datatree(dataset: xr.Dataset) -> xr.DataTree:
    """The variables in a tree of modules: those of module `layer1.0` are at `/layer1/0`.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.

    Returns
    -------
    xarray.DataTree
        Stimulus coordinates are at the root and inherited. A module that has the name of a
        variable beside it gets `_`.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.ReLU()).eval()
    >>> _, activations = lf.trace(model, torch.eye(9)[:3])
    >>> list(activations.lens.to_datatree()["0"].data_vars)
    ['linear_1']
    """
    members: dict[str, list[Any]] = {}
    for name, variable in dataset.data_vars.items():
        members.setdefault(str(variable.attrs.get("module", "")), []).append(name)
    paths: dict[str, str] = {"": ""}
    for module in sorted(members):
        _path(module, members, paths)
    nodes = {
        paths[module] or "/": dataset[names].drop_vars(dataset.coords)
        for module, names in members.items()
    }
    root = nodes.pop("/", xr.Dataset()).assign_coords(dataset.coords).assign_attrs(dataset.attrs)
    return xr.DataTree.from_dict({"/": root, **nodes})


def to_sklearn(
    dataset: xr.Dataset, key: Any, responses: pd.DataFrame | xr.DataArray, pool: Pool = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features of a layer and neural responses to the same stimuli, row by row: `X, y`.

    Parameters
    ----------
    dataset, key, pool
        As for `features`.
    responses
        One row per presentation, indexed by stimulus id (DataFrame), or `(stimulus, unit)` with
        ids. An id may come several times (trials): its features are repeated.

    Returns
    -------
    X, y : pandas.DataFrame
        In the order of `responses`, both indexed by id, for any scikit-learn estimator.

    Raises
    ------
    LensTypeError
        `responses` is neither a DataFrame nor a DataArray.
    LensValueError
        An id is in one of them only; the features have none, or one twice.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> from sklearn.linear_model import RidgeCV
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9), stimulus=range(9))
    >>> responses = pd.DataFrame({"unit": range(9)}, index=range(9)[::-1])
    >>> X, y = activations.lens.to_sklearn("linear_1", responses)
    >>> RidgeCV().fit(X, y).predict(X).shape
    (9,)
    """
    key = one_name(key, "to_sklearn")
    found = _one_matrix(dataset, key, pool)
    if isinstance(responses, xr.DataArray):
        ids_of(responses, "the response array")
        values = responses.transpose(STIMULUS, ...)
        if values.ndim != 2:
            raise LensValueError(f"responses are stimulus x unit, not {values.dims}")
        responses = pd.DataFrame(values.to_numpy(), index=values.indexes[STIMULUS])
    if not isinstance(responses, pd.DataFrame):
        raise LensTypeError(f"responses are a DataFrame or DataArray, not {type(responses)}")
    ids = ids_of(found, repr(key))
    if not ids.is_unique:
        raise LensValueError(f"{key!r} has ids more than once: {shown(ids[ids.duplicated()])}")
    for here, there, what in (
        (responses.index, ids, f"responses to stimuli that {key!r} has no features of"),
        (ids, responses.index, "stimuli without a response"),
    ):
        lacking = here.difference(there).unique()
        if len(lacking):
            raise LensValueError(f"{what}: {shown(lacking)}; select the ids that both have")
    rows = ids.get_indexer(responses.index)
    return pd.DataFrame(found.to_numpy()[rows], index=responses.index), responses


def _one_matrix(dataset: xr.Dataset, key: str, pool: Pool) -> xr.DataArray:
    found = features(dataset, key, pool)
    if found.ndim > 2:
        raise LensValueError(not_features(repr(key), found, [str(d) for d in found.dims[:-2]]))
    return found


def _pooled(dataset: xr.Dataset, layers: Any, pool: Pool) -> Iterable[tuple[str, xr.DataArray]]:
    check_finished(dataset, "handing over")
    arrays = executions(dataset, layers)
    check_axes(arrays, pool)
    return [(name, pooled(array, pool, name, strict=False)) for name, array in arrays.items()]


def _columns(array: xr.DataArray, dim: str) -> dict[str, Any]:
    return {str(k): c.to_numpy() for k, c in array.coords.items() if c.dims == (dim,)}


def _neuroids(array: xr.DataArray, name: str, model: str) -> xr.DataArray:
    """One layer, its `feature` axis as neuroids with Brain-Score's coordinates."""
    space = [d for d in ("y", "x") if d in array.dims]
    channel = next((d for d in ("channel", "feature") if d in array.dims), None)
    found = flat(array, name)
    n = found.sizes["feature"]
    own: dict[str, Any] = {
        "neuroid_id": np.char.add(f"{model}.{name}.", np.arange(n).astype(str)),
        "neuroid_num": np.arange(n),
        "model": np.full(n, model),
        "layer": np.full(n, name),
    }
    places = {k: v.astype(float) for k, v in _columns(found, "feature").items() if _numeric(v)}
    none = np.full(n, np.nan)
    own["channel"] = places.pop("feature_" if channel == "feature" else "channel", None)
    if own["channel"] is None:
        own["channel"] = np.arange(n, dtype=float) if channel else none
    own["channel_x"] = places.pop(space[0], none) if space else none
    own["channel_y"] = places.pop(space[1], none) if len(space) > 1 else none
    found = found.drop_vars([c for c in found.coords if found[c].dims == ("feature",)])
    found = found.rename({"feature": "neuroid"}).drop_attrs().rename(None)
    return found.assign_coords({k: ("neuroid", v) for k, v in {**own, **places}.items()})


def _numeric(values: np.ndarray[Any, Any]) -> bool:
    return values.dtype.kind in "iuf"


def _same_coordinates(parts: list[xr.DataArray], dim: str) -> list[xr.DataArray]:
    """Each with the coordinates any of them has, NaN where it has none."""
    known = dict.fromkeys(c for part in parts for c in part.coords if part[c].dims == (dim,))
    return [
        part.assign_coords(
            {c: (dim, np.full(part.sizes[dim], np.nan)) for c in known if c not in part.coords}
        )
        for part in parts
    ]


def _path(module: str, members: dict[str, list[Any]], paths: dict[str, str]) -> str:
    if module not in paths:
        parent, _, own = module.rpartition(".")
        above = _path(parent, members, paths)
        while own in members.get(parent, ()):
            own += "_"
        paths[module] = f"{above}/{own}"
    return paths[module]

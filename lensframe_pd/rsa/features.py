"""A layer as a matrix, stimulus x feature, with what to do about space and tokens said openly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensKeyError, LensValueError, shown
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.labels import asked_names, labels, one_name
from lensframe_pd.rsa.joined import PASS, plain
from lensframe_pd.rsa.pooling import Pool, pooled
from lensframe_pd.rsa.repeated import Repeated, not_features, repeated_dims
from lensframe_pd.rsa.stores import RowBlocks, opened
from lensframe_pd.rsa.view import Named, as_array, resolved
from lensframe_pd.schema import STIMULUS

_IN_MEMORY = 2**28
"""Bytes of a layer of a file that is read at once; a larger one is left to Dask."""
_WORKED_ON = 32
"""Bytes that an element takes while all are worked on in memory: as it is, and as float64."""


def features(dataset: xr.Dataset, key: Any, pool: Pool = None) -> xr.DataArray:
    """One layer as a matrix: a row per stimulus, a column per feature.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    key
        An op label, a layer or the path of a module, as for `activations.lens[key]`; or its row.
    pool
        What to do with axes other than `stimulus`, before the rest becomes features:

        - None: nothing; each position of each axis is a feature.
        - `"mean"` or `"max"`: over every axis of positions the layer has (z, y, x, token, time).
        - a mapping of axes to what to do: `"mean"`, `"max"`; one position, by its number or
          `"first"` or `"last"`; its name, where `assign_coords` has named the positions; or a
          mask (stimulus x position) for the mean over positions where it is not 0, as padded
          texts need. `"space"` stands for those of z, y, x that are there. So
          `{"space": "mean"}`, `{"token": 0}`, `{"token": mask}`.
        - another text: the token of that name, as `{"token": text}`.

    Returns
    -------
    xarray.DataArray
        `(stimulus, feature)`, float32 or float64; means are accumulated in float64. Before them
        stand axes that no operation made, such as the `checkpoint` of several Datasets joined:
        they are no features. Of a store, Dask's to compute; of a file that is smaller than 256 MB
        it is read. The axes the features come from are coordinates of `feature`. Complex values
        become two features each, told apart by the coordinate `part`.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has this name; near misses are suggested.
    LensTypeError
        `key` is several; `pool` is none of these, or the layer holds no numbers.
    LensValueError
        The layer has no stimulus axis, no such axis to pool, or no such token; or axes of which
        it cannot be known whether they are features, or none that are.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Conv2d(3, 8, 3).eval(), torch.ones(2, 3, 6, 6))
    >>> activations.lens.features("conv2d_1").sizes
    Frozen({'stimulus': 2, 'feature': 128})
    >>> activations.lens.features("conv2d_1", pool={"space": "mean"}).sizes
    Frozen({'stimulus': 2, 'feature': 8})
    """
    check_finished(dataset, "features")
    key = one_name(key, "features")
    dataset = opened(dataset, _IN_MEMORY)
    named, over = _named(dataset, key)
    return flat(pooled(as_array(key, named), pool, key), key, over)


def executions(dataset: xr.Dataset, keys: Any) -> dict[str, xr.DataArray]:
    """Label to array, for every pass of every layer named, of which all axes are features.

    Parameters
    ----------
    dataset, keys
        As for `repeated_executions`.

    Returns
    -------
    dict
        In the order asked for; passes of a layer are separate, so they may differ in shape, but
        for those that continue one another.

    Raises
    ------
    LensKeyError, LensValueError
        As of `repeated_executions`; or a layer is repeated over an axis.
    """
    found = repeated_executions(dataset, keys)
    for name, (array, over) in found.items():
        if over:
            raise LensValueError(not_features(repr(name), array, over))
    return {name: array for name, (array, _) in found.items()}


def repeated_executions(dataset: xr.Dataset, keys: Any) -> dict[str, Repeated]:
    """Label to array, and the axes it is repeated over, for every pass of every layer named.

    Parameters
    ----------
    dataset
        Activations.
    keys
        Labels, layers, module paths; rows of `layers`, for those of them whose value is there; None
        for all variables with a stimulus axis and another that is a feature's.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name.
    LensValueError
        No variable has a stimulus axis; or one has axes that cannot be told from features, or no
        axis of features.
    """
    if keys is None:
        there = [str(k) for k, v in dataset.items() if _has_both(v)]
        if not there:
            raise LensValueError("no variable of this Dataset has axes stimulus and another")
        return {k: (plain(dataset[k]), repeated_dims(dataset[k], repr(k))) for k in there}
    found: dict[str, Repeated] = {}
    wanted = of_rows(dataset, keys) if isinstance(keys, pd.DataFrame) else _asked(keys)
    for key in wanted:
        named, dims = _named(dataset, key)
        for label, array in _runs(key, named).items():
            found[label] = array, tuple(d for d in dims if d in array.dims)
    return found


def _runs(key: str, named: Named) -> dict[str, xr.DataArray]:
    if named.kind == "layer" and not named.continue_one_another:
        runs = [named.runs[number][0] for number in sorted(named.runs)]
        return {str(array.name): plain(array) for array in runs}
    array = as_array(key, named)
    if PASS not in array.dims:
        return {key: array}
    return {f"{key}:{n}": array.sel({PASS: n}, drop=True) for n in array[PASS].values}


def _asked(keys: Any) -> list[str]:
    found = asked_names(keys, "layers=")
    if not found:
        raise LensValueError("layers= is empty; None means all, so did a selection keep none?")
    return found


def of_rows(dataset: xr.Dataset, frame: pd.DataFrame) -> list[str]:
    """The rows of a frame whose value is in the Dataset and has stimuli and features.

    Raises
    ------
    LensKeyError
        None is.
    """
    there = [op for op in labels(frame, "layers=") if op in dataset and _has_both(dataset[op])]
    if not there:
        have = shown(map(str, dataset.data_vars), 4)
        raise LensKeyError(
            "no row of this frame has a value with stimuli and features in the Dataset, which has "
            f"{have}; give both tables of one trace, or names of the Dataset's instead of the frame"
        )
    return there


def _has_both(array: xr.DataArray) -> bool:
    if STIMULUS not in array.dims or array.ndim == 1:
        return False
    return array.ndim > 1 + len(repeated_dims(array, repr(array.name)))


def flat(array: xr.DataArray, name: str, over: tuple[str, ...] = ()) -> xr.DataArray:
    """Stimulus x feature, after the axes it is repeated over; those flattened are coordinates."""
    dims, sizes = _rest(array, name, over), array.sizes
    kept = ((STIMULUS,), (), *((d,) for d in over))
    keep = {str(k): v.variable for k, v in array.coords.items() if v.dims in kept}
    shape = tuple(sizes[d] for d in dims)
    if dims != ("feature",):
        index = np.unravel_index(np.arange(math.prod(shape)), shape) if dims else ()
        for dim, place in zip(dims, index, strict=True):
            values = array[dim].to_numpy()[place] if dim in array.coords else place
            keep["feature_" if dim == "feature" else str(dim)] = xr.Variable("feature", values)
    return xr.DataArray(
        _matrix(array, name, over), keep, (*over, STIMULUS, "feature"), name=name, attrs=array.attrs
    )


def patterns(
    array: xr.DataArray, pool: Pool, name: str, memory: int | None = None, stored: int = 1
) -> Any:
    """Stimulus x feature, of any real type if nothing is pooled: a NumPy array, or `RowBlocks`.

    A mapped file stays mapped, so a caller that takes it by chunks never has all of it in memory.

    Parameters
    ----------
    array, pool, name
        As for `pooled`.
    memory
        Bytes: what is Dask's to compute and takes more, to be worked on, is given as `RowBlocks`.
        None: it is computed, whatever it takes.
    stored
        How many such arrays are read for it, as runs for their mean.
    """
    data = _worked_on(array, pool, name)
    if isinstance(data, np.ndarray):
        return data
    if memory is None or data.size * (_WORKED_ON + 8 * (stored - 1)) <= memory:
        return np.asarray(data)
    return RowBlocks(data, repr(name), memory, stored * _row_bytes(array))


def row_blocks(array: xr.DataArray, pool: Pool, name: str, memory: int) -> RowBlocks:
    """`patterns` as `RowBlocks`, whatever memory they take and wherever they are."""
    data = _worked_on(array, pool, name)
    return RowBlocks(data, repr(name), memory, _row_bytes(array))


def _worked_on(array: xr.DataArray, pool: Pool, name: str) -> Any:
    if array.dtype.kind not in "fiub" or pool is not None:
        array = pooled(array, pool, name, strict=False)
    return _matrix(array, name)


def _row_bytes(array: xr.DataArray) -> int:
    """Of a stimulus as it is stored, before anything is pooled."""
    return array.nbytes // max(1, array.sizes[STIMULUS])


def feature_names(array: xr.DataArray, n: int) -> pd.Index:
    """Names of the features of a layer that has one axis of them, as voxels; else numbers."""
    dims = [str(d) for d in array.dims if d != STIMULUS]
    names = array.indexes.get(dims[0]) if len(dims) == 1 else None
    return pd.RangeIndex(n) if names is None or len(names) != n else names


def _named(dataset: xr.Dataset, key: str) -> tuple[Named, tuple[str, ...]]:
    """What `key` means, and the axes that any of its variables is repeated over."""
    named = resolved(dataset, key)
    over = dict[str, None]()
    for variable in named.variables:
        dims = repeated_dims(variable, repr(variable.name))
        if dims and STIMULUS in variable.dims and variable.ndim == 1 + len(dims):
            raise LensValueError(not_features(repr(variable.name), variable, dims))
        over |= dict.fromkeys(dims)
    return named, tuple(over)


def _matrix(array: xr.DataArray, name: str, over: tuple[str, ...] = ()) -> Any:
    dims = _rest(array, name, over)
    data = array.variable.transpose(*over, STIMULUS, *dims).data
    before = data.shape[: len(over) + 1]
    return data.reshape(*before, math.prod(data.shape[len(before) :]))


def _rest(array: xr.DataArray, name: str, over: tuple[str, ...] = ()) -> tuple[Any, ...]:
    if STIMULUS not in array.dims:
        raise LensValueError(
            f"{name!r} has no stimulus axis: its axes are {', '.join(map(str, array.dims)) or '()'}"
        )
    return tuple(d for d in array.dims if d not in (STIMULUS, *over))

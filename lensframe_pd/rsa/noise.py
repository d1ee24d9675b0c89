"""Dissimilarities about the noise of measurements: Mahalanobis, and crossnobis over runs.

Both are squared and per feature, as in rsatoolbox: `(x - y) P (x - y)' / p`, of the precision P of
the noise. Patterns are multiplied by a root of P first, so that what is left are Euclidean
distances, which are had by blocks and without loss for near-duplicates. Crossnobis multiplies the
difference in one run by that in another, and is the mean over all pairs of R runs. With the
distances `d_r` of the runs and `d` of their mean that is `(R^2 d - sum(d_r)) / (R (R - 1))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError, shown
from lensframe_pd.rsa.blockwise import rdm_of
from lensframe_pd.rsa.distances import Array, Dissimilarities
from lensframe_pd.rsa.stores import RowBlocks

METRICS = ("mahalanobis", "crossnobis")
IDENTITY = "identity"
_ROUNDED = 1e-8
"""Of the largest entry: what a precision may differ from its transpose, or be below 0."""


def check_noise(metric: Any, over: str | None, noise: Any) -> None:
    """Raise unless `over=` and `noise=` are given where they mean something, and only there."""
    if metric not in METRICS:
        for name, given in (("over", over), ("noise", noise)):
            if given is not None:
                raise LensValueError(
                    f"{name}= is for metric='crossnobis'{' or mahalanobis' * (name == 'noise')}, "
                    f"and metric={metric!r} has no use for it"
                )
        return
    if noise is None:
        raise LensValueError(
            f"metric={metric!r} is about the covariance of the noise: give noise=, its inverse "
            "(feature x feature), or noise='identity' for independent noise of one size"
        )
    if metric == "crossnobis" and over is None:
        raise LensValueError(
            "metric='crossnobis' is cross-validated: give over=, the axis of the repeated "
            "measurements, as in over='run'"
        )
    if metric == "mahalanobis" and over is not None:
        raise LensValueError(
            f"metric='mahalanobis' has no use for over={over!r}; average first, "
            f".mean({over!r}), or use metric='crossnobis'"
        )


def root_of(noise: Any, label: str, features: pd.Index) -> Array | None:
    """A root of the precision for a layer: R of `P = R R'`, or its diagonal; None for identity.

    Parameters
    ----------
    noise
        `"identity"`, a precision, its diagonal, or a mapping of labels to such.
    label
        Of the layer.
    features
        Names of its features; numbers from 0 where they have none. A DataFrame, Series or
        DataArray with the same names is joined by them.

    Raises
    ------
    LensKeyError
        A mapping lacks the layer.
    LensTypeError
        It holds no real numbers.
    LensValueError
        It is of another number of features, about others, or no precision: not symmetric, not
        finite, or with negative eigenvalues.
    """
    if isinstance(noise, Mapping):
        if label not in noise:
            raise LensKeyError(f"noise= has {shown(noise)} and nothing for {label!r}")
        noise = noise[label]
    if isinstance(noise, str):
        if noise != IDENTITY:
            raise LensValueError(f"noise={noise!r}; as a text there is 'identity' only")
        return None
    values, p = _numbers(noise, features, label), len(features)
    if values.shape not in ((p,), (p, p)):
        shape = " x ".join(map(str, values.shape)) or "one number"
        raise LensValueError(
            f"noise= is {shape}, and {label!r} has {p} features: it takes a precision, {p} x {p}, "
            "its diagonal, or a mapping of labels to such"
        )
    if not np.isfinite(values).all():
        raise LensValueError(f"noise= for {label!r} holds NaN or infinity")
    return _diagonal_root(values, label) if values.ndim == 1 else _root(values, label)


def mahalanobis(rows: Any, root: Array | None, out: Array | None = None) -> Dissimilarities:
    """Squared Mahalanobis distances of rows, per feature."""
    found = rdm_of(_times(rows, root), "sqeuclidean", out)
    found.values[:] /= max(1, rows.shape[1])
    return found


def crossnobis(
    runs: Sequence[Any], mean: Any, root: Array | None, out: Array | None = None
) -> Dissimilarities:
    """Cross-validated squared Mahalanobis distances of rows, per feature.

    Parameters
    ----------
    runs
        Patterns of each run, two at least, with the same rows.
    mean
        The mean of all of them.

    References
    ----------
    Walther et al. (2016), Reliability of dissimilarity measures for multi-voxel pattern analysis,
    NeuroImage 137:188; as `rsatoolbox.rdm.calc_rdm_crossnobis`, every run against the others.
    """
    n = len(runs)
    found = mahalanobis(mean, root, out)
    found.values[:] *= n / (n - 1)
    constant, broken = found.constant, found.broken
    for rows in runs:
        own = mahalanobis(rows, root)
        own.values[:] /= n * (n - 1)
        found.values[:] -= own.values
        broken = broken | own.broken
    return Dissimilarities(found.values, constant, broken)


def _times(rows: Any, root: Array | None) -> Any:
    if root is None:
        return rows

    def multiplied(part: Any) -> Array:
        part = np.asarray(part, dtype=np.float64)
        return np.asarray(part * root if root.ndim == 1 else part @ root)

    if isinstance(rows, RowBlocks):
        return rows.prepared(multiplied, root.shape[-1])
    return multiplied(rows)


def _numbers(noise: Any, features: pd.Index, label: str) -> Array:
    """The values, joined by the names of the features if both have any."""
    if isinstance(noise, xr.DataArray):
        names = [noise.indexes.get(dim) for dim in noise.dims]
        noise = noise.to_numpy()
    elif isinstance(noise, (pd.DataFrame, pd.Series)):
        names, noise = list(noise.axes), noise.to_numpy()
    else:
        names = []
    try:
        if np.iscomplexobj(noise):
            raise TypeError("complex numbers")
        values = np.asarray(noise, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LensTypeError(f"noise= for {label!r} holds no real numbers: {error}") from None
    for axis, found in enumerate(names):
        if found is None or isinstance(features, pd.RangeIndex) or found.equals(features):
            continue
        if not found.is_unique or len(found) != len(features) or not found.isin(features).all():
            raise LensValueError(
                f"noise= is about {shown(found, 4)}, and the features of {label!r} are "
                f"{shown(features, 4)}"
            )
        values = values.take(found.get_indexer(features), axis)
    return values


def _diagonal_root(values: Array, label: str) -> Array:
    if (values < 0).any():
        raise LensValueError(f"noise= for {label!r} is no precision: it has values below 0")
    return np.sqrt(values)


def _root(values: Array, label: str) -> Array:
    largest = np.abs(values).max(initial=0)
    if not np.allclose(values, values.T, rtol=0, atol=_ROUNDED * largest):
        raise LensValueError(f"noise= for {label!r} is no precision: it is not symmetric")
    values = (values + values.T) / 2
    try:
        return np.asarray(np.linalg.cholesky(values), dtype=np.float64)
    except np.linalg.LinAlgError:  # that of fewer measurements than features has zeros
        of_axes, axes = np.linalg.eigh(values)
    if of_axes[0] < -_ROUNDED * largest:
        raise LensValueError(f"noise= for {label!r} is no precision: it has eigenvalues below 0")
    return np.asarray(axes * np.sqrt(np.maximum(of_axes, 0)))

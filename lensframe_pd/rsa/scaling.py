"""Features of mean 0 and variance 1 over the stimuli of a training set, and kernels of these.

Scaled within the fold: what is tested has no say in the means and variances. So there is a kernel
for each fold, and a layer is read once for the means of all, and once more, by pairs of blocks of
stimuli, for all kernels that have room side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.rsa.blockwise import mirrored, products
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.stores import Block, RowBlocks


class Scale(NamedTuple):
    """What is taken off each feature, and what it is divided by: infinity where it does not vary.

    All is 0 then, as nothing can be learned of such a feature. What is left of one that was
    rounded would be learned.
    """

    mean: Array
    deviation: Array

    def scaled(self, values: Any, columns: slice) -> Array:
        """Some columns scaled, as float64 of their own."""
        found = np.array(values[:, columns], dtype=np.float64)
        found -= self.mean[columns]
        found /= self.deviation[columns]
        return found


class Scales(NamedTuple):
    """Those of several training sets, and which stimuli hold NaN or infinity."""

    of_sets: list[Scale]
    broken: NDArray[np.bool_]


def scales(layer: RowBlocks, weights: Sequence[Array]) -> Scales:
    """The means and deviations over several training sets, as scikit-learn's StandardScaler.

    Parameters
    ----------
    layer
        A matrix, stimulus x feature; it is read once.
    weights
        For each set how often each stimulus is in it: 0, or the number of its trials.

    Returns
    -------
    Scales
        Of what is finite.
    """
    from sklearn.preprocessing import StandardScaler

    scalers = [StandardScaler() for _ in weights]
    broken = np.zeros(layer.shape[0], np.bool_)
    for rows, values in layer.blocks():
        block = np.asarray(values, dtype=np.float64)
        finite = np.isfinite(block).all(axis=1)
        broken[rows] = ~finite
        for scaler, of_all in zip(scalers, weights, strict=True):
            there = finite & (of_all[rows] > 0)
            if there.any():
                scaler.partial_fit(block[there], sample_weight=of_all[rows][there])
    return Scales([_scale(scaler, layer.shape[1]) for scaler in scalers], broken)


def _scale(scaler: Any, width: int) -> Scale:
    if not hasattr(scaler, "mean_"):  # nothing was finite
        return Scale(np.zeros(width), np.full(width, np.inf))
    # scikit-learn puts a scale of 1 where the variance is none but for rounding
    varies = scaler.scale_ == np.sqrt(scaler.var_)
    return Scale(scaler.mean_, np.where(varies, scaler.scale_, np.inf))


def kernels(layer: RowBlocks, of_sets: Sequence[Scale]) -> Array:
    """Products of all stimuli as each of some training sets scales them.

    Returns
    -------
    numpy.ndarray
        (set, stimulus, stimulus), float64, in the order of the layer.
    """
    n = layer.shape[0]
    out = np.empty((len(of_sets), n, n))

    def use(x: Block[Any], y: Block[Any]) -> None:
        for scale, kernel in zip(of_sets, out, strict=True):
            products(x.made, y.made, scale.scaled, layer.memory, kernel[x.rows, y.rows])
            mirrored(kernel, x, y)

    layer.each_pair(layer.spans(), layer.read, use)
    return out

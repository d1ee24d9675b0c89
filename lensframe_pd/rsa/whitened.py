"""Similarity of RDMs after whitening: dissimilarities that share a stimulus share its noise.

Whitened, an RDM is its matrix of second moments about the mean: the dissimilarities, halved and
negative, centred by rows and columns (Diedrichsen et al. 2021, arXiv:2007.02789). A bootstrap
sample has no value for pairs of a stimulus with itself, so that it is centred by least squares over
the pairs there are. Of copies of a stimulus the effect is the same, so n effects are found whatever
is drawn, in closed form: their matrix is a diagonal and a matrix of rank one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.rsa.distances import Array

Times = NDArray[np.int64]
"""How often each sample has each stimulus: sample x stimulus."""
_SINGULAR = 1e-9
"""An effect whose divisor is so small is found with all others at once."""
_ROUNDING = 1e-12


def whitened(first: Array, second: Array, centre: bool) -> Callable[[Times], Array]:
    """What gives the similarity of two RDMs in samples of stimuli; NaN where they do not vary.

    Parameters
    ----------
    first, second
        Dissimilarities of the pairs above the diagonal.
    centre
        Take the mean dissimilarity off first: a correlation, else a cosine.

    References
    ----------
    Diedrichsen et al. (2021); as `rsatoolbox.rdm.compare` with `corr_cov` and `cosine_cov`.
    """
    if centre:  # of all, so that what is left to take off a sample is small
        first, second = first - first.mean(), second - second.mean()
    x, y = _square(first), _square(second)

    def of_samples(times: Times) -> Array:
        once = np.ones_like(x)
        np.fill_diagonal(once, 0)
        moments = [_Moments.of(square, times) for square in (x, y, once)]
        means = [_mean(m, times) if centre else np.zeros(len(times)) for m in moments[:2]]
        xy, xx, yy = (
            _centred_product(moments, a, b, times, means) for a, b in ((0, 1), (0, 0), (1, 1))
        )
        scale = [np.maximum(_raw_product(m, m, times), 1e-300) for m in moments[:2]]
        flat = (xx <= _ROUNDING * scale[0]) | (yy <= _ROUNDING * scale[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            found = xy / np.sqrt(xx) / np.sqrt(yy)
        return np.where(flat, np.nan, np.clip(found, -1, 1))

    return of_samples


def _square(pairs: Array) -> Array:
    """Halved and negative, with 0 on the diagonal."""
    n = math.isqrt(2 * len(pairs)) + 1
    square = np.zeros((n, n))
    square[np.triu_indices(n, 1)] = -pairs / 2
    return np.asarray(square + square.T)


class _Moments(NamedTuple):
    """A square in samples: its values, their sums over a row, and the effects of the stimuli."""

    square: Array
    sums: Array
    effects: Array

    @classmethod
    def of(cls, square: Array, times: Times) -> _Moments:
        # copies of a stimulus have no value with one another: the diagonal is 0
        sums = times @ square
        return cls(square, sums, _effects(sums, times))


def _effects(sums: Array, times: Times) -> Array:
    """What is taken off, half for each stimulus of a pair: the least squares over what is there.

    Of stimulus i, with m copies in samples of n: `(n/2 + 1 - m_i) a_i + sum(m a) / 2 = sums_i`.
    """
    n = times.sum(axis=1, keepdims=True)
    divisor = n / 2 + 1 - times
    easy = np.where(np.abs(divisor) > _SINGULAR, divisor, np.nan)
    with np.errstate(invalid="ignore"):
        total = (times * sums / easy).sum(axis=1) / (1 + (times / easy).sum(axis=1) / 2)
        effects = (sums - total[:, None] / 2) / easy
    for k in np.flatnonzero(~np.isfinite(effects).all(axis=1)):
        # a stimulus makes up half of the sample and one more
        effects[k] = np.linalg.solve(np.diag(divisor[k]) + times[k] / 2, sums[k])
    return np.asarray(effects)


def _mean(moments: _Moments, times: Times) -> Array:
    """The mean over pairs of different stimuli."""
    n = times.sum(axis=1)
    pairs = n**2 - (times**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((times * moments.sums).sum(axis=1) / pairs)


def _raw_product(a: _Moments, b: _Moments, times: Times) -> Array:
    return np.asarray(((times @ (a.square * b.square)) * times).sum(axis=1))


def _product(a: _Moments, b: _Moments, times: Times) -> Array:
    """Sum over all ordered pairs of the products of what is left, the diagonal too.

    Effects are a least-squares fit, so what is left of one has no product with the fit of the
    other: it is the raw product less that of the sums with the effects.
    """
    of_fit = (times * a.sums * b.effects).sum(axis=1)
    return np.asarray(_raw_product(a, b, times) - of_fit)


def _centred_product(
    moments: list[_Moments], a: int, b: int, times: Times, means: list[Array]
) -> Array:
    """The same with the means taken off: both are linear."""
    once = moments[2]
    return (
        _product(moments[a], moments[b], times)
        - means[a] * _product(once, moments[b], times)
        - means[b] * _product(moments[a], once, times)
        + means[a] * means[b] * _product(once, once, times)
    )

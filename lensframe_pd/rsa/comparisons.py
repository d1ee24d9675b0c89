"""How alike two RDMs are: statistics over pairs of stimuli, each pair with a weight.

A bootstrap sample of stimuli takes a pair as often as the product of how often it drew the two. So
a sample is a weight per pair, and nothing is sorted again: ranks of a sample are sums of weights in
the order of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.rsa.distances import Array

Weights = NDArray[np.int64]


class Pairs:
    """Dissimilarities of pairs of stimuli: those above the diagonal, or some of them."""

    def __init__(self, values: Array) -> None:
        self.values = values

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Of each pair the place of its value among the different values; equal ones share it."""
        return np.unique(self.values, return_inverse=True)[1]

    @property
    def alike(self) -> bool:
        """Equal but for rounding, so that their order means nothing."""
        return bool(np.ptp(self.values) <= 1e-12 * np.abs(self.values).max())

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Some of the pairs; they keep their places in the order of all."""
        some = Pairs(self.values[chosen])
        some.__dict__["order"] = self.order[chosen]
        return some

    def ranks(self, weights: Weights) -> Array:
        """The rank of each pair were it there `weights` times; ties share their mean rank."""
        each = np.bincount(self.order, weights)
        return np.asarray((np.cumsum(each) - (each - 1) / 2)[self.order])


def similarity(comparison: str, first: Pairs, second: Pairs, weights: Weights) -> float:
    """The statistic of this name over pairs that are there so many times; NaN if it has none."""
    chosen = weights > 0
    if not chosen.all():
        first, second, weights = first.where(chosen), second.where(chosen), weights[chosen]
    if len(weights) < 2 or first.alike or second.alike:
        return np.nan
    return COMPARISONS[comparison](first, second, weights)


def _pearson(first: Pairs, second: Pairs, weights: Weights) -> float:
    return _correlation(first.values, second.values, weights)


def _spearman(first: Pairs, second: Pairs, weights: Weights) -> float:
    return _correlation(first.ranks(weights), second.ranks(weights), weights)


def _correlation(x: Array, y: Array, weights: Weights) -> float:
    total = weights.sum()
    x = x - weights @ x / total
    y = y - weights @ y / total
    found = (weights * x) @ y / np.sqrt(((weights * x) @ x) * ((weights * y) @ y))
    return float(np.clip(found, -1, 1))


def _cosine(first: Pairs, second: Pairs, weights: Weights) -> float:
    x, y = first.values, second.values
    return float((weights * x) @ y / np.sqrt(((weights * x) @ x) * ((weights * y) @ y)))


def _kendall(first: Pairs, second: Pairs, weights: Weights) -> float:
    from scipy.stats import kendalltau

    x, y = (pairs.order.astype(np.int32).repeat(weights) for pairs in (first, second))
    return float(kendalltau(x, y).statistic)


def _rho_a(first: Pairs, second: Pairs, weights: Weights) -> float:
    """Expected Spearman correlation with ties broken at random."""
    n = int(weights.sum())
    product = (weights * first.ranks(weights)) @ second.ranks(weights)
    return float(12 * product / (float(n) ** 3 - n) - 3 * (n + 1) / (n - 1))


COMPARISONS: dict[str, Callable[[Pairs, Pairs, Weights], float]] = {
    "spearman": _spearman,
    "pearson": _pearson,
    "kendall": _kendall,
    "cosine": _cosine,
    "rho-a": _rho_a,
}

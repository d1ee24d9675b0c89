"""How alike two RDMs are: statistics over pairs of stimuli, each pair with a weight.

A bootstrap sample of stimuli takes a pair as often as the product of how often it drew the two. So
a sample is a weight per pair, and nothing is sorted again: ranks of a sample are sums of weights in
the order of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.rsa.concordance import Concordance, Rankings
from lensframe_pd.rsa.distances import Array

Weights = NDArray[np.int64]
Statistic = Callable[[Weights], Array]
"""Of samples, weights `(sample, pair)`, one number each."""
_ROUNDING = 1e-12
"""Of the largest value: what differs by no more is equal."""
_FEW = 1024
"""Pairs that are looked at first for whether they vary."""


class Pairs:
    """Dissimilarities of pairs of stimuli: those above the diagonal, or some of them."""

    def __init__(self, values: Array) -> None:
        self.values = values

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Of each pair the place of its value among the different values; equal ones share it."""
        return np.unique(self.values, return_inverse=True)[1]

    @cached_property
    def largest(self) -> float:
        """The largest absolute value."""
        return float(np.abs(self.values).max(initial=0))

    def vary(self, weights: Weights) -> bool:
        """Whether those there differ by more than rounding; else their order means nothing."""
        # A thousand samples of all pairs take a while, and few are enough to see that they vary.
        few = self.values[:_FEW][weights[:_FEW] > 0]
        if len(few) and np.ptp(few) > _ROUNDING * self.largest:
            return True
        there = self.values[weights > 0]
        return len(there) > 1 and bool(np.ptp(there) > _ROUNDING * np.abs(there).max())

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
    return float(statistic(comparison, first, second)(weights[None])[0])


def statistic(comparison: str, first: Pairs, second: Pairs) -> Statistic:
    """What gives the statistic of this name of sample after sample; NaN of those without one."""
    of_samples = COMPARISONS[comparison](first, second)

    def compare(weights: Weights) -> Array:
        found = np.full(len(weights), np.nan)
        defined = np.array([first.vary(times) and second.vary(times) for times in weights], bool)
        if defined.any():
            found[defined] = of_samples(weights if defined.all() else weights[defined])
        return found

    return compare


def _one_by_one(
    of_sample: Callable[[Pairs, Pairs, Weights], float],
) -> Callable[[Pairs, Pairs], Statistic]:
    def of_those_there(first: Pairs, second: Pairs, times: Weights) -> float:
        chosen = times > 0
        if chosen.all():
            return of_sample(first, second, times)
        return of_sample(first.where(chosen), second.where(chosen), times[chosen])

    def made(first: Pairs, second: Pairs) -> Statistic:
        return lambda weights: np.array([of_those_there(first, second, w) for w in weights])

    return made


def _pearson(first: Pairs, second: Pairs, weights: Weights) -> float:
    return _correlation(first.values, second.values, weights)


def _spearman(first: Pairs, second: Pairs, weights: Weights) -> float:
    return _correlation(first.ranks(weights), second.ranks(weights), weights)


def _correlation(x: Array, y: Array, weights: Weights) -> float:
    times = weights.astype(np.float64)
    total = times.sum()
    x = x - _dot(times, x) / total
    y = y - _dot(times, y) / total
    return float(np.clip(_angle(x, y, times), -1, 1))


def _angle(x: Array, y: Array, times: Array) -> Any:
    of_x = times * x
    return _dot(of_x, y) / np.sqrt(_dot(of_x, x) * _dot(times * y, y))


def _dot(x: Array, y: Array) -> Any:
    """Without BLAS, whose threads take longer to meet than so short a sum takes."""
    return np.einsum("i,i->", x, y)


def _cosine(first: Pairs, second: Pairs, weights: Weights) -> float:
    return float(_angle(first.values, second.values, weights.astype(np.float64)))


def _rho_a(first: Pairs, second: Pairs, weights: Weights) -> float:
    """Expected Spearman correlation with ties broken at random."""
    n = int(weights.sum())
    product = _dot(weights * first.ranks(weights), second.ranks(weights))
    return float(12 * product / (float(n) ** 3 - n) - 3 * (n + 1) / (n - 1))


def _kendall(of_counts: Callable[[Concordance], Array]) -> Callable[[Pairs, Pairs], Statistic]:
    def made(first: Pairs, second: Pairs) -> Statistic:
        rankings = Rankings(first.order, second.order)
        return lambda weights: of_counts(rankings.concordance(weights))

    return made


def _tau_b(counts: Concordance) -> Array:
    first, second = counts.untied
    return np.clip(counts.net / np.sqrt(first) / np.sqrt(second), -1, 1)


def _tau_a(counts: Concordance) -> Array:
    return np.asarray(counts.net / counts.all)


COMPARISONS: dict[str, Callable[[Pairs, Pairs], Statistic]] = {
    "spearman": _one_by_one(_spearman),
    "pearson": _one_by_one(_pearson),
    "kendall": _kendall(_tau_b),
    "tau-a": _kendall(_tau_a),
    "cosine": _one_by_one(_cosine),
    "rho-a": _one_by_one(_rho_a),
}
WHITENED = {"whitened-cosine": False, "whitened-pearson": True}
"""Comparisons of whole RDMs in the module `whitened`, and whether the mean is taken off."""
RSATOOLBOX = {
    "spearman": "spearman", "pearson": "corr", "kendall": "kendall", "tau-a": "tau-a",
    "cosine": "cosine", "rho-a": "rho-a", "whitened-cosine": "cosine_cov",
    "whitened-pearson": "corr_cov",
}  # fmt: skip
"""What rsatoolbox calls each."""
ALIASES = {theirs: ours for ours, theirs in RSATOOLBOX.items() if theirs != ours} | {
    "tau-b": "kendall",
    "whitened": "whitened-cosine",
}
"""Other names, rsatoolbox's among them."""

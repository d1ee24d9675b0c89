"""Weighted counts equal those of the items written out so many times, pair by pair."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from lensframe_pd.rsa import concordance
from lensframe_pd.rsa.concordance import Rankings

RNG = np.random.default_rng(5)
RANKINGS = {
    "all different": lambda n: RNG.permutation(n),
    "many ties": lambda n: RNG.integers(0, 4, n),
    "few ties": lambda n: RNG.integers(0, 3 * n, n),
    "one value": lambda n: np.zeros(n, int),
    "in order": lambda n: np.arange(n),
    "backwards": lambda n: np.arange(n)[::-1],
    "one apart": lambda n: (np.arange(n) == n // 2).astype(int),
}


def places(values):
    return np.unique(values, return_inverse=True)[1]


def by_hand(x, y):
    i, j = np.triu_indices(len(x), 1)
    first, second = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    return (first * second).sum(), len(i), (first != 0).sum(), (second != 0).sum()


@pytest.mark.parametrize("first", [*RANKINGS])
@pytest.mark.parametrize("second", [*RANKINGS])
def test_counts_are_of_items_written_out(first, second):
    for n in (1, 2, 3, 7, 63, 64, 65, 128, 129, 200, 300):
        x, y = (places(RANKINGS[name](n)) for name in (first, second))
        weights = RNG.integers(0, 4, (3, n))
        weights[0] = 1
        weights[2, RNG.random(n) < 0.7] = 0
        found = Rankings(x, y).concordance(weights)
        expected = [by_hand(x.repeat(times), y.repeat(times)) for times in weights]
        assert [*zip(found.net, found.all, *found.untied, strict=True)] == expected


@pytest.mark.parametrize("kept", [2**25, 0])
def test_many_items_and_samples_after_samples(kept, monkeypatch):
    """Whether or not what only depends on the order is kept for the next samples."""
    monkeypatch.setattr(concordance, "_KEPT", kept)
    monkeypatch.setattr(concordance, "_PRODUCTS", 2**14)  # boxes in many parts
    x, y = RNG.permutation(9000), places(RNG.integers(0, 8000, 9000))
    rankings = Rankings(x, y)
    for samples in (1, 3):
        weights = RNG.integers(0, 3, (samples, 9000)) * RNG.integers(0, 3, (samples, 9000))
        found = rankings.concordance(weights)
        tau = found.net / np.sqrt(found.untied[0]) / np.sqrt(found.untied[1])
        expected = [kendalltau(x.repeat(w), y.repeat(w)).statistic for w in weights]
        assert tau == pytest.approx(expected, abs=1e-12)


def test_weights_are_not_changed():
    weights = RNG.integers(0, 3, (2, 500))
    before = weights.copy()
    Rankings(RNG.permutation(500), RNG.permutation(500)).concordance(weights)
    assert (weights == before).all()

"""Pairs with weights give what scipy gives of the pairs written out so many times."""

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, rankdata, spearmanr

from lensframe_pd.rsa.comparisons import Pairs, similarity

RNG = np.random.default_rng(11)


def rho_a(x, y):
    """Mean Spearman correlation when ties are broken at random (Schuett et al. 2023, eq. 15)."""
    n = len(x)
    return 12 * (rankdata(x) @ rankdata(y)) / (n**3 - n) - 3 * (n + 1) / (n - 1)


def tau_a(x, y):
    """Concordant less discordant pairs, of all pairs, ties too (Kendall 1938)."""
    i, j = np.triu_indices(len(x), 1)
    return np.mean(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]))


SLOW = {
    "spearman": lambda x, y: spearmanr(x, y).statistic,
    "pearson": lambda x, y: pearsonr(x, y).statistic,
    "kendall": lambda x, y: kendalltau(x, y).statistic,
    "tau-a": tau_a,
    "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
    "rho-a": rho_a,
}
VALUES = {
    "all different": lambda n: RNG.random(n),
    "many ties": lambda n: RNG.integers(0, 4, n).astype(float),
    "two values": lambda n: RNG.permutation(np.repeat([0.0, 1.0], [n - n // 3, n // 3])),
    "negative, large": lambda n: RNG.normal(size=n) * 1e6 - 3e6,
}


@pytest.mark.parametrize("comparison", [*SLOW])
@pytest.mark.parametrize("first", [*VALUES])
@pytest.mark.parametrize("second", [*VALUES])
def test_weights_are_repetitions(comparison, first, second):
    n = 66
    x, y = VALUES[first](n), VALUES[second](n)
    for most in (1, 2, 5):
        times = RNG.integers(0, most + 1, n) if most > 1 else np.ones(n, int)
        found = similarity(comparison, Pairs(x), Pairs(y), times)
        expected = SLOW[comparison](x.repeat(times), y.repeat(times))
        assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("comparison", [*SLOW])
def test_what_does_not_vary_has_no_score(comparison):
    x, same = np.arange(6.0), np.full(6, 0.3)
    once = np.ones(6, int)
    assert np.isnan(similarity(comparison, Pairs(x), Pairs(same), once))
    assert np.isnan(similarity(comparison, Pairs(x), Pairs(x), np.array([1, 0, 0, 0, 0, 0])))
    assert np.isnan(similarity(comparison, Pairs(x), Pairs(x), np.zeros(6, int)))
    only_alike = np.array([0.0, 1, 1, 1, 2, 3])
    some = np.array([0, 2, 1, 1, 0, 0])
    assert np.isnan(similarity(comparison, Pairs(only_alike), Pairs(x), some))


@pytest.mark.parametrize("comparison", [*SLOW])
def test_whether_they_vary_is_known_by_any_of_them(comparison):
    """Also where the first thousand pairs, or all but one, are equal or left out."""
    x, y = np.full(3000, 0.5), RNG.random(3000)
    once = np.ones(3000, int)
    assert np.isnan(similarity(comparison, Pairs(x), Pairs(y), once))
    x[-1] = 0.75
    assert similarity(comparison, Pairs(x), Pairs(y), once) == pytest.approx(SLOW[comparison](x, y))
    once[-1] = 0
    assert np.isnan(similarity(comparison, Pairs(x), Pairs(y), once))
    small = np.concatenate([RNG.random(2999) * 1e-16, [1e3]])
    found = similarity(comparison, Pairs(small), Pairs(y), once)
    assert found == pytest.approx(SLOW[comparison](small[:-1], y[:-1]))

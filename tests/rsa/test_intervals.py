"""Intervals hold their score, the truth as often as they say, and equal the slow way."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import kendalltau, pearsonr, spearmanr

from lensframe_pd.rsa import intervals
from lensframe_pd.rsa.comparisons import Pairs
from lensframe_pd.rsa.distances import inner_products
from lensframe_pd.rsa.intervals import cka_score, rdm_score

RNG = np.random.default_rng(2)


def kernels(first, second):
    return inner_products(first), inner_products(second)


def related(n, mixed=0.0, features=8, noise=1.0):
    """Two sets of features that share a part of what varies."""
    common, of_first, of_second = RNG.normal(size=(3, n, 4))
    ways = RNG.normal(size=(2, 4, features))
    first = (mixed * common + (1 - mixed) * of_first) @ ways[0]
    second = (mixed * common + (1 - mixed) * of_second) @ ways[1]
    return (values + noise * RNG.normal(size=values.shape) for values in (first, second))


# ------------------------------------------------------------------ CKA


@pytest.mark.parametrize("comparison", ["cka", "cka-debiased"])
@pytest.mark.parametrize("mixed", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [8, 9, 40])
@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.95])
def test_an_interval_holds_its_score(comparison, mixed, n, confidence):
    for seed in range(5):
        found = cka_score(comparison, *kernels(*related(n, mixed)), 40, confidence, seed)
        assert found.low <= found.score <= found.high <= 1
        assert found.failed == 0


def test_unrelated_features_are_unrelated():
    """Their debiased CKA is 0, and 19 of 20 intervals at least hold that."""
    held = narrow = 0
    for seed in range(100):
        found = cka_score("cka-debiased", *kernels(*related(40, 0.0)), 100, 0.95, seed)
        held += found.low <= 0 <= found.high
        narrow += found.high - found.low < 0.6
    assert held >= 93  # of 100 at 0.95: fewer by chance in one run of 200
    assert narrow == 100


def test_the_truth_is_held_as_often_as_said():
    """Against the CKA of 40,000 stimuli of the same making, by simulation."""
    ways = RNG.normal(size=(2, 5, 12))

    def draw(n):
        common = RNG.normal(size=(n, 5))
        return [common @ way + 2 * RNG.normal(size=(n, 12)) for way in ways]

    first, second = (x - x.mean(0) for x in draw(40_000))
    products = [
        np.linalg.norm(a.T @ b) for a, b in ((first, second), (first, first), (second, second))
    ]
    truth = products[0] ** 2 / (products[1] * products[2])
    for n, confidence in ((40, 0.95), (100, 0.95), (100, 0.8)):
        found = [
            cka_score("cka-debiased", *kernels(*draw(n)), 100, confidence, seed)
            for seed in range(150)
        ]
        held = np.mean([f.low <= truth <= f.high for f in found])
        error = np.sqrt(confidence * (1 - confidence) / 150)
        assert held > confidence - 3 * error
        # no wider than it need be: at most twice the spread of the scores themselves
        spread = np.diff(np.percentile([f.score for f in found], [2.5, 97.5]))[0]
        assert np.mean([f.high - f.low for f in found]) < 2 * spread


def test_of_equal_features():
    first, _ = related(20, 1.0)
    found = cka_score("cka", *kernels(first, 3 * first), 50)
    assert (found.score, found.low, found.high) == pytest.approx((1, 1, 1))


def test_too_few_stimuli_for_half_samples():
    assert np.isnan(cka_score("cka-debiased", *kernels(*related(4)), 50).low)
    assert not np.isnan(cka_score("cka-debiased", *kernels(*related(5)), 50).low)


# ------------------------------------------------------------------ RDMs

SLOW = {
    "spearman": lambda x, y: spearmanr(x, y).statistic,
    "pearson": lambda x, y: pearsonr(x, y).statistic,
    "kendall": lambda x, y: kendalltau(x, y).statistic,
    "tau-a": lambda x, y: (
        np.sign(x[:, None] - x).ravel() @ np.sign(y[:, None] - y).ravel() / (len(x) * (len(x) - 1))
    ),
    "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
}


@pytest.mark.parametrize("comparison", [*SLOW])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_slow_way(comparison, ties):
    """Stimuli drawn, pairs of different ones written out one by one."""
    n, samples = 14, 60
    i, j = np.triu_indices(n, 1)
    first, second = (pdist(x) for x in related(n, 0.6))
    if ties:
        first, second = first.round(), second.round()
    squares = np.zeros((2, n, n))
    squares[0][i, j], squares[1][i, j] = first, second
    squares += squares.transpose(0, 2, 1)
    drawn = []
    for chosen in np.random.default_rng(7).integers(0, n, size=(samples, n)):
        pairs = [(a, b) for k, a in enumerate(chosen) for b in chosen[k + 1 :] if a != b]
        x, y = (np.array([square[p] for p in pairs]) for square in squares)
        drawn.append(SLOW[comparison](x, y))
    found = rdm_score(comparison, Pairs(first), Pairs(second), samples, 0.9, 7)
    assert found.score == pytest.approx(SLOW[comparison](first, second))
    assert [found.low, found.high] == pytest.approx([*np.percentile(drawn, [5, 95])])


def test_samples_without_a_score_are_counted():
    """Of three stimuli a sample often has one pair or none."""
    values = np.array([1.0, 2.0, 3.0])
    found = rdm_score("spearman", Pairs(values), Pairs(values), 200)
    drawn = np.random.default_rng(0).integers(0, 3, size=(200, 3))
    assert found.failed == sum(len({*chosen}) < 3 for chosen in drawn)
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_a_missing_pair_is_not_left_out():
    values = np.arange(6.0)
    lacking = np.where(values == 2, np.nan, values)
    assert np.isnan(rdm_score("pearson", Pairs(values), Pairs(lacking), 10).score)


@pytest.mark.parametrize("comparison", ["spearman", "kendall", "tau-a", "rho-a"])
def test_dissimilarities_are_sorted_once(comparison, monkeypatch):
    """Else a thousand samples of 300 stimuli take a minute."""
    lengths = []
    unique = np.unique
    monkeypatch.setattr(np, "unique", lambda x, **k: lengths.append(len(x)) or unique(x, **k))

    def sorts_again(*_):
        raise AssertionError("scipy sorts what it is given")

    monkeypatch.setattr("scipy.stats.kendalltau", sorts_again)
    first, second = (Pairs(pdist(x)) for x in related(30, 0.5))
    for _ in range(2):  # with one reference and the next
        rdm_score(comparison, first, second, 20)
    assert lengths.count(30 * 29 // 2) == 2  # numpy's percentiles take some of a few numbers too


@pytest.mark.parametrize("comparison", [*SLOW])
@pytest.mark.parametrize("samples", [1, 2, 17, 33])
def test_samples_are_the_same_few_or_many_at_a_time(comparison, samples, monkeypatch):
    first, second = (Pairs(pdist(x)) for x in related(12, 0.6))
    found = [rdm_score(comparison, first, second, samples)]
    for fewest in (1, 5, 100):
        monkeypatch.setattr(intervals, "_SAMPLES", (fewest, fewest))
        found.append(rdm_score(comparison, first, second, samples))
    assert len({*found}) == 1

"""Whitened similarities are rsatoolbox's, of all stimuli and of bootstrap samples."""

import numpy as np
import pytest
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist

from lensframe_pd.rsa.comparisons import RSATOOLBOX, WHITENED, Pairs
from lensframe_pd.rsa.intervals import rdm_sampled, rdm_score
from lensframe_pd.rsa.whitened import whitened

RNG = np.random.default_rng(12)


def two(n):
    return pdist(RNG.normal(size=(n, 5))), pdist(RNG.normal(size=(n, 3))) ** 2


@pytest.mark.parametrize("comparison", [*WHITENED])
@pytest.mark.parametrize("n", [3, 4, 5, 20, 120])
def test_of_all_stimuli(comparison, n):
    x, y = two(n)
    expected = compare(RDMs(x[None]), RDMs(y[None]), RSATOOLBOX[comparison])[0, 0]
    assert rdm_score(comparison, Pairs(x), Pairs(y)).score == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("comparison", [*WHITENED])
@pytest.mark.parametrize("n", [4, 5, 8, 30])
def test_of_samples(comparison, n):
    """Pairs of a stimulus with itself have no value, and no weight in the whitening."""
    x, y = two(n)
    drawn = [chosen for chosen in RNG.integers(0, n, size=(40, n)) if len({*chosen}) > 3]
    found = rdm_sampled(comparison, Pairs(x), Pairs(y), np.array(drawn)).drawn
    for own, chosen in zip(found, drawn, strict=True):
        both = [RDMs(v[None]).subsample_pattern("index", np.sort(chosen)) for v in (x, y)]
        assert own == pytest.approx(compare(*both, RSATOOLBOX[comparison])[0, 0], abs=1e-9)


@pytest.mark.parametrize("n", [4, 6])
@pytest.mark.parametrize("copies", [0, 1])
def test_a_stimulus_that_is_half_of_a_sample(n, copies):
    """Where the closed form divides by 0."""
    x, y = two(n)
    chosen = np.array([0] * (n // 2 + copies) + [*range(1, n // 2 + 1 - copies)])
    both = [RDMs(v[None]).subsample_pattern("index", chosen) for v in (x, y)]
    times = np.bincount(chosen, minlength=n)[None]
    expected = compare(*both, "cosine_cov")[0, 0]
    assert whitened(x, y, centre=False)(times)[0] == pytest.approx(expected, abs=1e-10)


def test_a_large_constant_changes_no_correlation():
    x, y = two(30)
    found = [rdm_score("whitened-pearson", Pairs(x + c), Pairs(y), 20) for c in (0, 1e7)]
    assert found[1] == pytest.approx(found[0], abs=1e-6)


@pytest.mark.parametrize("comparison", [*WHITENED])
def test_what_does_not_vary_has_none(comparison):
    x, _ = two(6)
    assert np.isnan(rdm_score(comparison, Pairs(x), Pairs(np.ones(15)), 5)).sum() == 3
    assert np.isnan(rdm_score(comparison, Pairs(np.zeros(15)), Pairs(x), 5)).sum() == 3
    one = whitened(x, x, centre=True)(np.array([[6, 0, 0, 0, 0, 0], [3, 3, 0, 0, 0, 0]]))
    assert np.isnan(one).all()

"""How far a score would move with other stimuli: bootstrap of RDM scores, half samples of CKA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.rsa.cka import alignment, centred, debias
from lensframe_pd.rsa.comparisons import Pairs, statistic
from lensframe_pd.rsa.distances import Array

FEWEST = {"cka": 2, "cka-debiased": 4}
"""Stimuli that CKA needs to be defined."""
_TOGETHER = 2**22
"""Weights of pairs that are made at a time, 32 MB: those of some samples."""
_SAMPLES = (8, 16)
"""How many samples that is: at least, as a batch has work of its own; at most, as caches fill."""


class Scored(NamedTuple):
    """A score, its interval (NaN without one), and how many samples had no score."""

    score: float
    low: float = np.nan
    high: float = np.nan
    failed: int = 0


def rdm_score(
    comparison: str,
    first: Pairs,
    second: Pairs,
    samples: int = 0,
    confidence: float = 0.95,
    seed: int | None = 0,
) -> Scored:
    """The score of two RDMs, and a percentile interval over bootstrap samples of stimuli.

    Pairs of a stimulus with itself, which resampling makes, are left out.

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol 10:e1003553, "Statistical inference"; as
    `rsatoolbox.inference.eval_bootstrap_pattern`.
    """
    n = round((1 + np.sqrt(1 + 8 * len(first.values))) / 2)
    if np.isnan(first.values).any() or np.isnan(second.values).any():
        return Scored(np.nan)
    once = np.ones(len(first.values), dtype=np.int64)
    compare = statistic(comparison, first, second)
    score = float(compare(once[None])[0])
    if not samples or np.isnan(score):
        return Scored(score)
    drawn = np.random.default_rng(seed).integers(0, n, size=(samples, n))
    together = int(np.clip(_TOGETHER // len(once), *_SAMPLES))
    found = [compare(times) for times in _times_of_pairs(drawn, together)]
    low, high, failed = _percentiles(np.concatenate(found), confidence)
    return Scored(score, low, high, failed)


def _times_of_pairs(drawn: NDArray[np.int64], together: int) -> Iterator[NDArray[np.int64]]:
    """How often samples have each pair, some samples at a time; each is gone with the next.

    That is the product of how often the sample drew the two.
    """
    n = drawn.shape[1]
    i, j = np.triu_indices(n, 1)
    times = np.empty((together, len(i)), dtype=np.int64)
    for k in range(0, len(drawn), together):
        some = drawn[k : k + together]
        for own, chosen in zip(times, some, strict=False):
            of_stimuli = np.bincount(chosen, minlength=n)
            np.multiply(of_stimuli[i], of_stimuli[j], out=own)
        yield times[: len(some)]


def cka_score(
    comparison: str,
    first: Array,
    second: Array,
    samples: int = 0,
    confidence: float = 0.95,
    seed: int | None = 0,
) -> Scored:
    """CKA of two kernels, and an interval from half samples of the stimuli, drawn without repeats.

    A stimulus that comes twice is as like itself as nothing else, in both kernels: a bootstrap
    finds structure in noise. Samples of b of n stimuli without repeats differ from their median as
    the score differs from its expectation, times sqrt(b / (n - b)): the jackknife histogram. The
    interval is about the choice of stimuli; the bias that plain CKA has with few of them stays.

    References
    ----------
    Wu (1990), On the asymptotic properties of the jackknife histogram, Annals of Statistics
    18:1438; Shao & Wu (1989), A general theory for jackknife variance estimation, ibid. 17:1176.
    """
    n, fewest = len(first), FEWEST[comparison]
    score = _alignment(comparison, first, second, np.arange(n))
    b = max(n // 2, fewest)
    if not samples or np.isnan(score) or b >= n:
        return Scored(score, failed=samples if not np.isnan(score) else 0)
    rng = np.random.default_rng(seed)
    drawn = np.empty(samples)
    for k in range(samples):
        drawn[k] = _alignment(comparison, first, second, rng.permutation(n)[:b])
    spread = np.sqrt(b / (n - b)) * (drawn - np.nanmedian(drawn))
    low, high, failed = _percentiles(spread, confidence)
    lowest = -1.0 if comparison == "cka-debiased" else 0.0
    return Scored(score, max(score + low, lowest), min(score + high, 1.0), failed)


def _alignment(comparison: str, first: Array, second: Array, chosen: NDArray[np.int64]) -> float:
    centre = debias if comparison == "cka-debiased" else centred
    sub = np.ix_(chosen, chosen)
    with np.errstate(invalid="ignore", divide="ignore"):
        return alignment(centre(first[sub]), centre(second[sub]))


def _percentiles(drawn: Array, confidence: float) -> tuple[float, float, int]:
    """The middle part of what was drawn, and how many samples had no score."""
    there = drawn[~np.isnan(drawn)]
    if not len(there):
        return np.nan, np.nan, len(drawn)
    outside = 50 * (1 - confidence)
    low, high = np.percentile(there, [outside, 100 - outside])
    return float(low), float(high), len(drawn) - len(there)

"""How far a score would move with other stimuli, or with other subjects too.

Of RDM scores a bootstrap over stimuli, of CKA half samples; of the mean over subjects the dual
bootstrap. Samples are drawn once, so that layers are compared with one another in the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.bars import counted
from lensframe_pd.rsa.cka import alignment, centred, debias
from lensframe_pd.rsa.comparisons import WHITENED, Pairs, statistic
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.whitened import Times, whitened

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


class Sampled(NamedTuple):
    """A score, and what it was in samples of the stimuli; NaN in those without one."""

    score: float
    drawn: Array
    halves: float = np.nan
    """Of samples without repeats the factor to their spread; NaN of a bootstrap."""
    lowest: float = -1.0
    wanted: int = 0
    """Samples that were asked for."""
    highest: float = 1.0

    def around(self) -> Array:
        """Scores as they would be with other stimuli."""
        if np.isnan(self.halves) or np.isnan(self.drawn).all():
            return self.drawn
        spread = self.halves * (self.drawn - np.nanmedian(self.drawn))
        return np.asarray(self.score + spread)

    def interval(self, confidence: float) -> Scored:
        """The middle part of them."""
        if not len(self.drawn) or np.isnan(self.score):
            return Scored(self.score, failed=0 if np.isnan(self.score) else self.wanted)
        low, high, failed = _percentiles(self.around(), confidence)
        if not np.isnan(self.halves):
            low, high = max(low, self.lowest), min(high, self.highest)
        return Scored(self.score, low, high, failed)


def mean_of(some: Sequence[Sampled]) -> Sampled:
    """The mean of the scores, in the samples too."""
    drawn = np.mean([one.drawn for one in some], axis=0)
    return some[0]._replace(score=float(np.mean([one.score for one in some])), drawn=drawn)


def difference_of(first: Sampled, second: Sampled) -> Sampled:
    """How much higher the first is, in each sample too."""
    return first._replace(
        score=first.score - second.score, drawn=first.drawn - second.drawn, lowest=-2.0, highest=2.0
    )


def drawn_stimuli(n: int, samples: int, seed: int | None) -> NDArray[np.int64]:
    """Samples of all stimuli with repeats, as rows of their numbers."""
    return np.random.default_rng(seed).integers(0, n, size=(samples, n))


def drawn_halves(n: int, b: int, samples: int, seed: int | None) -> NDArray[np.int64]:
    """Samples of b stimuli without repeats, as rows of their numbers."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n)[:b] for _ in range(samples)]).reshape(samples, b)


def half_of(comparison: str, n: int) -> int:
    """How many of n stimuli a sample for CKA has: half, or as many as it needs."""
    return max(n // 2, FEWEST[comparison])


def rdm_score(
    comparison: str,
    first: Pairs,
    second: Pairs,
    samples: int = 0,
    confidence: float = 0.95,
    seed: int | None = 0,
) -> Scored:
    """The score of two RDMs, and a percentile interval over bootstrap samples of stimuli."""
    drawn = drawn_stimuli(_stimuli_of(first), samples, seed)
    return rdm_sampled(comparison, first, second, drawn).interval(confidence)


def rdm_sampled(comparison: str, first: Pairs, second: Pairs, drawn: NDArray[np.int64]) -> Sampled:
    """The score of two RDMs, and that in each sample of stimuli.

    Pairs of a stimulus with itself, which resampling makes, are left out.

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol 10:e1003553, "Statistical inference"; as
    `rsatoolbox.inference.eval_bootstrap_pattern`.
    """
    none = Sampled(np.nan, np.full(len(drawn), np.nan), wanted=len(drawn))
    if np.isnan(first.values).any() or np.isnan(second.values).any():
        return none
    if comparison in WHITENED:
        return _whitened_sampled(comparison, first, second, drawn) or none
    once = np.ones(len(first.values), dtype=np.int64)
    compare = statistic(comparison, first, second)
    score = float(compare(once[None])[0])
    if not len(drawn) or np.isnan(score):
        return none._replace(score=score)
    together = int(np.clip(_TOGETHER // len(once), *_SAMPLES))
    found = [compare(times) for times in _times_of_pairs(drawn, together)]
    return Sampled(score, np.concatenate(found), wanted=len(drawn))


def _whitened_sampled(
    comparison: str, first: Pairs, second: Pairs, drawn: NDArray[np.int64]
) -> Sampled | None:
    once = np.ones((1, _stimuli_of(first)), dtype=np.int64)
    all_pairs = np.ones(len(first.values), dtype=np.int64)
    if not first.vary(all_pairs) or not second.vary(all_pairs):
        return None
    compare = whitened(first.values, second.values, centre=WHITENED[comparison])
    score = float(compare(once)[0])
    found = compare(times_of(drawn, once.shape[1])) if len(drawn) else np.empty(0)
    return Sampled(score, found, wanted=len(drawn))


def times_of(drawn: NDArray[np.int64], n: int) -> Times:
    """How often each sample has each of n."""
    times = np.zeros((len(drawn), n), dtype=np.int64)
    np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1)
    return times


def _stimuli_of(pairs: Pairs) -> int:
    return math.isqrt(2 * len(pairs.values)) + 1


def _times_of_pairs(drawn: NDArray[np.int64], together: int) -> Iterator[NDArray[np.int64]]:
    """How often samples have each pair, some samples at a time; each is gone with the next.

    That is the product of how often the sample drew the two.
    """
    n = drawn.shape[1]
    i, j = np.triu_indices(n, 1)
    times = np.empty((together, len(i)), dtype=np.int64)
    for k in counted(range(0, len(drawn), together), "bootstrap", f"times {together} samples"):
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
    """CKA of two kernels, and an interval from half samples of the stimuli."""
    n = len(first)
    b = half_of(comparison, n)
    drawn = drawn_halves(n, b, samples if b < n else 0, seed)
    return cka_sampled(comparison, first, second, drawn, samples).interval(confidence)


def cka_sampled(
    comparison: str, first: Array, second: Array, drawn: NDArray[np.int64], wanted: int
) -> Sampled:
    """CKA of two kernels, and that in each half sample of the stimuli, drawn without repeats.

    A stimulus that comes twice is as like itself as nothing else, in both kernels: a bootstrap
    finds structure in noise. Samples of b of n stimuli without repeats differ from their median as
    the score differs from its expectation, times sqrt(b / (n - b)): the jackknife histogram. The
    interval is about the choice of stimuli; the bias that plain CKA has with few of them stays.

    References
    ----------
    Wu (1990), On the asymptotic properties of the jackknife histogram, Annals of Statistics
    18:1438; Shao & Wu (1989), A general theory for jackknife variance estimation, ibid. 17:1176.
    """
    n = len(first)
    score = _alignment(comparison, first, second, np.arange(n))
    lowest = -1.0 if comparison == "cka-debiased" else 0.0
    if not len(drawn) or np.isnan(score):
        return Sampled(score, np.full(len(drawn), np.nan), 1.0, lowest, wanted)
    b = drawn.shape[1]
    done = counted(drawn, "half samples", "samples")
    found = np.array([_alignment(comparison, first, second, chosen) for chosen in done])
    return Sampled(score, found, float(np.sqrt(b / (n - b))), lowest, wanted)


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

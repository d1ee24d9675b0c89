"""What a layer could reach at best: noise ceilings over subjects, and their dual bootstrap.

The numbers are rsatoolbox's. What it stumbles over is told before: one subject, for which it gives
1 and 1, and dissimilarities that are missing. It is given values only, in one order, as it would
sort ids as text.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensframe_pd.errors import needs
from lensframe_pd.rsa.comparisons import RSATOOLBOX, Pairs
from lensframe_pd.rsa.intervals import Sampled, Scored, mean_of, times_of

OF_RANKS = frozenset(("kendall", "tau-a"))
"""Comparisons of which rsatoolbox has a ceiling for the mean of ranks, which is not the best."""


class Ceiling(NamedTuple):
    """The noise ceiling of a score; NaN where there is none."""

    low: float = np.nan
    """Each subject with the mean of the others."""
    high: float = np.nan
    """Each subject with the mean of all."""


def noise_ceiling(comparison: str, measured: Sequence[Pairs]) -> Ceiling:
    """Between which bounds the mean score of the true RDM is expected.

    Parameters
    ----------
    comparison
        Of RDMs.
    measured
        The RDMs of the subjects.

    Raises
    ------
    LensRuntimeError
        rsatoolbox is not installed.

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol 10:e1003553; `rsatoolbox.inference.boot_noise_ceiling`.
    """
    values = np.array([pairs.values for pairs in measured])
    once = np.ones(values.shape[1:], dtype=np.int64)
    if len(values) < 2 or np.isnan(values).any() or not all(p.vary(once) for p in measured):
        return Ceiling()
    needs("rsatoolbox", "noise ceilings")
    from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
    from rsatoolbox.rdm.rdms import RDMs

    make: Any = RDMs  # untyped
    ceiling: Any = boot_noise_ceiling
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # that ranks are averaged is said once, of all references
        warnings.filterwarnings("ignore", message="Noise ceiling for tau")
        low, high = ceiling(make(values), RSATOOLBOX[comparison])
    return Ceiling(float(low), float(high))


def over_both(
    each: Sequence[Sampled], drawn: NDArray[np.int64], n_stimuli: int, confidence: float
) -> Scored:
    """The mean over subjects, and its interval for other stimuli and other subjects.

    Parameters
    ----------
    each
        Of each subject the score, and that in samples of the stimuli.
    drawn
        Samples of subjects, as rows of their numbers.
    n_stimuli
        How many there are.

    Returns
    -------
    Scored
        The interval is that of Student's t with the variance of the dual bootstrap: from samples
        of stimuli, of subjects, and of both, corrected for what all three have in common. Half
        samples of CKA give no third: there the variances of the first two are added.

    References
    ----------
    Schuett et al. (2023), eLife 12:e82566; as `rsatoolbox.inference.eval_dual_bootstrap`, about
    the mean of all where that gives the mean of the samples.
    """
    mean = mean_of(each)
    if len(each) < 2 or not len(mean.drawn) or np.isnan(mean.score):
        return Scored(mean.score)
    sem, dof, failed = _error(each, drawn, n_stimuli)
    if np.isnan(sem):
        return Scored(mean.score, failed=failed)
    half = sem * _student().ppf((1 + confidence) / 2, dof)
    low, high = max(mean.score - half, mean.lowest), min(mean.score + half, mean.highest)
    return Scored(mean.score, low, high, failed)


def p_over_both(each: Sequence[Sampled], drawn: NDArray[np.int64], n_stimuli: int) -> float:
    """The two-sided p of a mean over subjects that is 0, by Student's t with that variance."""
    mean = mean_of(each)
    if len(each) < 2 or np.isnan(mean.score):
        return np.nan
    sem, dof, _ = _error(each, drawn, n_stimuli)
    if mean.score == 0:
        return 1.0
    with np.errstate(divide="ignore"):
        return float(2 * _student().sf(np.abs(mean.score) / np.float64(sem), dof))


def _student() -> Any:
    from scipy.stats import t  # which takes as long to import as the rest of this package

    return t


def _error(
    each: Sequence[Sampled], drawn: NDArray[np.int64], n_stimuli: int
) -> tuple[float, int, int]:
    """The standard error of the mean over subjects, its degrees of freedom, and lost samples."""
    n = len(each)
    scores = np.array([one.score for one in each])
    around = np.array([one.around() for one in each]).T
    there = ~np.isnan(around).any(axis=1)
    failed = int((~there).sum())
    dof = min(n, n_stimuli) - 1
    if there.sum() < 2:
        return np.nan, dof, failed
    times = times_of(drawn[there], n) / n
    both, subjects, stimuli = (
        (times * around[there]).sum(axis=1), times @ scores, around[there].mean(axis=1),
    )  # fmt: skip
    variances = [float(np.var(some, ddof=1)) for some in (both, subjects, stimuli)]
    if np.isnan(each[0].halves):
        return float(np.sqrt(_corrected(variances, n, n_stimuli))), dof, failed
    return float(np.sqrt(n / (n - 1) * variances[1] + variances[2])), dof, failed


def _corrected(variances: list[float], n_subjects: int, n_stimuli: int) -> float:
    needs("rsatoolbox", "intervals over subjects")
    from rsatoolbox.util.inference_util import extract_variances

    of_one = np.array(variances).reshape(3, 1, 1)
    found: Any = extract_variances(of_one, False, n_subjects, n_stimuli)[0]
    return max(0.0, float(np.squeeze(found)))

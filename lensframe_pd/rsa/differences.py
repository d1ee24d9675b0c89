"""Which layers differ in how well they match a reference: pairs of layers in the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensValueError, warn
from lensframe_pd.rsa.ceilings import over_both, p_over_both
from lensframe_pd.rsa.intervals import Sampled, difference_of
from lensframe_pd.rsa.matches import Match, Matches, Options, made_by, matches
from lensframe_pd.rsa.measure import Resampling
from lensframe_pd.rsa.pooling import Pool
from lensframe_pd.rsa.stores import DEFAULT_MEMORY

TAKEN = frozenset("op op_ reference comparison difference low high p stimulus".split())
"""Names of columns, which no axis may have."""


def score_differences(
    dataset: xr.Dataset,
    references: Mapping[str, Any],
    layers: Any = None,
    *,
    comparison: str = "spearman",
    metric: str = "correlation",
    pool: Pool = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int | None = 0,
    memory: int | str = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """How much better one layer matches a reference than another, in the same samples.

    Intervals of two scores may overlap though the layers differ: most of what a sample of stimuli
    changes, it changes in both. Here the difference is taken in each sample.

    Parameters
    ----------
    dataset, references, layers, comparison, metric, pool, bootstrap, confidence, seed, memory
        As for `score`.

    Returns
    -------
    pandas.DataFrame
        One row per pair of ops and reference, and place that they are repeated at. Columns `op`,
        `op_`, `reference`, `comparison`, `difference` (of the first less the second), `low`,
        `high`, and `p`, two-sided, of no difference; not corrected for how many pairs there are.
        Of references with `subject` or `run` that is about the mean over these, for other stimuli
        and other subjects, by the dual bootstrap and Student's t; else for other stimuli. How they
        were made is in `attrs`.

    Raises
    ------
    LensKeyError, LensTypeError, LensValueError, LensRuntimeError
        As of `score`; or there are not two layers, or no samples.

    Warns
    -----
    LensWarning
        As of `score`.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> model, ids = torch.nn.Linear(9, 4).eval(), list("abcdef")
    >>> layers, activations = lf.trace(model, torch.rand(6, 9), stimulus=ids)
    >>> brain = pd.DataFrame(torch.rand(6, 20).numpy(), index=ids)
    >>> ops = ["input_1", "linear_1"]
    >>> found = activations.lens.score_differences({"brain": brain}, ops, bootstrap=20)
    >>> found[["op", "op_", "reference"]]
            op      op_ reference
    0  input_1  linear_1     brain

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol 10:e1003553, "Comparing models"; over both: Schuett et al.
    (2023), eLife 12:e82566.
    """
    options = Options(comparison, metric, pool, Resampling(bootstrap, confidence, seed), memory)
    if bootstrap == 0:
        raise LensValueError("score_differences: bootstrap=0 leaves no samples; give a number")
    found = matches(dataset, references, layers, options, "score_differences", TAKEN)
    if len(found.arrays) < 2:
        only = ", ".join(map(repr, found.arrays))
        raise LensValueError(f"score_differences: there is {only} alone, and a pair takes two")
    if notes := found.measure.notes():
        warn("\n".join(notes))
    rows = [row for group in _groups(found) for row in _pairs(group, found)]
    over = " and ".join(dict.fromkeys(["stimulus", *found.measured]))
    differences = pd.DataFrame(rows)
    differences.attrs.update(made_by(options, found.measure, over))
    return differences


def _groups(found: Matches) -> Iterator[list[Match]]:
    """What may be compared: the same reference, and the same place."""
    groups = dict[Any, list[Match]]()
    for match in found.found:
        groups.setdefault((match.reference, *match.place.items()), []).append(match)
    yield from groups.values()


def _pairs(group: Iterable[Match], among: Matches) -> Iterator[dict[str, Any]]:
    measure = among.measure
    confidence = measure.resampling.confidence
    for first, second in counted([*combinations(group, 2)], "score_differences", "pairs"):
        each = [
            difference_of(one, other)
            for (_, one), (_, other) in zip(first.each, second.each, strict=True)
        ]
        if first.measured:
            drawn = measure.resampling.drawn_of(len(each))
            scored = over_both(each, drawn, len(measure.ids), confidence)
            p = p_over_both(each, drawn, len(measure.ids))
        else:
            scored, p = each[0].interval(confidence), _p(each[0])
        place = {d: first.place.get(d) for d in among.dims}
        yield {
            "op": first.op, "op_": second.op, **place, "reference": first.reference,
            "comparison": measure.comparison, "difference": scored.score, "low": scored.low,
            "high": scored.high, "p": p,
        }  # fmt: skip


def _p(sampled: Sampled) -> float:
    """Twice the smaller part of the samples on one side of 0, as `bootstrap_pair_tests` has it."""
    around = sampled.around()
    there = around[~np.isnan(around)]
    if not len(there) or np.isnan(sampled.score):
        return np.nan
    n, apart = len(there), np.count_nonzero(there)
    below = np.count_nonzero(there < 0) / apart if apart else 0.5
    return float((n - 1) / n * 2 * min(below, 1 - below) + 1 / n)

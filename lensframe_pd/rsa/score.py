"""How well each layer matches a reference: one tidy row per layer, pass and reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import xarray as xr

from lensframe_pd.errors import warn
from lensframe_pd.labels import labels
from lensframe_pd.rsa.intervals import Scored
from lensframe_pd.rsa.matches import Match, Matches, Options, made_by, matches
from lensframe_pd.rsa.measure import Resampling
from lensframe_pd.rsa.pooling import Pool
from lensframe_pd.rsa.stores import DEFAULT_MEMORY

_FACTS = ("layer", "pass_num", "n_passes", "step", "func", "module", "module_type")
_MADE = ("metric", "pool", "n_stimuli", "n_pairs", "bootstrap", "confidence", "seed", "resampled")
"""What is said of how scores were made, in columns too, as frames of several are concatenated."""
_OWN = ("reference", "comparison", "score", "low", "high", "mean", "mean_low", "mean_high",
        "ceiling_low", "ceiling_high")  # fmt: skip
TAKEN = frozenset(("op", "depth", "stimulus", *_FACTS, *_OWN))
"""Names of columns, which no axis may have."""


def score(
    dataset: xr.Dataset,
    references: Mapping[str, Any],
    layers: Any = None,
    *,
    comparison: str = "spearman",
    metric: str = "correlation",
    pool: Pool = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int | None = 0,
    memory: int | str = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Compare every layer and pass with every reference.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    references
        Name to an RDM or a feature matrix. An RDM is a DataFrame with the same ids on both sides,
        or a DataArray `(stimulus, stimulus_)` with ids on both; symmetric, zero on the diagonal. A
        feature matrix is a DataFrame indexed by id, or a DataArray `(stimulus, ...)` with ids. All
        are joined by id, in any order. Either may be repeated over `subject` or `run`, which gives
        a score of each and a noise ceiling, and over other axes, as `roi`; of a DataFrame these
        are levels of the index beside `stimulus`.
    layers
        Rows of `layers`: those whose value is in the dataset are scored, and joined. Or labels,
        layers and module paths; None for every variable with a stimulus axis and another.
    comparison
        Of RDMs: `spearman`, `pearson`, `kendall` (tau-b), `tau-a`, `cosine`, `rho-a`,
        `whitened-cosine`, `whitened-pearson`; rsatoolbox's names for them are known too. Cosines
        take 0 at its word, and noise makes all distances larger: they and their ceilings are for
        cross-validated RDMs (`rdm(metric="crossnobis")`). Of feature matrices: `cka`,
        `cka-debiased` (linear).
    metric, pool
        Of the RDMs, as for `rdm`; references that are features get the same metric.
    bootstrap
        Number of samples of stimuli for the interval; 0 for none. Of RDMs they are drawn with
        repeats, and pairs of a stimulus with itself are left out, as in rsatoolbox. Of features
        they are halves of the stimuli: repeats would find structure in noise (`cka_score` in
        `lensframe_pd.rsa.intervals` has the formula and its sources).
    confidence
        Of the interval, between 0 and 1.
    seed
        Of the resampling: equal seeds give equal intervals.
    memory
        Of a store, as for `rdm`; beside it an RDM or kernel of each reference and of a layer is
        held. References are read whole.

    Returns
    -------
    pandas.DataFrame
        One row per op and reference. Columns `op`, `layer`, `pass_num`, `depth` (0 for the first
        layer scored to 1 for the last, by first execution; passes of a layer share it), `func`,
        `module`, `reference`, `comparison`, `score`, `low`, `high`, and from a frame `n_passes`,
        `step`, `module_type`. How they were made is in the columns `metric`, `pool`, `n_stimuli`,
        `n_pairs`, `bootstrap`, `confidence`, `seed`, `resampled` (but where an axis has the name),
        and in `attrs`, with `versions`.

        Axes that layers or references are repeated over are columns, with a row per place; an axis
        that both have is one. Where a reference has `subject` or `run` (of both `subject`): a row
        for each, of which `low` and `high` are for other stimuli. Beside it, equal in all rows of
        a layer, `ceiling_low` and `ceiling_high`, the score that the true RDM is expected to have
        (each with the mean of the others, and of all), and `mean`, with `mean_low` and `mean_high`
        for other stimuli and other subjects, by the dual bootstrap.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name, or no row of the frame has its value there.
    LensTypeError
        A reference is neither a DataFrame nor a DataArray, or holds no real numbers.
    LensValueError
        An unknown comparison; too few stimuli; CKA with an RDM. A reference that is about other
        stimuli, named as an RDM and none (a similarity, or not symmetric), or with axes of which
        it cannot be known whether they are features; a layer with such axes. An axis of the layers
        and of a reference that differs, or has the name of a column.
    LensRuntimeError
        A reference has subjects, and rsatoolbox is not installed.

    Warns
    -----
    LensWarning
        Naming layers whose score is NaN, as their patterns or dissimilarities do not vary or are
        not all there, and how many pairs or stimuli are missing in what: none is left out. How
        many samples of stimuli had no score. And where a noise ceiling is none, as of one subject
        or of CKA, or not the best possible: of Kendall's tau it is that of averaged ranks.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> model, ids = torch.nn.Linear(9, 4).eval(), list("abcdef")
    >>> layers, activations = lf.trace(model, torch.rand(6, 9), stimulus=ids)
    >>> brain = pd.DataFrame(torch.rand(6, 20).numpy(), index=ids[::-1])
    >>> activations.lens.score({"brain": brain}, layers)[["op", "depth", "reference"]]
             op  depth reference
    0   input_1    0.0     brain
    1  linear_1    0.5     brain
    2  output_1    1.0     brain

    References
    ----------
    Nili et al. (2014), PLoS Comput Biol 10:e1003553; rho-a, dual bootstrap: Schuett et al. (2023),
    eLife 12:e82566; whitened: Diedrichsen et al. (2021), arXiv:2007.02789.
    """
    options = Options(comparison, metric, pool, Resampling(bootstrap, confidence, seed), memory)
    found = matches(dataset, references, layers, options, "score", TAKEN)
    measure = found.measure
    rows = [row for match in found.found for row in _rows(match, found)]
    if notes := measure.notes():
        warn("\n".join(notes))
    resampled = measure.resampled
    if found.measured and bootstrap:
        resampled += f"; the mean: stimulus and {' or '.join(found.measured)}"
    attrs = made_by(options, measure, resampled)
    frame = layers if isinstance(layers, pd.DataFrame) else None
    facts = _facts(found.arrays, frame)
    scores = facts.merge(pd.DataFrame(rows), on="op", how="right", validate="1:m")
    scores = scores.assign(**{name: attrs[name] for name in _MADE if name not in scores})
    scores.attrs.update(attrs)
    return scores


def _rows(match: Match, among: Matches) -> Iterable[dict[str, Any]]:
    """One, or one of each subject or run; with those columns if any reference has any."""
    measure, beside = among.measure, dict[str, Any]()
    if among.measured:
        mean = match.mean(measure) if match.measured else Scored(math.nan)
        beside = {"mean": mean.score, "mean_low": mean.low, "mean_high": mean.high}
        beside |= {"ceiling_low": match.ceiling.low, "ceiling_high": match.ceiling.high}
    place = {d: match.place.get(d) for d in among.dims}
    for label, sampled in match.each:
        each = {d: label.get(d) for d in among.measured}
        score, low, high, _ = sampled.interval(measure.resampling.confidence)
        own = {"comparison": measure.comparison, "score": score, "low": low, "high": high}
        yield {"op": match.op, **place, "reference": match.reference, **each, **own, **beside}


def _facts(arrays: Mapping[str, xr.DataArray], frame: pd.DataFrame | None) -> pd.DataFrame:
    """What each op is: from the frame if there is one, else from the arrays themselves."""
    if frame is None:
        columns: dict[str, list[Any]] = {"op": list(arrays)}
        for name in ("layer", "pass_num", "func", "module"):
            columns[name] = [a.attrs.get(name, op) for op, a in arrays.items()]
        facts = pd.DataFrame(columns)
        of_label = facts["op"].str.extract(r":(\d+)$")[0].astype("float")
        known = pd.to_numeric(facts["pass_num"], errors="coerce")
        facts["pass_num"] = known.fillna(of_label).fillna(1).astype(int)
    else:
        facts = frame[[c for c in _FACTS if c in frame]].reset_index(drop=True)
        facts.insert(0, "op", labels(frame, "score"))
        facts = facts[facts["op"].isin(arrays)].drop_duplicates("op")
    key = facts["layer"] if "layer" in facts else facts["op"]
    order = pd.Series(pd.factorize(key)[0], index=facts.index)
    if "step" in facts:
        order = facts["step"].groupby(key, observed=True).transform("min")
    rank = order.rank(method="dense") - 1
    facts.insert(1, "depth", rank / max(1.0, float(rank.max())))
    return facts

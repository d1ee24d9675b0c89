"""How well each layer matches a reference: one tidy row per layer, pass and reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError, shown, warn
from lensframe_pd.rsa.cka import alignment, centred, debias
from lensframe_pd.rsa.distances import Array, dissimilarities, inner_products
from lensframe_pd.rsa.features import Pool, check_axes, executions, patterns
from lensframe_pd.rsa.ids import ids_of, positions
from lensframe_pd.rsa.rdm import SECOND
from lensframe_pd.schema import STIMULUS, labels

_FACTS = ("layer", "pass_num", "n_passes", "step", "func", "module", "module_type")
_CKA = ("cka", "cka-debiased")


def score(
    dataset: xr.Dataset,
    references: Mapping[str, Any],
    layers: pd.DataFrame | str | Iterable[str] | None = None,
    *,
    comparison: str = "spearman",
    metric: str = "correlation",
    pool: Pool = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Compare every layer and pass with every reference.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    references
        Name to an RDM (square DataFrame with ids on both sides, or DataArray `(stimulus,
        stimulus_)`) or a feature matrix (DataFrame indexed by id, or DataArray `(stimulus, ...)`).
        Joined by id, in any order.
    layers
        Rows of `layers`: those whose value is in the dataset are scored, and joined. Or labels,
        layers and module paths; None for every variable with a stimulus axis and another.
    comparison
        Of RDMs: `spearman`, `pearson`, `kendall` (tau-b), `cosine`, `rho-a`. Of feature
        matrices: `cka`, `cka-debiased` (linear).
    metric, pool
        Of the RDMs, as for `rdm`; references that are features get the same metric.
    bootstrap
        Number of bootstrap samples of stimuli for the interval; 0 for none. Pairs of a stimulus
        with itself, which resampling makes, are left out, as in rsatoolbox.
    confidence
        Of the percentile interval.
    seed
        Of the resampling: equal seeds give equal intervals.

    Returns
    -------
    pandas.DataFrame
        One row per op and reference. Columns `op`, `layer`, `pass_num`, `depth` (0 for the first
        layer scored to 1 for the last, by first execution; passes of a layer share it), `func`,
        `module`, `reference`, `comparison`, `score`, `low`, `high`, and from a frame `n_passes`,
        `step`, `module_type`.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name, or no row of the frame has its value there.
    LensTypeError
        A reference is neither a DataFrame nor a DataArray.
    LensValueError
        An unknown comparison, a reference that is about other stimuli, or CKA with an RDM.

    Warns
    -----
    LensWarning
        Naming layers whose score is NaN, as their patterns or dissimilarities do not vary.

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
    Nili et al. (2014), PLoS Comput Biol 10:e1003553; rho-a: Schuett et al. (2023), eLife
    12:e82566.
    """
    if comparison not in _COMPARISONS and comparison not in _CKA:
        known = ", ".join([*_COMPARISONS, *_CKA])
        raise LensValueError(f"no comparison {comparison!r}; there are {known}")
    frame = layers if isinstance(layers, pd.DataFrame) else None
    keys = layers if not isinstance(layers, pd.DataFrame) else _scored(dataset, layers)
    arrays = executions(dataset, keys)
    check_axes(arrays, pool)
    ids = ids_of(dataset, "the Dataset")
    prepare = _kernel if comparison in _CKA else _matrix_of(metric)
    compare = _compare_kernels(comparison) if comparison in _CKA else _compare_rdms(comparison)
    prepared = {
        name: _reference(name, value, ids, prepare, comparison in _CKA)
        for name, value in references.items()
    }
    rows, undefined = [], list[str]()
    for op, array in arrays.items():
        own = prepare(patterns(array, pool, op))
        for name, reference in prepared.items():
            row: dict[str, Any] = {"op": op, "reference": name, "comparison": comparison}
            row |= _interval(compare, own, reference, bootstrap, confidence, seed)
            rows.append(row)
            undefined += [op] if np.isnan(row["score"]) else []
    if undefined:
        warn(
            f"no score (NaN), as patterns or dissimilarities do not vary or are not finite, in "
            f"{shown(dict.fromkeys(undefined))}"
        )
    facts = _facts(arrays, frame)
    return facts.merge(pd.DataFrame(rows), on="op", how="right", validate="1:m")


Compare = Callable[[Array, Array, Any], float]
"""Score of two prepared matrices over the stimuli with these numbers."""


def _scored(dataset: xr.Dataset, frame: pd.DataFrame) -> list[str]:
    there = [
        op for op in labels(frame, "score") if op in dataset and STIMULUS in dataset[op].dims
        and dataset[op].ndim > 1
    ]  # fmt: skip
    if not there:
        raise LensKeyError("no row of this frame has a value with a stimulus axis in the Dataset")
    return there


def _matrix_of(metric: str) -> Callable[[Any], Array]:
    return lambda rows: dissimilarities(rows, metric).values


def _kernel(rows: Any) -> Array:
    with np.errstate(invalid="ignore"):
        return inner_products(rows)


def _reference(
    name: str, value: Any, ids: pd.Index, prepare: Callable[[Any], Array], features_only: bool
) -> Array:
    """An RDM or kernel of the reference, in the order of `ids`."""
    of = f"reference {name!r}"
    if isinstance(value, pd.DataFrame):
        square = len(value) == value.shape[1] and set(value.index) == set(value.columns)
        found, values = value.index, value.loc[:, value.index] if square else value
        table = values.to_numpy()
    elif isinstance(value, xr.DataArray):
        square = {STIMULUS, SECOND} <= set(value.dims)
        found = ids_of(value, of)
        extra = [d for d in value.dims if d not in (STIMULUS, SECOND)]
        if square:
            if extra and value.sizes[extra[0]] > 1:
                raise LensValueError(f"{of} is several RDMs, along {extra}; give each its name")
            value = value.squeeze(extra, drop=True).transpose(STIMULUS, SECOND)
            second = pd.Index(value[SECOND].to_numpy()) if SECOND in value.coords else found
            value = value.isel({SECOND: positions(found, second, of, f"{SECOND} of {of}")})
            table = value.to_numpy()
        else:
            table = patterns(value, None, of)
    else:
        raise LensTypeError(
            f"{of} is a DataFrame or DataArray with ids, not {type(value).__name__}"
        )
    order = positions(ids, found, "the Dataset", of)
    if square and features_only:
        raise LensValueError(
            f"CKA compares features, and {of} is an RDM; use comparison='spearman'"
        )
    if square:
        return np.asarray(table, dtype=np.float64)[np.ix_(order, order)]
    return prepare(np.asarray(table)[order])


def _compare_rdms(comparison: str) -> Compare:
    statistic = _COMPARISONS[comparison]

    def compare(first: Array, second: Array, chosen: Any) -> float:
        i, j = np.triu_indices(len(chosen), 1)
        a, b = chosen[i], chosen[j]
        x, y = first[a, b], second[a, b]
        keep = (a != b) & ~np.isnan(x) & ~np.isnan(y)
        x, y = x[keep], y[keep]
        if len(x) < 2 or _alike(x) or _alike(y):
            return np.nan
        return statistic(x, y)

    return compare


def _alike(values: Array) -> bool:
    """Equal but for rounding, so that their order means nothing."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _compare_kernels(comparison: str) -> Compare:
    centre = debias if comparison == "cka-debiased" else centred

    def compare(first: Array, second: Array, chosen: Any) -> float:
        sub = np.ix_(chosen, chosen)
        with np.errstate(invalid="ignore", divide="ignore"):
            return alignment(centre(first[sub]), centre(second[sub]))

    return compare


def _interval(
    compare: Compare, first: Array, second: Array, samples: int, confidence: float, seed: int | None
) -> dict[str, float]:
    everyone = np.arange(len(first))
    found = {"score": compare(first, second, everyone), "low": np.nan, "high": np.nan}
    if samples and not np.isnan(found["score"]):
        from scipy.stats import bootstrap

        interval = bootstrap(
            (everyone,),
            lambda chosen: compare(first, second, np.asarray(chosen)),
            n_resamples=samples,
            vectorized=False,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        found |= {"low": float(interval.low), "high": float(interval.high)}
    return found


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
    order = facts["step"].groupby(key).transform("min") if "step" in facts else pd.factorize(key)[0]
    rank = pd.Series(order, index=facts.index).rank(method="dense") - 1
    facts.insert(1, "depth", rank / max(1.0, float(rank.max())))
    return facts


def _spearman(x: Array, y: Array) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(x), rankdata(y))


def _pearson(x: Array, y: Array) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _kendall(x: Array, y: Array) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic)


def _cosine(x: Array, y: Array) -> float:
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _rho_a(x: Array, y: Array) -> float:
    """Expected Spearman correlation with ties broken at random."""
    from scipy.stats import rankdata

    n = len(x)
    return float(12 * (rankdata(x) @ rankdata(y)) / (n**3 - n) - 3 * (n + 1) / (n - 1))


_COMPARISONS = {
    "spearman": _spearman,
    "pearson": _pearson,
    "kendall": _kendall,
    "cosine": _cosine,
    "rho-a": _rho_a,
}

"""How well each layer matches a reference: one tidy row per layer, pass and reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensKeyError, LensValueError, shown, warn
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.rsa.blockwise import products_of, rdm_of
from lensframe_pd.rsa.cka import not_finite
from lensframe_pd.rsa.comparisons import COMPARISONS, Pairs
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.features import Pool, check_axes, executions, patterns
from lensframe_pd.rsa.ids import ids_of
from lensframe_pd.rsa.intervals import FEWEST, Scored, cka_score, rdm_score
from lensframe_pd.rsa.references import Reference, reference
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, memory_of, opened
from lensframe_pd.schema import STIMULUS, labels

_FACTS = ("layer", "pass_num", "n_passes", "step", "func", "module", "module_type")
_SHOWN = 5


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
        are joined by id, in any order.
    layers
        Rows of `layers`: those whose value is in the dataset are scored, and joined. Or labels,
        layers and module paths; None for every variable with a stimulus axis and another.
    comparison
        Of RDMs: `spearman`, `pearson`, `kendall` (tau-b), `tau-a`, `cosine`, `rho-a`. Of
        feature matrices: `cka`, `cka-debiased` (linear).
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
        `step`, `module_type`.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name, or no row of the frame has its value there.
    LensTypeError
        A reference is neither a DataFrame nor a DataArray, or holds no real numbers.
    LensValueError
        An unknown comparison; too few stimuli; CKA with an RDM. A reference that is about other
        stimuli, named as an RDM and none (a similarity, or not symmetric), or with an axis that is
        no feature, such as `subject`; a layer with such an axis.

    Warns
    -----
    LensWarning
        Naming layers whose score is NaN, as their patterns or dissimilarities do not vary or are
        not all there, and how many pairs or stimuli are missing in what: none is left out. And
        how many samples of stimuli had no score.

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
    _check(comparison, bootstrap, confidence)
    frame = layers if isinstance(layers, pd.DataFrame) else None
    keys = layers if not isinstance(layers, pd.DataFrame) else _scored(dataset, layers)
    check_finished(dataset, "score")
    memory = memory_of(memory)
    arrays = executions(opened(dataset), keys)
    check_axes(arrays, pool)
    ids = ids_of(dataset, "the Dataset")
    measure = _Measure(comparison, metric, ids, (bootstrap, confidence, seed))
    prepared = {
        name: measure.of_reference(name, reference(name, value, ids))
        for name, value in references.items()
    }
    rows = []
    for op, array in arrays.items():
        own = measure.of_features(repr(op), patterns(array, pool, op, memory))
        for name, other in prepared.items():
            found = measure.score(op, own, name, other)
            row: dict[str, Any] = {"op": op, "reference": name, "comparison": comparison}
            rows.append(row | {"score": found.score, "low": found.low, "high": found.high})
    if notes := measure.notes():
        warn("\n".join(notes))
    facts = _facts(arrays, frame)
    return facts.merge(pd.DataFrame(rows), on="op", how="right", validate="1:m")


def _check(comparison: str, bootstrap: int, confidence: float) -> None:
    if comparison not in COMPARISONS and comparison not in FEWEST:
        known = ", ".join([*COMPARISONS, *FEWEST])
        raise LensValueError(f"no comparison {comparison!r}; there are {known}")
    if bootstrap < 0:
        raise LensValueError(f"bootstrap is a number of samples, or 0, not {bootstrap}")
    if not 0 < confidence < 1:
        raise LensValueError(f"confidence is between 0 and 1, such as 0.95, not {confidence}")


def _scored(dataset: xr.Dataset, frame: pd.DataFrame) -> list[str]:
    there = [
        op for op in labels(frame, "score") if op in dataset and STIMULUS in dataset[op].dims
        and dataset[op].ndim > 1
    ]  # fmt: skip
    if not there:
        raise LensKeyError("no row of this frame has a value with a stimulus axis in the Dataset")
    return there


class _Measure:
    """A comparison with its options, and what it has to say of what it was given."""

    def __init__(
        self, comparison: str, metric: str, ids: pd.Index, interval: tuple[int, float, int | None]
    ) -> None:
        n, fewest = len(ids), FEWEST.get(comparison, 3)
        if n < fewest:
            raise LensValueError(f"{comparison} needs at least {fewest} stimuli, not {n}")
        self.comparison, self.metric, self.ids, self.interval = comparison, metric, ids, interval
        self.of_kernels = comparison in FEWEST
        self.missing: list[str] = []
        self.undefined: dict[str, None] = {}
        self.failed: list[str] = []

    def of_features(self, of: str, rows: Any) -> Pairs | Array:
        """The features of a layer or reference as what is compared."""
        if not self.of_kernels:
            return self._pairs(of, rdm_of(rows, self.metric).values)
        with np.errstate(invalid="ignore"):
            kernel = products_of(rows)
        if not np.isfinite(kernel).all():
            lost = not_finite(rows, self.ids)
            self.missing.append(
                f"{len(lost)} of {len(self.ids)} stimuli have NaN or infinity in {of}: "
                f"{shown(lost, _SHOWN)}"
            )
        return kernel

    def of_reference(self, name: str, given: Reference) -> Pairs | Array:
        """A reference as what is compared.

        Raises
        ------
        LensValueError
            It is an RDM, and kernels are compared.
        """
        of = f"reference {name!r}"
        if not given.is_rdm:
            return self.of_features(of, given.values)
        if self.of_kernels:
            raise LensValueError(
                f"CKA compares features, and {of} is an RDM; use comparison='spearman'"
            )
        return self._pairs(of, given.values)

    def score(self, op: str, own: Any, name: str, other: Any) -> Scored:
        """How alike the two are, with the interval if one is wanted."""
        compare: Any = cka_score if self.of_kernels else rdm_score
        found: Scored = compare(self.comparison, own, other, *self.interval)
        if np.isnan(found.score):
            self.undefined[op] = None
        elif found.failed:
            self.failed.append(
                f"{found.failed} of {self.interval[0]} samples of stimuli have no score of {op!r} "
                f"with {name!r}; the interval is of the others"
            )
        return found

    def notes(self) -> list[str]:
        """What was missing, and where there is no score or no whole interval."""
        lines = [*self.missing]
        if self.undefined:
            lines.append(
                "no score (NaN), as patterns or dissimilarities do not vary or are not all there, "
                f"in {shown(self.undefined)}"
            )
        if self.missing:
            lines.append("select the stimuli and features that are whole, in both, by id")
        return lines + self.failed

    def _pairs(self, of: str, square: Array) -> Pairs:
        found = Pairs(square[np.triu_indices(len(square), 1)])
        n = int(np.isnan(found.values).sum())
        if n:
            beside = np.isnan(square) | np.eye(len(square), dtype=bool)
            lost = self.ids[np.asarray(beside.all(axis=1))]
            whose = f", those of {shown(lost, _SHOWN)}" if len(lost) else ""
            self.missing.append(
                f"{n} of {len(found.values)} pairs of stimuli have no dissimilarity in {of}{whose}"
            )
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

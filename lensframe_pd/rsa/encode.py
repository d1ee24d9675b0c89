"""Encoding models: how well layers predict responses, one tidy row per target and fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from lensframe_pd.bars import bar
from lensframe_pd.errors import LensTypeError, LensValueError, needs, shown, warn
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.files.stores import ORDER
from lensframe_pd.labels import asked_names
from lensframe_pd.rsa.designs import Designs
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.features import executions, row_blocks
from lensframe_pd.rsa.folds import Fold, folds_of, groups_of
from lensframe_pd.rsa.ids import ids_of, positions
from lensframe_pd.rsa.pooling import Pool, check_axes
from lensframe_pd.rsa.reported import pool_text, reported
from lensframe_pd.rsa.responses import Responses, responses_of
from lensframe_pd.rsa.ridge import Fitted, Search, on_numpy
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, memory_of, opened
from lensframe_pd.schema import STIMULUS

ALPHAS = tuple(np.logspace(-2, 7, 19).tolist())
MEASURES = ("r", "r2")
_FLAT = 1e-13
"""A range below this part of the largest value is that of a constant which was rounded."""
_SHOWN = 5


def encode(
    dataset: xr.Dataset,
    responses: Any,
    layers: pd.DataFrame | str | Iterable[str],
    *,
    groups: Any = None,
    alphas: Any = ALPHAS,
    folds: int = 5,
    measure: str = "r",
    seed: int | None = 0,
    pool: Pool = None,
    memory: int | str = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Predict responses from a layer, or from several at once, by ridge regression (himalaya).

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    responses
        What is predicted, a column for each target: a DataFrame or Series indexed by id, or a
        DataArray with ids along `stimulus`. Joined by id, in any order. An id may come several
        times, in trials, also along an axis, or in a level of the index, as `trial` or `run`.
    layers
        A label, layer or module path. Several, or passes of a layer, or rows of `layers`, make
        *one* model, in which each is a band with a weight of its own (banded ridge regression).
    groups
        Stimuli that are trained on, or tested, together: the name of a coordinate, a Series or
        dict from id to group, or one for each row of the responses. Ids always stay whole, and
        groups that share an id are one.
    alphas
        Regularizations to choose from, for each target and fold by folds of the training set.
    folds
        How many; so many inner ones too. scikit-learn's
        `GroupKFold(folds, shuffle=True, random_state=seed)` over rows sorted by id, where a group
        has the number of its first row; within, `GroupKFold(folds)`.
    measure
        `"r"`, Pearson's correlation of responses and predictions, or `"r2"`, the part of the
        variance that is explained.
    seed
        Of the folds, and of the search for the weights of bands.
    pool
        What to do with space, tokens or time first, as for `features`.
    memory
        Of a store, and of kernels: as for `rdm`. Where features outnumber stimuli, a layer that
        has no room is read by pairs of blocks of stimuli, and once for its means; again where the
        kernels, stimulus x stimulus in float64 for every fold, are more than half of it.

    Returns
    -------
    pandas.DataFrame
        One row per target and fold: `op`, `depth` (0 for the first layer of the Dataset to 1 for
        the last), `target`, `fold`, `alpha`, `score`, `measure`, `n_train`, `n_test` (rows of the
        responses). Of several layers a row for each `band`, with `delta`, the logarithm of its
        weight: kernels are added up by exp(delta), with an alpha of 1. The score is that of all
        bands, and the same in their rows. `attrs` have the options, and versions.

        Features are scaled to mean 0 and variance 1 by the training set, and responses centred.
        Scores are those of each fold; folds are never joined before they are scored.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name.
    LensTypeError
        Responses, groups, alphas or folds are nothing of the kind.
    LensValueError
        Responses about other stimuli, or with an axis that is no feature, such as `subject`;
        too few groups for the folds; an unknown measure; a store that is not finished; too little
        memory.

    Warns
    -----
    LensWarning
        Targets without a score, which is NaN: those that hold NaN or infinity, or do not vary in
        the training set or in what is tested. Layers that hold NaN, or do not vary. How
        many of the alphas chosen are the least or the largest of those given.

    Examples
    --------
    >>> import pandas as pd, torch, lensframe_pd as lf
    >>> generator = torch.Generator().manual_seed(0)
    >>> images, noise = torch.randn(100, 9, generator=generator).split([90, 10])
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), images, stimulus=range(90))
    >>> rates = images[:, :2] + noise.reshape(90, 1) / 3  # of two neurons, for each image
    >>> scores = activations.lens.encode(pd.DataFrame(rates.numpy()), "input_1")
    >>> scores.groupby("target")["score"].mean() > 0.9
    target
    0    True
    1    True
    Name: score, dtype: bool

    References
    ----------
    Dupre la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022), Feature-space selection with
    banded ridge regression, NeuroImage 264:119728.
    """
    needs("himalaya", "encoding models")
    search = Search(_grid(alphas), _seed(seed))
    _check(folds, measure)
    check_finished(dataset, "encode")
    memory = memory_of(memory)
    arrays = executions(opened(dataset), _asked(layers))
    check_axes(arrays, pool)
    table, ids = responses_of(responses), ids_of(dataset, "the Dataset")
    places = positions(table.ids, ids, "the responses", "the Dataset")[table.rows]
    parts = folds_of(groups_of(groups, dataset, table), int(folds), search.seed)
    if empty := [op for op, array in arrays.items() if not array.size]:
        raise LensValueError(f"no features to predict from: {shown(empty)}")
    designs = Designs([row_blocks(array, pool, op, memory) for op, array in arrays.items()], places)
    results = _Results(len(arrays), table, parts)
    with on_numpy():
        designs.scale(parts)
        if not designs.broken.any():
            with bar("encode", len(parts), "folds") as progress:
                for k, design in enumerate(designs.each(len(parts))):
                    fit = partial(designs.fit, design, fold=parts[k], search=search)
                    results.add(k, fit, measure)
                    progress.update()
    if notes := _notes(designs, [*arrays], ids, table, results, search):
        warn("\n".join(notes))
    found = results.frame(_depths(arrays, dataset), measure)
    said: dict[str, Any] = {"measure": measure, "pool": pool_text(pool), "n_stimuli": len(ids)}
    said |= {"folds": folds, "alphas": ", ".join(f"{a:g}" for a in search.alphas), "seed": seed}
    found.attrs.update(reported("himalaya", "scikit-learn", **said))
    return found


def _grid(alphas: Any) -> Array:
    try:
        found = np.unique(np.atleast_1d(np.asarray(alphas, dtype=np.float64)))
    except (TypeError, ValueError):
        raise LensTypeError(f"alphas are numbers above 0, not {alphas!r}") from None
    if np.ndim(alphas) > 1 or not found.size or not (np.isfinite(found) & (found > 0)).all():
        raise LensValueError(f"alphas are numbers above 0, such as np.logspace(0, 5), not {alphas}")
    return found


def _seed(seed: Any) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise LensTypeError(f"seed is a whole number or None, not {seed!r}")
    if not 0 <= seed < 2**32:
        raise LensValueError(f"seed is from 0 to 2**32 - 1, not {seed}")
    return int(seed)


def _check(folds: Any, measure: Any) -> None:
    if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)):
        raise LensTypeError(f"folds is how many, not {folds!r}; groups= says what stays together")
    if folds < 2:
        raise LensValueError(f"folds is at least 2, not {folds}")
    if measure not in MEASURES:
        raise LensValueError(f"no measure {measure!r}; there are {shown(MEASURES)}")


def _asked(layers: Any) -> Any:
    if isinstance(layers, pd.DataFrame):
        return layers
    found = [] if layers is None else asked_names(layers, "encode")
    if not found:
        raise LensValueError("encode takes a layer, or several for one model: none is named")
    return found


class _Results:
    """What was found, band x target x fold."""

    def __init__(self, n_bands: int, table: Responses, folds: Sequence[Fold]) -> None:
        self.table, self.folds = table, folds
        self.scores = np.full((len(table.targets), len(folds)), np.nan)
        self.alphas = np.full_like(self.scores, np.nan)
        self.deltas = np.full((n_bands, *self.scores.shape), np.nan)

    def add(self, k: int, fit: Callable[[Array], Fitted], measure: str) -> None:
        """Fit and score what can be, in one fold."""
        values, fold = self.table.values, self.folds[k]
        there = np.flatnonzero(np.isfinite(values).all(axis=0) & ~_is_flat(values[fold.train]))
        if not there.size:
            return
        train, test = values[np.ix_(fold.train, there)], values[np.ix_(fold.test, there)]
        largest = np.abs(train).max(axis=0)  # as squares of the smallest and largest are none
        for part in (train, test):
            part /= largest
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        for part in (train, test):
            part -= mean
            part /= deviation
        found = fit(train)
        self.alphas[there, k] = found.alphas
        self.deltas[:, there, k] = found.deltas
        self.scores[there, k] = _scores(test, found.predicted, measure)

    def frame(self, depths: pd.Series[float], measure: str) -> pd.DataFrame:
        """A row per band, target and fold; of one layer there are no bands."""
        shape = self.deltas.shape
        band, target, fold = (at.ravel() for at in np.indices(shape))
        columns: dict[str, Any] = {
            "op": depths.index.take(band),
            "depth": depths.to_numpy()[band],
            "band": depths.index.take(band),
            "target": self.table.targets.take(target),
            "fold": fold,
            "alpha": np.broadcast_to(self.alphas, shape).ravel(),
            "delta": self.deltas.ravel(),
            "score": np.broadcast_to(self.scores, shape).ravel(),
            "measure": measure,
            "n_train": np.array([len(f.train) for f in self.folds])[fold],
            "n_test": np.array([len(f.test) for f in self.folds])[fold],
        }
        if len(depths) == 1:
            del columns["band"], columns["delta"]
        return pd.DataFrame(columns)


def _is_flat(values: Array) -> NDArray[np.bool_]:
    """Which columns do not vary."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.ptp(values, axis=0) <= _FLAT * np.abs(values).max(axis=0))


def _scores(test: Array, predicted: Array, measure: str) -> Array:
    from himalaya.scoring import correlation_score, r2_score

    flat = np.ptp(test, axis=0) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        if measure == "r2":
            found = r2_score(test, predicted)
        else:
            flat |= np.ptp(predicted, axis=0) == 0
            found = correlation_score(test, predicted)
    return np.asarray(np.where(flat, np.nan, found))


def _depths(arrays: Mapping[str, xr.DataArray], dataset: xr.Dataset) -> pd.Series[float]:
    """Where each op is among the layers of the Dataset."""
    there = [v for v in dataset.data_vars.values() if STIMULUS in v.dims and v.ndim > 1]
    there.sort(key=lambda v: int(v.attrs.get(ORDER, 0)))  # as plain xarray opens a store by name
    ordered = dict.fromkeys(_layer_of(array) for array in there)
    place = {layer: k / max(1, len(ordered) - 1) for k, layer in enumerate(ordered)}
    return pd.Series({op: place.get(_layer_of(array), np.nan) for op, array in arrays.items()})


def _layer_of(array: xr.DataArray) -> str:
    return str(array.attrs.get("layer", array.name))


def _notes(
    designs: Designs, ops: list[str], ids: pd.Index, table: Responses, results: _Results,
    search: Search,
) -> list[str]:  # fmt: skip
    """What has no score, and where the alphas may not reach far enough."""
    notes = []
    for op, broken in zip(ops, designs.broken, strict=True):
        if broken.any():
            notes.append(
                f"{broken.sum()} of {len(ids)} stimuli have NaN or infinity in {op!r}, which "
                f"predicts nothing (NaN): {shown(ids[broken], _SHOWN)}"
            )
    if notes:
        return notes
    if designs.dead.any():
        dead = [op for op, is_dead in zip(ops, designs.dead, strict=True) if is_dead]
        notes.append(f"layers that do not vary over the stimuli of a training set: {shown(dead)}")
    missing = np.asarray(~np.isfinite(table.values).all(axis=0))
    none = np.isnan(results.scores)
    flat = np.asarray(none.any(axis=1) & ~missing)
    for which, what in (
        (missing, "that hold NaN or infinity"),
        (flat, f"that do not vary, or their predictions, in {none[flat].sum()} folds"),
    ):
        if which.any():
            notes.append(
                f"{which.sum()} of {len(which)} targets {what} have no score (NaN): "
                f"{shown(table.targets[which], _SHOWN)}"
            )
    return [*notes, *_edges(results.alphas, search.alphas, table.targets)]


def _edges(chosen: Array, alphas: Array, targets: pd.Index) -> Iterator[str]:
    n = int(np.isfinite(chosen).sum())
    if len(alphas) == 1:
        return
    for edge, what in ((alphas[0], "least"), (alphas[-1], "largest")):
        there = chosen == edge
        if there.any():
            yield (
                f"alpha is the {what} given, {edge:g}, in {there.sum()} of {n} fits, of the "
                f"targets {shown(targets[there.any(axis=1)], _SHOWN)}: give alphas that reach "
                "further, unless nothing can be predicted of them"
            )

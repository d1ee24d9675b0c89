"""Ridge regression by himalaya, in float64: alpha of each target chosen by cross-validation.

Several bands, which are layers, have each a weight of their own (banded ridge regression), found by
random search. Where features outnumber stimuli only products of stimuli are there, never weights
of features.

References
----------
Dupre la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022), Feature-space selection with banded
ridge regression, NeuroImage 264:119728.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.folds import Fold, Rows

_AT_ONCE = 2**26
"""Bytes of what is computed of some targets, and some alphas, at a time."""
_SEARCHED = 100
"""Weights of bands that are tried, as himalaya does."""
_LEAST = 1e-9
"""The weight of a band that has none: those below would tie, and rounding would choose."""
_backend = threading.RLock()


class Fitted(NamedTuple):
    """What was found of each target, and what it predicts."""

    alphas: Array
    deltas: Array
    """Band x target: the logarithm of the weight of a band's kernel, over alpha."""
    predicted: Array
    """Row tested x target."""


class Search(NamedTuple):
    """How alpha and the weights of bands are looked for."""

    alphas: Array
    seed: int | None


@contextmanager
def on_numpy() -> Iterator[None]:
    """Have himalaya compute by NumPy; its backend is one for the process, and is put back."""
    import sklearn
    from himalaya.backend import get_backend, set_backend

    with _backend:
        before = get_backend().name
        set_backend("numpy")
        try:
            # what is given is finite; himalaya's check copies all for each part of it
            with sklearn.config_context(assume_finite=True):
                yield
        finally:
            set_backend(before)


def by_kernels(kernels: Array, places: Rows, y: Array, fold: Fold, search: Search) -> Fitted:
    """Fit and predict from products of stimuli.

    Parameters
    ----------
    kernels
        (band, stimulus, stimulus).
    places
        Which stimulus each row is about.
    y
        The responses of the rows to fit, of mean 0 and variance 1: the choice of alpha is
        himalaya's, which takes the larger one where losses differ by less than 1e-10.
    """
    from himalaya.kernel_ridge import KernelRidgeCV, MultipleKernelRidgeCV

    train, test = places[fold.train], places[fold.test]
    fitted, tested = kernels[:, train[:, None], train], kernels[:, test[:, None], train]
    params = _parts(len(search.alphas), len(train), len(train), y.shape[1])
    common: dict[str, Any] = {"fit_intercept": True, "cv": fold.inner}
    if len(kernels) == 1:
        model = KernelRidgeCV(
            search.alphas, "precomputed", solver_params=params, warn=False, **common
        )
        model.fit(fitted[0], y)
        return _fitted(model, search, model.predict(tested[0]))
    params |= _of_bands(len(kernels), search)
    model = MultipleKernelRidgeCV("precomputed", solver_params=params, **common)
    model.fit(fitted, y)
    return _fitted(model, search, model.predict(tested))


def by_features(
    features: Sequence[Array], places: Rows, y: Array, fold: Fold, search: Search
) -> Fitted:
    """The same from features, of which there are fewer than stimuli; a matrix for each band."""
    from himalaya.ridge import GroupRidgeCV, RidgeCV

    train, test = places[fold.train], places[fold.test]
    fitted, tested = [band[train] for band in features], [band[test] for band in features]
    width = sum(band.shape[1] for band in features)
    params = _parts(len(search.alphas), len(train), width, y.shape[1]) | {"warn": False}
    common: dict[str, Any] = {"fit_intercept": True, "cv": fold.inner}
    if len(features) == 1:
        model = RidgeCV(search.alphas, solver_params=params, **common)
        model.fit(fitted[0], y)
        return _fitted(model, search, model.predict(tested[0]))
    params |= _of_bands(len(features), search)
    model = GroupRidgeCV("input", solver_params=params, **common)
    model.fit(fitted, y)
    return _fitted(model, search, model.predict(tested))


def _fitted(model: Any, search: Search, predicted: Array) -> Fitted:
    deltas = getattr(model, "deltas_", None)
    if deltas is None:
        deltas = -np.log(model.best_alphas_)[None]
    # himalaya keeps logarithms, so that its alphas are those given but for rounding
    distance = np.abs(np.log(search.alphas)[:, None] - np.log(model.best_alphas_))
    return Fitted(search.alphas[distance.argmin(axis=0)], deltas, predicted)


def _of_bands(n_bands: int, search: Search) -> dict[str, Any]:
    """The weights that are tried: all alike, and those that himalaya would draw."""
    from himalaya.kernel_ridge import generate_dirichlet_samples

    weights = generate_dirichlet_samples(_SEARCHED, n_bands, [0.1, 1.0], search.seed)
    weights[0] = 1 / n_bands
    none = weights < _LEAST
    rest = np.where(none, 0, weights)
    rest *= (1 - _LEAST * none.sum(axis=1, keepdims=True)) / rest.sum(axis=1, keepdims=True)
    weights = np.where(none, _LEAST, rest).round(12)
    return {"alphas": search.alphas, "n_iter": weights, "progress_bar": False}


def _parts(n_alphas: int, n_rows: int, width: int, n_targets: int) -> dict[str, Any]:
    """How many alphas and targets at a time."""
    alphas = int(np.clip(_AT_ONCE // (8 * n_rows * width), 1, n_alphas))
    targets = int(np.clip(_AT_ONCE // (8 * n_rows * alphas), 1, n_targets))
    return {
        "n_alphas_batch": alphas,
        "n_targets_batch": targets,
        "n_targets_batch_refit": targets,
    }

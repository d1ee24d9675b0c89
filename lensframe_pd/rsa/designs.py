"""Layers as what ridge regression takes of them: kernels, or few features, scaled by fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lensframe_pd.errors import LensValueError
from lensframe_pd.quantities import quantity
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.folds import Fold, Rows
from lensframe_pd.rsa.ridge import Fitted, Search, by_features, by_kernels
from lensframe_pd.rsa.scaling import Scale, kernels, scales
from lensframe_pd.rsa.stores import RowBlocks

_FOR_KERNELS = 1 / 2
"""Part of the memory that kernels of several folds take side by side."""
_COPIES = 6
"""Of the features, that himalaya makes of them."""


class Designs:
    """What layers are to the model of each fold.

    Parameters
    ----------
    bands
        The layers, of the same stimuli.
    places
        Which of these each row of the responses is about.
    """

    def __init__(self, bands: list[RowBlocks], places: Rows) -> None:
        self.bands, self.places = bands, places
        self.n = bands[0].shape[0]
        self.in_products = sum(band.shape[1] for band in bands) > self.n
        if not self.in_products:
            self._check_room()
        self.scales: list[list[Scale]] = []
        self.broken = np.zeros((len(bands), self.n), np.bool_)
        self.dead = np.zeros(len(bands), np.bool_)

    def scale(self, folds: Sequence[Fold]) -> None:
        """Means and deviations of every layer over the training set of every fold."""
        weights = [
            np.bincount(self.places[fold.train], minlength=self.n).astype(np.float64)
            for fold in folds
        ]
        for k, band in enumerate(self.bands):
            found = scales(band, weights)
            self.scales.append(found.of_sets)
            self.broken[k] = found.broken

    def each(self, n_folds: int) -> Iterator[Any]:
        """For each fold the kernels of the layers, or the layers."""
        if not self.in_products:
            read = [band.read(slice(0, self.n)) for band in self.bands]
            for k in range(n_folds):
                scaled = (
                    s[k].scaled(x, slice(None)) for s, x in zip(self.scales, read, strict=True)
                )
                yield [*scaled]
            return
        of_fold = 8 * self.n**2 * len(self.bands)
        beside = max(1, int(_FOR_KERNELS * self.bands[0].memory / of_fold))
        for start in range(0, n_folds, beside):
            some = slice(start, start + beside)
            made = [kernels(x, s[some]) for s, x in zip(self.scales, self.bands, strict=True)]
            yield from (np.stack(of_bands) for of_bands in zip(*made, strict=True))

    def fit(self, design: Any, y: Array, fold: Fold, search: Search) -> Fitted:
        """Predict the rows tested from those of the training set."""
        self.dead |= [not band[self.places[fold.train]].any() for band in design]
        solve: Any = by_kernels if self.in_products else by_features
        found: Fitted = solve(design, self.places, y, fold, search)
        return found

    def _check_room(self) -> None:
        """Features that are fewer than stimuli are held as they are."""
        size = 8 * _COPIES * self.n * sum(band.shape[1] for band in self.bands)
        stored = [band for band in self.bands if hasattr(band.data, "chunks")]
        if stored and size > stored[0].memory:
            raise LensValueError(
                f"{stored[0].of} has {stored[0].shape[1]} features of {self.n} stimuli, which are "
                f"worked on at once, and take {quantity(size, 'B')}; give more memory=, or pool="
            )

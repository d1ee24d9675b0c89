"""A comparison with its options: what it makes of layers and references, and what it has to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.rsa.blockwise import products_of, rdm_of
from lensframe_pd.rsa.ceilings import OF_RANKS, Ceiling, noise_ceiling
from lensframe_pd.rsa.cka import not_finite
from lensframe_pd.rsa.comparisons import ALIASES, COMPARISONS, WHITENED, Pairs
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.intervals import (
    FEWEST,
    Sampled,
    cka_sampled,
    drawn_halves,
    drawn_stimuli,
    half_of,
    rdm_sampled,
)
from lensframe_pd.rsa.noise import METRICS
from lensframe_pd.rsa.references import MEASURED, Reference
from lensframe_pd.rsa.repeated import Over, Place

_SHOWN = 5
_LINES = 12
Compared = Pairs | Array


def comparison_of(name: str) -> str:
    """The name of a comparison, for any name it goes by.

    Raises
    ------
    LensValueError
        There is none of this name.
    """
    found = ALIASES.get(name, name) if isinstance(name, str) else None
    known = [*COMPARISONS, *WHITENED, *FEWEST]
    if found not in known:
        raise LensValueError(f"no comparison {name!r}; there are {', '.join(known)}")
    return found


class Resampling(NamedTuple):
    """How many samples are drawn, how wide an interval is, and the seed."""

    samples: int
    confidence: float
    seed: int | None

    def check(self) -> None:
        """Raise where these are no such numbers."""
        for name, given, kind, wanted in (
            ("bootstrap", self.samples, Integral, "a number of samples, or 0"),
            ("confidence", self.confidence, Real, "between 0 and 1, such as 0.95"),
            ("seed", 0 if self.seed is None else self.seed, Integral, "a number from 0, or None"),
        ):
            if not isinstance(given, kind):
                raise LensTypeError(f"{name} is {wanted}, not {given!r}")
        if self.samples < 0:
            raise LensValueError(f"bootstrap is a number of samples, or 0, not {self.samples}")
        if not 0 < self.confidence < 1:
            raise LensValueError(
                f"confidence is between 0 and 1, such as 0.95, not {self.confidence}"
            )
        if self.seed is not None and self.seed < 0:
            raise LensValueError(f"seed is a number from 0, or None, not {self.seed}")

    def drawn_of(self, n: int) -> NDArray[np.int64]:
        """Samples of subjects: other numbers than those of the stimuli."""
        seed = None if self.seed is None else [self.seed, 1]
        return np.random.default_rng(seed).integers(0, n, size=(self.samples, n))


class Prepared(NamedTuple):
    """A reference as what is compared, at each of its places, with the ceilings over subjects."""

    name: str
    over: Over
    parts: dict[tuple[int, ...], Compared]
    measured: str | None
    """The axis that shares a ceiling."""
    ceilings: dict[tuple[int, ...], Ceiling]

    def groups(self, at: Place) -> Iterator[tuple[Place, list[Place]]]:
        """Places along all other axes, and of each those along the measured one.

        Parameters
        ----------
        at
            Positions that are settled, as the layer has that axis too.
        """
        others = [d for d in self.over.dims if d != self.measured]
        for group in self.over.places(others):
            if all(group.get(d, k) == k for d, k in at.items()):
                each = self.over.places([self.measured]) if self.measured else iter([Place()])
                yield group, [{**group, **one} for one in each]

    def key(self, place: Place) -> tuple[int, ...]:
        """The place as it is kept."""
        return tuple(place[d] for d in self.over.dims)

    def ceiling(self, group: Place) -> Ceiling:
        """The ceiling of the subjects of a group."""
        return self.ceilings.get(_others(self.over, self.measured, group), Ceiling())


class Measure:
    """A comparison with its options, and what it has to say of what it was given."""

    def __init__(self, comparison: str, metric: str, ids: pd.Index, resampling: Resampling) -> None:
        n, fewest = len(ids), FEWEST.get(comparison, 3)
        if n < fewest:
            raise LensValueError(f"{comparison} needs at least {fewest} stimuli, not {n}")
        if metric in METRICS:
            raise LensValueError(
                f"metric={metric!r} is about the noise of each layer and reference; make the RDMs "
                "with rdm(..., noise=), and give those as references"
            )
        self.comparison, self.metric, self.ids, self.resampling = (
            comparison,
            metric,
            ids,
            resampling,
        )
        self.of_kernels = comparison in FEWEST
        self._drawn = self._samples(n)
        self.missing: list[str] = []
        self.undefined: dict[str, None] = {}
        self.failed: list[str] = []
        self.alone: dict[str, None] = {}
        self.no_ceiling: dict[str, None] = {}

    def of_features(self, of: str, rows: Any) -> Compared:
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

    def of_reference(self, name: str, given: Reference) -> Prepared:
        """A reference as what is compared.

        Raises
        ------
        LensValueError
            It is an RDM, and kernels are compared.
        """
        of, over = f"reference {name!r}", given.over
        if given.is_rdm and self.of_kernels:
            raise LensValueError(
                f"CKA compares features, and {of} is an RDM; use comparison='spearman'"
            )
        make = self._pairs if given.is_rdm else self.of_features
        parts = {
            tuple(place.values()): make(over.said(of, place), given.values[tuple(place.values())])
            for place in over.places()
        }
        measured = next((dim for dim in MEASURED if dim in over.dims), None)
        return Prepared(name, over, parts, measured, self._ceilings(name, over, measured, parts))

    def sampled(self, own: Any, other: Any) -> Sampled:
        """How alike two are, with all stimuli and in samples of them."""
        if self.of_kernels:
            return cka_sampled(self.comparison, own, other, self._drawn, self.resampling.samples)
        return rdm_sampled(self.comparison, own, other, self._drawn)

    def note(self, op: str, of: str, score: float, failed: int) -> None:
        """Remember that a layer has no score with a reference, or that samples have none."""
        if np.isnan(score):
            self.undefined[op] = None
        elif failed:
            self.failed.append(
                f"{failed} of {self.resampling.samples} samples of stimuli have no score of {op!r} "
                f"with {of}; the interval is of the others"
            )

    def notes(self) -> list[str]:
        """What was missing, and where there is no score or no whole interval."""
        lines = _few(self.missing)
        if self.undefined:
            lines.append(
                "no score (NaN), as patterns or dissimilarities do not vary or are not all there, "
                f"in {shown(self.undefined)}"
            )
        if self.missing:
            lines.append("select the stimuli and features that are whole, in both, by id")
        if self.alone:
            lines.append(f"one measurement has no noise ceiling (NaN): {', '.join(self.alone)}")
        if self.no_ceiling:
            lines.append(", ".join(self.no_ceiling))
        return lines + _few(self.failed)

    @property
    def resampled(self) -> str:
        """What samples are drawn of."""
        if not self.resampling.samples:
            return "none"
        return "stimulus, halves" if self.of_kernels else "stimulus"

    def _samples(self, n: int) -> Any:
        samples, seed = self.resampling.samples, self.resampling.seed
        if not self.of_kernels:
            return drawn_stimuli(n, samples, seed)
        b = half_of(self.comparison, n)
        return drawn_halves(n, b, samples if b < n else 0, seed)

    def _ceilings(
        self, name: str, over: Over, measured: str | None, parts: Mapping[tuple[int, ...], Compared]
    ) -> dict[tuple[int, ...], Ceiling]:
        if measured is None:
            return {}
        if len(over.labels[measured]) < 2:
            self.alone[f"{measured} of reference {name!r}"] = None
            return {}
        if self.of_kernels:
            self.no_ceiling["CKA has no noise ceiling (NaN)"] = None
            return {}
        if self.comparison in OF_RANKS:
            self.no_ceiling[
                "the noise ceiling of Kendall's tau is that of averaged ranks, as in rsatoolbox, "
                "which need not be the best: a layer may come to lie above it"
            ] = None
        groups = dict[tuple[int, ...], list[Any]]()
        for place in over.places():
            key = _others(over, measured, place)
            groups.setdefault(key, []).append(parts[tuple(place.values())])
        return {key: noise_ceiling(self.comparison, some) for key, some in groups.items()}

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


def _few(lines: list[str]) -> list[str]:
    """The first of many: each subject may have one with each layer."""
    more = len(lines) - _LINES
    return lines if more <= 0 else [*lines[:_LINES], f"... and {more} more such lines"]


def _others(over: Over, measured: str | None, place: Place) -> tuple[int, ...]:
    return tuple(place[d] for d in over.dims if d != measured)


def dims_of(references: Iterable[Prepared]) -> list[str]:
    """The axes that any reference is repeated over."""
    return [*dict.fromkeys(d for one in references for d in one.over.dims)]

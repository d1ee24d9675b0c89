"""Every layer with every reference: how alike they are, at each place that they are repeated at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.rsa.ceilings import Ceiling, over_both
from lensframe_pd.rsa.features import patterns, repeated_executions
from lensframe_pd.rsa.ids import ids_of
from lensframe_pd.rsa.intervals import Sampled, Scored
from lensframe_pd.rsa.measure import Measure, Prepared, Resampling, comparison_of
from lensframe_pd.rsa.pooling import Pool, check_axes
from lensframe_pd.rsa.references import reference
from lensframe_pd.rsa.repeated import Over, Place, at, check_free, check_same, over_of
from lensframe_pd.rsa.reported import pool_text, reported
from lensframe_pd.rsa.stores import memory_of, opened


class Options(NamedTuple):
    """How layers are compared with references."""

    comparison: str
    metric: str
    pool: Pool
    resampling: Resampling
    memory: int | str


class Match(NamedTuple):
    """A layer and a reference at one place: a score, or one of each subject or run."""

    op: str
    place: dict[str, Any]
    """Labels along the axes that either is repeated over."""
    reference: str
    each: list[tuple[dict[str, Any], Sampled]]
    """Labels along the axis that was measured over, and the score."""
    measured: str | None
    ceiling: Ceiling

    def mean(self, measure: Measure) -> Scored:
        """The mean over subjects or runs, for other stimuli and other subjects."""
        some = [sampled for _, sampled in self.each]
        drawn = measure.resampling.drawn_of(len(some))
        return over_both(some, drawn, len(measure.ids), measure.resampling.confidence)


class Matches(NamedTuple):
    """All of them, and what they are about."""

    found: list[Match]
    arrays: dict[str, xr.DataArray]
    measure: Measure
    dims: list[str]
    """Axes that layers and references are repeated over, but that measured over."""
    measured: list[str]
    """Axes that references are measured over."""


def matches(
    dataset: xr.Dataset,
    references: Mapping[str, Any],
    layers: Any,
    options: Options,
    verb: str,
    taken: Iterable[str],
) -> Matches:
    """Compare every layer and pass with every reference.

    Parameters
    ----------
    dataset, references, layers, options
        As for `score`.
    verb
        Its name, for messages.
    taken
        Names of columns that no axis may have.
    """
    if not isinstance(references, Mapping):
        raise LensTypeError(
            f"references are a mapping of names to RDMs or features, as in {{'IT': rdm}}, not "
            f"{type(references).__name__}"
        )
    comparison = comparison_of(options.comparison)
    options.resampling.check()
    check_finished(dataset, verb)
    if not references:
        raise LensValueError(f"{verb}: there are no references")
    memory = memory_of(options.memory)
    layered = repeated_executions(opened(dataset), layers)
    arrays = {op: array for op, (array, _) in layered.items()}
    check_axes(arrays, options.pool)
    ids = ids_of(dataset, "the Dataset")
    measure = Measure(comparison, options.metric, ids, options.resampling)
    axes = over_of(layered)
    prepared = []
    for name, value in references.items():
        given = reference(name, value, ids)
        for over in (axes, given.over):
            check_free(over, {*taken}, verb)
        prepared.append(measure.of_reference(name, given))
        _check_axes(axes, prepared[-1])
    done = counted([*arrays.items()], verb, "layers")
    found = [*_found(done, axes, prepared, measure, options.pool, memory)]
    measured = [one.measured for one in prepared if one.measured]
    dims = [*axes.dims, *(d for one in prepared for d in one.over.dims if d != one.measured)]
    return Matches(found, arrays, measure, [*dict.fromkeys(dims)], [*dict.fromkeys(measured)])


def made_by(options: Options, measure: Measure, resampled: str) -> dict[str, Any]:
    """What a reviewer asks of scores."""
    n = len(measure.ids)
    samples, confidence, seed = options.resampling
    return reported(
        *(["rsatoolbox"] if "subject" in resampled or "run" in resampled else []),
        comparison=measure.comparison, metric=options.metric, pool=pool_text(options.pool),
        n_stimuli=n, n_pairs=n * (n - 1) // 2, bootstrap=samples, confidence=confidence,
        seed=seed, resampled=resampled,
    )  # fmt: skip


def _check_axes(axes: Over, other: Prepared) -> None:
    of = f"reference {other.name!r}"
    for dim, found in other.over.labels.items():
        if dim == other.measured and dim in axes.dims:
            raise LensValueError(
                f"the layers and {of} both have {dim}, over which the reference is measured; "
                f"rename that of the layers, as in .rename({dim}='model_{dim}')"
            )
        if dim in axes.dims:
            check_same(dim, axes.labels[dim], found, "the layers", of)


def _found(
    arrays: Iterable[tuple[str, xr.DataArray]],
    axes: Over,
    references: Iterable[Prepared],
    measure: Measure,
    pool: Pool,
    memory: int,
) -> Iterator[Match]:
    for op, array in arrays:
        for own_place in axes.places(map(str, array.dims)):
            rows = patterns(at(array, own_place), pool, op, memory)
            own = measure.of_features(axes.said(repr(op), own_place), rows)
            others = [d for d in axes.dims if d not in own_place]
            for other in references:
                for found, group in _with(op, own, other, measure, own_place):
                    labels_there = other.over.named(group)
                    # where a layer has an axis less than others, its score is that of all places
                    for rest in axes.places(others):
                        if all(group.get(d, k) == k for d, k in rest.items()):
                            place = axes.named(own_place | rest) | labels_there
                            yield found._replace(place=place)


def _with(
    op: str, own: Any, other: Prepared, measure: Measure, at_layer: Place
) -> Iterator[tuple[Match, Place]]:
    for group, places in other.groups(at_layer):
        each = []
        for place in places:
            sampled = measure.sampled(own, other.parts[other.key(place)])
            failed = sampled.interval(measure.resampling.confidence).failed
            measure.note(op, other.over.said(repr(other.name), place), sampled.score, failed)
            label = {d: v for d, v in other.over.named(place).items() if d == other.measured}
            each.append((label, sampled))
        ceiling = other.ceiling(group)
        match = Match(op, {}, other.name, each, other.measured, ceiling)
        yield match, group

"""Centred kernel alignment: how alike two representations are, whatever their features."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensTypeError, LensValueError, shown, warn
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.labels import activations_of
from lensframe_pd.rsa.blockwise import products_of, rdm_of
from lensframe_pd.rsa.distances import Array, squared_distances
from lensframe_pd.rsa.features import patterns, repeated_executions, row_blocks
from lensframe_pd.rsa.ids import ids_of, positions
from lensframe_pd.rsa.pooling import Pool, check_axes
from lensframe_pd.rsa.repeated import at, check_free, coords_of, over_of
from lensframe_pd.rsa.reported import pool_text, reported
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, RowBlocks, is_chunked, memory_of, opened
from lensframe_pd.rsa.tiles import alignments
from lensframe_pd.schema import STIMULUS

_BYTES_KEPT = 2**31
"""Kernels held at a time; beyond, those of the inner loop are computed again."""


def cka(
    dataset: xr.Dataset,
    other: xr.Dataset | None = None,
    layers: Any = None,
    other_layers: Any = None,
    *,
    kernel: str = "linear",
    bandwidth: float = 1.0,
    debiased: bool = False,
    pool: Pool = None,
    memory: int | str = DEFAULT_MEMORY,
) -> xr.DataArray:
    """Centred kernel alignment of each layer with each, within a model or across two.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    other
        Those of another model for the same stimuli, joined by id. None: these themselves.
    layers, other_layers
        Labels, layers or module paths, or rows of `layers`; None: every variable with a stimulus
        axis and another (for `other_layers` without `other`: the same as `layers`).
    kernel
        `"linear"`, or `"rbf"`: exp(-d^2 / (2 sigma^2)).
    bandwidth
        sigma of the RBF kernel, as a fraction of the median distance between stimuli.
    debiased
        Use the unbiased estimator of HSIC: near 0 for unrelated representations even where
        features are many and stimuli few. It needs at least 4 stimuli.
    pool
        What to do with space, tokens or time first, as for `features`: `"mean"`,
        `{"token": "last"}`. Layers that lack an axis are taken as they are, if one layer has it.
    memory
        Of a store, as `xarray.open_zarr` or `lf.read` open it: bytes, or a text as "500 MB", that
        may be taken. Layers are read by pairs of blocks of stimuli, as often as by `rdm`. Kernels
        that have no room, stimulus x stimulus in float64 for every layer, are summed tile by tile:
        of N blocks, which are smaller as tiles take room, (N + 1) / 2 times, of more than 16 a
        little more. Or they come from the covariances of features, where these have room: then
        layers are read once, debiased twice, however many the stimuli. `"rbf"` kernels need room.

    Returns
    -------
    xarray.DataArray
        `(layer, layer_)`, float64: 1 for representations equal up to rotation and scale. After
        these come axes that no operation made, such as the `checkpoint` of several Datasets
        joined: one matrix at each of their places, where both sides are at the same.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name.
    LensTypeError
        `other` is no Dataset.
    LensValueError
        An unknown kernel, too few stimuli, datasets that are not about the same ids, an axis to
        pool that no layer has, axes of which it cannot be known whether they are features, or that
        both have and differ. A store that is not finished; too little memory.

    Warns
    -----
    LensWarning
        Naming layers that do not vary over stimuli or are not finite, with how many stimuli are
        not: their CKA is NaN, and none is left out.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Linear(9, 4).eval(), torch.eye(9)[:5])
    >>> activations.lens.cka(layers=["input_1", "linear_1"]).values.diagonal().round(12)
    array([1., 1.])

    References
    ----------
    Kornblith et al. (2019), Similarity of neural network representations revisited, ICML,
    arXiv:1905.00414; unbiased HSIC: Song et al. (2012), JMLR 13:1393, eq. 5.
    """
    other = activations_of(other)
    if other is not None and not isinstance(other, xr.Dataset):
        raise LensTypeError(
            f"cka: other= is the activations of another model, not a {type(other).__name__}; give "
            "names or rows as layers="
        )
    if kernel not in ("linear", "rbf"):
        raise LensValueError(f"no kernel {kernel!r}; there are 'linear' and 'rbf'")
    memory = memory_of(memory)
    for given in (dataset, other):
        if given is not None:
            check_finished(given, "cka")
    dataset, other = opened(dataset), None if other is None else opened(other)
    rows = columns = repeated_executions(dataset, layers)
    if other is not None or other_layers is not None:
        columns = repeated_executions(dataset if other is None else other, other_layers)
    both = {**rows, **{f"{name} (other)": found for name, found in columns.items()}}
    check_axes({name: array for name, (array, _) in both.items()}, pool)
    axes = over_of(both)
    check_free(axes, ("layer", "layer_", STIMULUS), "cka")
    order = None
    if other is not None:
        wanted, found = ids_of(dataset, "the first Dataset"), ids_of(other, "the other Dataset")
        order = positions(wanted, found, "the first Dataset", "the other Dataset")
    n = next(iter(rows.values()))[0].sizes[STIMULUS]
    if debiased and n < 4:
        raise LensValueError(f"debiased CKA needs at least 4 stimuli, not {n}")
    values, dead, missing = np.empty((len(rows), len(columns), *axes.shape)), [], []
    for place in axes.places():
        first = {name: at(array, place) for name, (array, _) in rows.items()}
        second = {name: at(array, place) for name, (array, _) in columns.items()}
        kernels = _Kernels(
            first, first if columns is rows else second, order, pool,
            (kernel, bandwidth, debiased), memory,
        )  # fmt: skip
        made = kernels.by_tiles() if kernels.need_tiles else kernels.whole()
        where: Any = (slice(None), slice(None), *place.values())
        values[where] = made
        dead += [axes.said(repr(name), place) for name in kernels.dead]
        missing += [axes.said(said, place) for said in kernels.missing]
    if dead:
        warn(
            "layers that do not vary over stimuli, or hold NaN or infinity, have no CKA (NaN): "
            + "\n".join([", ".join(dict.fromkeys(dead)), *dict.fromkeys(missing)])
        )
    coords: dict[Any, Any] = {
        "layer": np.array(list(rows), np.str_), "layer_": np.array(list(columns), np.str_)
    }  # fmt: skip
    coords |= coords_of([array for array, _ in both.values()], axes)
    attrs = reported(
        comparison="cka-debiased" if debiased else "cka", kernel=kernel, debiased=debiased,
        **({} if kernel == "linear" else {"bandwidth": bandwidth}),
        pool=pool_text(pool), n_stimuli=n,
    )  # fmt: skip
    return xr.DataArray(values, coords, ("layer", "layer_", *axes.dims), name="cka", attrs=attrs)


def alignment(first: Array, second: Array) -> float:
    """CKA of two kernels made by `centred` or `debias`: the cosine of the two matrices."""
    return float(np.vdot(first, second) / (np.linalg.norm(first) * np.linalg.norm(second)))


def not_finite(rows: Any, ids: pd.Index) -> pd.Index:
    """The ids of the rows that hold NaN or infinity."""
    parts = rows.blocks() if isinstance(rows, RowBlocks) else [(slice(None), rows)]
    whole = [np.isfinite(np.asarray(part, dtype=np.float64)).all(axis=1) for _, part in parts]
    return ids[np.flatnonzero(~np.concatenate(whole))]


def kernel_matrix(rows: Any, kernel: str = "linear", bandwidth: float = 1.0) -> Array:
    """The n x n kernel of the rows of a matrix; the linear one is centred."""
    if kernel == "linear":
        return products_of(rows)
    if isinstance(rows, RowBlocks):
        squared = rdm_of(rows, "sqeuclidean").values
    else:
        squared = np.empty((rows.shape[0],) * 2)
        squared_distances(rows, lambda columns: None, squared)
    median = np.median(squared[~np.tri(len(squared), dtype=bool)])
    squared *= -1 / (2 * bandwidth**2 * median)
    return np.asarray(np.exp(squared, out=squared))


def centred(kernel: Array) -> Array:
    """The kernel with the mean of each row and column taken off, in place."""
    mean = kernel.mean(axis=0)
    kernel -= mean
    kernel -= mean[:, None]
    kernel += mean.mean()
    return kernel


def debias(kernel: Array) -> Array:
    """The U-centred kernel, whose products give the unbiased HSIC; in place.

    Szekely & Rizzo (2014), Annals of Statistics 42:2382, eq. 2.4; equal to Song et al. (2012).
    """
    n = len(kernel)
    np.fill_diagonal(kernel, 0)
    mean = kernel.sum(axis=0) / (n - 2)
    total = mean.sum() / (n - 1)
    kernel -= mean
    kernel -= mean[:, None]
    kernel += total
    np.fill_diagonal(kernel, 0)
    return kernel


class _Kernels:
    """Kernels of layers, kept while there is room."""

    def __init__(
        self,
        rows: dict[str, xr.DataArray],
        columns: dict[str, xr.DataArray],
        order: Any,
        pool: Pool,
        kind: tuple[str, float, bool],
        memory: int,
    ) -> None:
        self.sides, self.pool = (rows, columns), pool
        self.kernel, self.bandwidth, self.debiased = kind
        n = next(iter(rows.values())).sizes[STIMULUS]
        self.order = None if order is None or (order == np.arange(n)).all() else order
        self.dead: list[str] = []
        self.missing: list[str] = []
        self.kept: dict[tuple[int, str], Array | None] = {}
        self.room = _BYTES_KEPT // (8 * n * n)
        layers = [*rows.values(), *(columns.values() if columns is not rows else ())]
        # with one that is worked on, and its copy
        needed = 8 * n * n * (len(layers) + 2)
        in_store = any([is_chunked(array) for array in layers])
        self.need_tiles = in_store and needed > memory / 2
        if in_store and not self.need_tiles:
            self.room, memory = len(layers), memory - needed
        self.memory = memory

    def whole(self) -> Array:
        """CKA of each layer with every layer of the other side."""
        rows = counted(self.sides[0], "cka", "layers")
        return np.array([self._alignments(row) for row in rows])

    def by_tiles(self) -> Array:
        """The same, of kernels of which there is never more than a tile.

        Raises
        ------
        LensValueError
            They are not linear.
        """
        if self.kernel != "linear":
            raise LensValueError(
                f"kernel={self.kernel!r} is scaled by the median of all distances between stimuli, "
                f"which have no room in memory={self.memory}; give more, fewer stimuli, or 'linear'"
            )
        n_sides = 1 if self.sides[0] is self.sides[1] else 2
        arrays = [
            (name, self._ordered(side, array))
            for side in range(n_sides)
            for name, array in self.sides[side].items()
        ]
        layers = [row_blocks(array, self.pool, name, self.memory) for name, array in arrays]
        first, second = range(len(self.sides[0])), range(len(layers))[-len(self.sides[1]) :]
        found, own = alignments(layers, [*product(first, second)], self.debiased)
        for (name, array), layer, norm in zip(arrays, layers, own, strict=True):
            if not 0 < norm < np.inf:
                self._say_dead(name, layer, array)
        return np.array(found).reshape(len(first), len(second))

    def _alignments(self, row: str) -> list[float]:
        first, side = self._of(0, row), int(self.sides[0] is not self.sides[1])
        seconds = (self._of(side, column) for column in self.sides[1])
        return [np.nan if first is None or b is None else alignment(first, b) for b in seconds]

    def _of(self, side: int, name: str) -> Array | None:
        key = (side, name)
        if key in self.kept:
            return self.kept[key]
        found = self._make(side, name)
        if len(self.kept) < self.room:
            self.kept[key] = found
        return found

    def _make(self, side: int, name: str) -> Array | None:
        array = self.sides[side][name]
        # of a store it is the kernel that is put in order: its rows lie together as they are
        late = self.order if side == 1 and is_chunked(array) else None
        ordered = self._ordered(side, array) if late is None else array
        rows = patterns(ordered, self.pool, name, self.memory)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = kernel_matrix(rows, self.kernel, self.bandwidth)
            found = debias(found) if self.debiased else centred(found)
            norm = np.linalg.norm(found)
        if not np.isfinite(norm) or norm == 0:
            self._say_dead(name, rows, array)
            return None
        return found if late is None else found[np.ix_(late, late)]

    def _ordered(self, side: int, array: xr.DataArray) -> xr.DataArray:
        """Those of the other Dataset in the order of the first."""
        if side == 0 or self.order is None:
            return array
        return array.isel({STIMULUS: self.order})

    def _say_dead(self, name: str, rows: Any, array: xr.DataArray) -> None:
        self.dead.append(name)
        ids = array.indexes.get(STIMULUS, pd.RangeIndex(rows.shape[0]))
        lost = not_finite(rows, ids)
        if len(lost):
            of = f"{len(lost)} of {len(ids)} stimuli have NaN or infinity"
            self.missing.append(f"{of} in {name!r}: {shown(lost, 5)}")

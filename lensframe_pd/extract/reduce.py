"""What becomes of a value on its way to the store: pooled, projected, padded, cast, in this order.

Pooling is `features`' own, projection scikit-learn's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from torch import Tensor

from lensframe_pd.errors import LensTypeError, LensValueError, needs, shown
from lensframe_pd.extract.cast import Array, Cast, fill_of
from lensframe_pd.rsa.features import flat
from lensframe_pd.rsa.joined import plain
from lensframe_pd.rsa.pooling import pooled
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.activations import to_numpy

Dims = tuple[str, ...]


class Given(NamedTuple):
    """What is known of a batch, for what depends on more than the value: a mask."""

    called_with: Any
    """What `args=` made of it, as `lf.trace` takes it."""
    arguments: Mapping[str, Any]
    """The arguments of the model, by parameter."""
    ids: Array


class Reduction(NamedTuple):
    """What becomes of the values of one variable."""

    op: str
    cast: Cast
    pool: Any = None
    matrix: Any = None
    """The projection, components x features, sparse; None for none."""
    ragged: Mapping[str, int] = {}
    """Axes, by their names without extent, that are padded, and to how many."""

    def __call__(self, value: Tensor, dims: Dims, batch: Given) -> Reduced:
        """The array to store, of a value and its dimensions as traced."""
        array = to_numpy(value)
        if self.pool is not None or self.matrix is not None:
            array, dims = self.smaller(array, dims, batch)
        lengths: dict[str, int] = {}
        if self.ragged and STIMULUS in dims:
            array, dims, lengths = self._padded(array, dims)
        array, infinite = self.cast(self.op, array)
        return Reduced(array, dims, lengths, infinite)

    def smaller(self, array: Array, dims: Dims, batch: Given) -> tuple[Array, Dims]:
        """The array pooled and projected, at least float32, and its dimensions."""
        coords = {STIMULUS: batch.ids} if STIMULUS in dims else {}
        whole = xr.DataArray(array, coords, dims, name=self.op)
        bare = plain(whole)
        names = {str(new): str(old) for new, old in zip(bare.dims, whole.dims, strict=True)}
        bare = pooled(bare, self._pool(bare, batch), self.op)
        if self.matrix is not None:
            rows = flat(bare, self.op).to_numpy()
            if rows.shape[1] != self.matrix.shape[1]:
                raise LensValueError(
                    f"{self.op!r} has {rows.shape[1]} features, and project was made for "
                    f"{self.matrix.shape[1]}"
                )
            found = np.asarray((self.matrix @ rows.T).T, dtype=rows.dtype)
            return found, (STIMULUS, f"feature_{found.shape[1]}")
        kept = [str(d) for d in bare.dims]
        sizes = dict(zip(kept, bare.shape, strict=True))
        return bare.to_numpy(), tuple([names.get(d, f"{d}_{sizes[d]}") for d in kept])

    def _pool(self, array: xr.DataArray, batch: Given) -> Any:
        """As `features` takes it: a mask that is an argument of the model, or made of them."""
        if not isinstance(self.pool, Mapping):
            return self.pool
        return {axis: self._how(axis, how, batch) for axis, how in self.pool.items()}

    def _how(self, axis: str, how: Any, batch: Given) -> Any:
        if callable(how) and not isinstance(how, xr.DataArray):
            how = how(batch.called_with)
        elif isinstance(how, str) and how in batch.arguments:
            how = batch.arguments[how]
        if isinstance(how, xr.DataArray) and STIMULUS in how.indexes:
            return self._of_batch(how, batch)
        if isinstance(how, Tensor):
            how = how.detach().cpu().numpy()
        if isinstance(how, (list, np.ndarray)):
            mask = np.asarray(how)
            if mask.ndim != 2:
                raise LensValueError(
                    f"the mask for {axis} of {self.op!r} must be stimulus x {axis}, not "
                    f"{mask.shape}"
                )
            if len(mask) != len(batch.ids):
                raise LensValueError(
                    f"the mask for {axis} of {self.op!r} has {len(mask)} stimuli, and the batch "
                    f"has {len(batch.ids)}"
                )
            return xr.DataArray(mask, {STIMULUS: batch.ids}, (STIMULUS, axis))
        return how

    def _of_batch(self, mask: xr.DataArray, batch: Given) -> xr.DataArray:
        """Of a mask of the whole set the stimuli of a batch."""
        places = mask.indexes[STIMULUS].get_indexer(batch.ids)
        if (places < 0).any():
            raise LensValueError(
                f"the mask for {self.op!r} has no stimuli {shown(batch.ids[places < 0])}"
            )
        return mask.isel({STIMULUS: places})

    def _padded(self, array: Array, dims: Dims) -> tuple[Array, Dims, dict[str, int]]:
        lengths: dict[str, int] = {}
        shape, found = list(array.shape), list(dims)
        for k, dim in enumerate(dims):
            name, extent = axis_of(dim), array.shape[k]
            most = self.ragged.get(name.rstrip("_"))
            if dim == STIMULUS or most is None:
                continue
            if extent > most:
                raise LensValueError(
                    f"{self.op!r} has {extent} along {name!r}, and ragged= says {most} at most; "
                    f"give ragged={{{name.rstrip('_')!r}: {extent}}}, or shorter stimuli"
                )
            if lengths.setdefault(name.rstrip("_"), extent) != extent:
                raise LensValueError(
                    f"{self.op!r} has two axes {name.rstrip('_')!r} of unlike extents, "
                    f"{', '.join(dims)}, which one coordinate cannot count; pool one of them"
                )
            shape[k], found[k] = most, renamed(dim, most)
        if tuple(shape) == array.shape:
            return array, tuple(found), lengths
        padded = np.full(shape, fill_of(array.dtype), array.dtype)
        padded[tuple([slice(n) for n in array.shape])] = array
        return padded, tuple(found), lengths


class Reduced(NamedTuple):
    """What is stored of a value."""

    array: Array
    dims: Dims
    lengths: Mapping[str, int]
    """How many there were along each axis that was padded."""
    infinite: Array | None
    """Where the cast made finite numbers infinite; None if nowhere."""


def axis_of(dim: str) -> str:
    """The name of a dimension without its extent: `token_` of `token_5_`."""
    bare = dim.rstrip("_")
    name, _, extent = bare.rpartition("_")
    return name + dim[len(bare) :] if name and extent.isdigit() else dim


def renamed(dim: str, extent: int) -> str:
    """A dimension with another extent: `token_9_` of `token_5_`."""
    name = axis_of(dim)
    bare = name.rstrip("_")
    return f"{bare}_{extent}{name[len(bare) :]}"


def projection(features: int, components: int, seed: int, dtype: np.dtype[Any]) -> Any:
    """scikit-learn's sparse random projection, as the matrix of it.

    Raises
    ------
    LensRuntimeError
        scikit-learn is not installed.
    """
    needs("sklearn", "random projections")
    from sklearn.random_projection import SparseRandomProjection

    made = SparseRandomProjection(n_components=components, random_state=seed)
    try:
        made.fit(np.zeros((1, features), dtype))
    except ValueError as error:
        raise LensValueError(f"project={components} of {features} features: {error}") from error
    return made.components_.tocsr()


def described(pool: Any) -> Any:
    """A pooling as JSON can say it, to be compared with that of another call."""
    if isinstance(pool, Mapping):
        return {str(axis): described(how) for axis, how in pool.items()}
    if isinstance(pool, xr.DataArray):
        from lensframe_pd.files.checksums import of_array

        return f"mask {dict(pool.sizes)} {of_array(pool.to_numpy())}"
    if isinstance(pool, np.generic):
        return pool.item()
    if callable(pool):
        try:
            return inspect.getsource(pool).strip()
        except (OSError, TypeError):
            return getattr(pool, "__qualname__", type(pool).__name__)
    if pool is None or isinstance(pool, (str, int, float, bool)):
        return pool
    raise LensTypeError(f"pool has {pool!r}, which is no way to pool")

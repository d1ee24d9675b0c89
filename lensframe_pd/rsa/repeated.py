"""Axes that measurements are repeated over, as `checkpoint` or `subject`: never features.

An axis is a feature if an operation made it. What else a layer is repeated over is kept beside the
result, one result at each of its places, or refused by name where that has no meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.schema import STIMULUS

_MADE = re.compile(r".+_(0|[1-9]\d*)_*")
"""An axis that an operation made, with its extent: `channel_64`, `token_5_`."""
_STIMULI = re.compile(rf"{STIMULUS}_*")
_AXES = re.compile(r"(batch|channel|feature|frame|head|part|time|token|x|y|z|dim\d+)_*")
"""Axes that operations make, without their extents, as `activations.lens[key]` gives them."""
REPEATED = frozenset(
    "checkpoint epoch layer model pass_num presentation repetition run seed session subject trial"
    " repeat fold".split()
)
"""What the same measurement is repeated over, whoever made the array."""


def repeated_dims(array: xr.DataArray, of: str) -> tuple[str, ...]:
    """The axes of an array that are no features and not the stimuli, in their order.

    Those that operations made are features. So is a single one of another name where no operation
    made any, as `voxel`; but never one that measurements are repeated over, as `subject`.

    Raises
    ------
    LensValueError
        It cannot be known of several which are features; naming them.
    """
    dims = [str(d) for d in array.dims if not _STIMULI.fullmatch(str(d))]
    certain = [d for d in dims if _MADE.fullmatch(d)]
    known = [d for d in dims if d in REPEATED]
    unknown = [d for d in dims if d not in (*certain, *known) and not _AXES.fullmatch(d)]
    if not certain and len(dims) - len(known) > 1 and unknown:
        raise LensValueError(not_features(of, array, unknown))
    repeated = {*known, *unknown} if certain else {*known}
    return tuple(d for d in dims if d in repeated)


def check_axes_are_features(array: xr.DataArray, of: str) -> None:
    """Raise where an array is repeated over an axis, for what has no place for it.

    Raises
    ------
    LensValueError
        Naming the axes, such as the one that `xr.concat` of several Datasets adds.
    """
    repeated = repeated_dims(array, of)
    if repeated:
        raise LensValueError(not_features(of, array, repeated))


def not_features(of: str, array: xr.DataArray, dims: Collection[str]) -> str:
    """What to say of axes that are not taken for features."""
    sizes = ", ".join(f"{d} ({array.sizes[d]})" for d in dims)
    first = next(iter(dims))
    return (
        f"{of} has {sizes}, which is not taken for features; take one at a time, as in "
        f".isel({first}=0), or average over it: .mean({first!r})"
    )


Repeated = tuple[xr.DataArray, tuple[str, ...]]
"""An array, and the axes it is repeated over."""
Place = dict[str, int]
"""Axis to the position on it."""


class Over(NamedTuple):
    """Axes that something is repeated over, with their labels; places are their combinations."""

    labels: dict[str, pd.Index]

    @property
    def dims(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Their extents."""
        return tuple(len(index) for index in self.labels.values())

    @property
    def size(self) -> int:
        """How many places there are: 1 where nothing is repeated."""
        return math.prod(self.shape)

    def places(self, dims: Iterable[str] | None = None) -> Iterator[Place]:
        """Every combination of positions, the last axis fastest; along some of the axes only."""
        wanted = {*(self.dims if dims is None else dims)}
        names = [d for d in self.dims if d in wanted]
        for positions in product(*(range(len(self.labels[d])) for d in names)):
            yield dict(zip(names, positions, strict=True))

    def named(self, place: Mapping[str, int]) -> dict[str, Any]:
        """The labels of a place."""
        return {d: _item(self.labels[d][k]) for d, k in place.items()}

    def said(self, of: str, place: Mapping[str, int]) -> str:
        """A name, with the place: `'relu_1' at checkpoint=3`."""
        where = ", ".join(f"{d}={label!r}" for d, label in self.named(place).items())
        return f"{of} at {where}" if where else of


def over_of(arrays: Mapping[str, Repeated]) -> Over:
    """The axes that any of the arrays is repeated over, each with its labels.

    Raises
    ------
    LensValueError
        Two have other labels, or another extent, on an axis of one name; naming both.
    """
    labels, whose = dict[str, pd.Index](), dict[str, str]()
    for name, (array, dims) in arrays.items():
        for dim in dims:
            found = labels_of(array, dim, name)
            check_same(dim, labels.setdefault(dim, found), found, whose.setdefault(dim, name), name)
    return Over(labels)


def coords_of(arrays: Iterable[xr.DataArray], over: Over) -> dict[Any, xr.Variable]:
    """The coordinates along these axes, for a result that has them too."""
    dims = [(dim,) for dim in over.dims]
    return {
        name: coord.variable
        for array in arrays
        for name, coord in array.coords.items()
        if coord.dims in dims
    }


def labels_of(array: xr.DataArray, dim: str, of: str) -> pd.Index:
    """The labels along an axis, or else its positions.

    Raises
    ------
    LensValueError
        A label comes twice, and would name two places; or there is no place.
    """
    found: pd.Index = array.indexes.get(dim, pd.RangeIndex(array.sizes[dim]))
    if not len(found):
        raise LensValueError(f"{of} is empty: {dim} has extent 0")
    if not found.is_unique:
        twice = shown(found[found.duplicated()].unique())
        raise LensValueError(f"{dim} of {of} has labels more than once: {twice}")
    return found


def check_same(dim: str, first: pd.Index, second: pd.Index, of_first: str, of_second: str) -> None:
    """Raise unless two have one axis, with the same labels in the same order."""
    if not first.equals(second):
        raise LensValueError(
            f"{of_first} and {of_second} both have {dim}, and not the same on it: "
            f"{shown(first, 4)} and {shown(second, 4)}; select what both have, or rename one, as "
            f"in .rename({dim}='{dim}_')"
        )


def at(array: xr.DataArray, place: Mapping[str, int]) -> xr.DataArray:
    """An array at a place, along those of its axes that the place is about."""
    return array.isel({d: k for d, k in place.items() if d in array.dims}, drop=True)


def check_free(over: Over, taken: Collection[str], verb: str) -> None:
    """Raise where an axis has the name of something else in the result."""
    wrong = [d for d in over.dims if d in taken]
    if wrong:
        raise LensValueError(
            f"{verb}: the axis {shown(wrong)} has the name of something else in the result; "
            f"rename it, as in .rename({wrong[0]}='{wrong[0]}_2')"
        )


def _item(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label

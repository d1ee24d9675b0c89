"""A Dataset of variables that are already what they should be."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lensframe_pd.errors import LensValueError


def variable_of(
    dims: tuple[str, ...], array: np.ndarray[Any, Any], attrs: dict[str, Any]
) -> xr.Variable:
    """What `xr.Variable` makes of these, which are known to fit: once per operation."""
    made: Any = object.__new__(xr.Variable)
    made._dims, made._data, made._attrs, made._encoding = dims, array, attrs, None
    return made  # type: ignore[no-any-return]


def assembled(
    variables: Mapping[Any, xr.Variable],
    coords: Mapping[Hashable, Any],
    attrs: Mapping[Any, Any],
) -> xr.Dataset:
    """The Dataset of these data variables and coordinates.

    As `xarray.Dataset(variables, coords, attrs)`, which compares each variable with the others.

    Raises
    ------
    LensValueError
        A dimension has two sizes.
    """
    base = xr.Dataset(coords=coords)
    sizes: dict[Hashable, int] = dict(base.sizes)
    distinct = {(v.dims, v.shape): name for name, v in variables.items()}  # few of thousands
    for (dims, shape), name in distinct.items():
        for dim, n in zip(dims, shape, strict=True):
            if sizes.setdefault(dim, n) != n:
                raise LensValueError(f"{name!r} has {n} along {dim!r}, other arrays {sizes[dim]}")
    everything = {**variables, **base.variables}
    return xr.Dataset._construct_direct(
        everything, set(base.coords), sizes, dict(attrs), dict(base.xindexes)
    )

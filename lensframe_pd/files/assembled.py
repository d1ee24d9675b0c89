"""A Dataset of variables that are already what they should be."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import xarray as xr

from lensframe_pd.errors import LensValueError


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
    for name, variable in variables.items():
        for dim, n in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, n) != n:
                raise LensValueError(f"{name!r} has {n} along {dim!r}, other arrays {sizes[dim]}")
    everything = {**variables, **base.variables}
    return xr.Dataset._construct_direct(
        everything, set(base.coords), sizes, dict(attrs), dict(base.xindexes)
    )

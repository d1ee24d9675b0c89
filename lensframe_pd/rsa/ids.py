"""Joining by stimulus ids: exactly, in any order, never by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.schema import STIMULUS


def ids_of(array: xr.DataArray | xr.Dataset, what: str) -> pd.Index:
    """The ids along `stimulus`.

    Raises
    ------
    LensValueError
        There are none: two tables without ids cannot be joined.
    """
    if STIMULUS not in array.indexes:
        raise LensValueError(
            f"{what} has no stimulus ids, and tables are never joined by position; give them to "
            "lf.trace(..., stimulus=ids), or with .assign_coords(stimulus=ids)"
        )
    ids: pd.Index = array.indexes[STIMULUS]
    return ids


def positions(wanted: pd.Index, found: pd.Index, of_wanted: str, of_found: str) -> Any:
    """Where each of the ids `wanted` is among `found`; both must have the same ids, each once.

    Parameters
    ----------
    wanted, found
        Ids, in any order.
    of_wanted, of_found
        What has them, for the message.

    Returns
    -------
    numpy.ndarray
        Integers: `found[result]` equals `wanted`.

    Raises
    ------
    LensValueError
        An id is in one of them only, or twice, or is missing.

    Examples
    --------
    >>> positions(pd.Index(["a", "b"]), pd.Index(["b", "a"]), "the RDM", "the model")
    array([1, 0])
    """
    for index, of in ((wanted, of_wanted), (found, of_found)):
        if index.hasnans:
            n = int(np.count_nonzero(index.isna()))
            raise LensValueError(f"{of} has ids that are missing, {n} of them")
        if not index.is_unique:
            twice = index[index.duplicated()].unique()
            raise LensValueError(f"{of} has ids more than once: {shown(twice)}")
    only_wanted, only_found = wanted.difference(found), found.difference(wanted)
    if len(only_wanted) or len(only_found):
        lines = [f"{of_wanted} and {of_found} are not about the same stimuli"]
        if len(only_wanted):
            lines.append(f"only in {of_wanted}: {shown(only_wanted)}")
        if len(only_found):
            lines.append(f"only in {of_found}: {shown(only_found)}")
        if len(only_wanted) == len(wanted):
            lines.append("none is in both: are they written alike, and of one type?")
        else:
            lines.append("select the ids that both have, e.g. .sel(stimulus=ids) or .loc[ids]")
        raise LensValueError("\n".join(lines))
    return np.asarray(found.get_indexer(wanted))

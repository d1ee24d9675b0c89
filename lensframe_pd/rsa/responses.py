"""What encoding models predict: responses by id, a row for each stimulus or trial."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.references import real_numbers
from lensframe_pd.rsa.repeated import not_features, repeated_dims
from lensframe_pd.schema import STIMULUS

_OF = "the responses"
TRIALS = ("presentation", "repeat", "repetition", "run", "session", "trial")
"""What tells apart trials of one stimulus. Along other axes are other targets: `subject`, `roi`."""


class Responses(NamedTuple):
    """Rows sorted by id, so that the order in which they were given changes nothing."""

    values: Array
    """Row x target."""
    targets: pd.Index
    ids: pd.Index
    """Those there are, sorted, each once."""
    rows: NDArray[np.intp]
    """Which of these ids each row is about."""
    given: NDArray[np.intp]
    """Where each row was among those given."""
    labels: Mapping[Hashable, Any]
    """What else is known of each row: the levels of an index, or coordinates; as given."""


def responses_of(given: Any) -> Responses:
    """A table of responses in the order of its ids.

    Parameters
    ----------
    given
        A DataFrame or Series indexed by id; or a DataArray with ids along `stimulus`. An id may
        come more than once: those are trials, which axes, or further levels of an index, may tell
        apart, as `trial` or `run`.

    Raises
    ------
    LensTypeError
        It is nothing of the kind, or holds no real numbers.
    LensValueError
        No rows or no targets; ids that are missing; a target twice; an axis that is no feature,
        such as `subject`.
    """
    if isinstance(given, pd.Series):
        given = given.to_frame()
    if isinstance(given, pd.DataFrame):
        index, targets, values, labels = _of_frame(given)
    elif isinstance(given, xr.DataArray):
        index, targets, values, labels = _of_array(given)
    else:
        raise LensTypeError(
            f"{_OF} are a DataFrame indexed by id, or a DataArray with ids along {STIMULUS}; not "
            f"{type(given).__name__}: give pd.DataFrame(values, index=ids)"
        )
    return _sorted(index, targets, real_numbers(_OF, values), labels)


def _sorted(
    index: pd.Index, targets: pd.Index, values: Array, labels: Mapping[Hashable, Any]
) -> Responses:
    if index.hasnans:
        raise LensValueError(
            f"{_OF} have ids that are missing, {np.count_nonzero(index.isna())} of them"
        )
    if not values.size:
        raise LensValueError(f"{_OF} have {len(index)} rows and {len(targets)} targets: nothing")
    if not targets.is_unique:
        twice = targets[targets.duplicated()].unique()
        raise LensValueError(f"{_OF} have targets more than once: {shown(twice)}")
    try:
        ids = index.unique().sort_values()
    except TypeError as error:
        raise LensTypeError(f"the ids of {_OF} are of several kinds: {error}") from None
    rows = ids.get_indexer(index)
    order = np.argsort(rows, kind="stable")
    return Responses(values[order], targets, ids, rows[order], order, labels)


_Parts = tuple[pd.Index, pd.Index, Any, dict[Hashable, Any]]
"""Ids, targets, values (row x target) and what else is known of the rows."""


def _of_frame(frame: pd.DataFrame) -> _Parts:
    index = frame.index
    if not isinstance(index, pd.MultiIndex):
        return index, frame.columns, frame.to_numpy(), {}
    if STIMULUS not in index.names:
        raise LensValueError(
            f"{_OF} have an index of the levels {shown(index.names)}, and none is {STIMULUS!r}; "
            f"name the one that has the ids, as in .rename_axis([{STIMULUS!r}, 'run'])"
        )
    others = [name for name in index.names if name not in (STIMULUS, *TRIALS)]
    if others:
        raise LensValueError(
            f"{_OF} have a level {shown(others)} in their index, and rows of one stimulus are its "
            f"trials, which {shown(TRIALS)} tell apart; make it targets, as in "
            f".unstack({others[0]!r}), or select one"
        )
    labels = {name: index.get_level_values(k) for k, name in enumerate(index.names)}
    return labels.pop(STIMULUS), frame.columns, frame.to_numpy(), labels


def _of_array(array: xr.DataArray) -> _Parts:
    if STIMULUS not in array.dims or STIMULUS not in array.indexes:
        raise LensValueError(
            f"{_OF} have no ids along {STIMULUS}, and tables are never joined by position; give "
            f"them with .assign_coords({STIMULUS}=ids)"
        )
    repeated = repeated_dims(array, _OF)
    if others := [dim for dim in repeated if dim not in TRIALS]:
        raise LensValueError(not_features(_OF, array, others))
    of_rows = [STIMULUS, *repeated]
    of_targets = [dim for dim in array.dims if dim not in of_rows]
    values = array.transpose(*of_rows, *of_targets).to_numpy()
    shape = values.shape[: len(of_rows)]
    places = dict(zip(of_rows, (at.ravel() for at in np.indices(shape)), strict=True))
    labels = {
        name: coord.values[places[str(coord.dims[0])]]
        for name, coord in array.coords.items()
        if len(coord.dims) == 1 and coord.dims[0] in places
    }
    ids = array.indexes[STIMULUS].take(places[STIMULUS])
    labels.pop(STIMULUS)
    return ids, _targets(array, of_targets), values.reshape(len(ids), -1), labels


def _targets(array: xr.DataArray, dims: list[Any]) -> pd.Index:
    if not dims:
        return pd.Index([0 if array.name is None else array.name])
    if len(dims) == 1:
        return array.get_index(dims[0])
    return pd.MultiIndex.from_product([array.get_index(d) for d in dims], names=dims)

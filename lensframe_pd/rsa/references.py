"""What layers are scored against: an RDM, or features of the same stimuli; by id, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.labels import activations_of
from lensframe_pd.rsa.distances import Array
from lensframe_pd.rsa.features import patterns
from lensframe_pd.rsa.ids import ids_of, positions
from lensframe_pd.rsa.rdm import SECOND
from lensframe_pd.rsa.repeated import Over, at, labels_of, not_features, repeated_dims
from lensframe_pd.schema import STIMULUS

MEASURED = ("subject", "run")
"""What the same stimuli were measured over: scores along it share a noise ceiling."""
_ROUNDED = 1e-5
"""Of the largest dissimilarity: what an RDM may differ from its transpose, once stored as text."""
_ALONE = Over({})


class Reference(NamedTuple):
    """Square matrices of dissimilarities, or rows of features, at each place it is repeated at."""

    values: Array
    """`(..., stimulus, stimulus_)` or `(..., stimulus, feature)`, the axes of `over` first."""
    is_rdm: bool
    over: Over = _ALONE


def reference(name: str, value: Any, ids: pd.Index) -> Reference:
    """One reference in the order of `ids`.

    Parameters
    ----------
    name
        Its name, for the message.
    value
        A DataFrame indexed by id or a DataArray with ids along `stimulus`. It is an RDM if its
        columns, or `stimulus_`, are the same ids, and it is symmetric and zero on the diagonal;
        a DataFrame whose columns have no names of their own (0, 1, 2 ...) may be features. It may
        be repeated over further axes, or levels of the index beside `stimulus`.

    Returns
    -------
    Reference
        Values in float64.

    Raises
    ------
    LensTypeError
        It is neither a DataFrame nor a DataArray, or holds no real numbers.
    LensValueError
        It is about other stimuli; named as an RDM, and none: a similarity, or not symmetric; or
        it has axes of which it cannot be known whether they are features.
    """
    of = f"reference {name!r}"
    if isinstance(value, pd.DataFrame):
        if isinstance(value.index, pd.MultiIndex):
            return _from_levels(of, value, ids)
        return _from_frame(of, value, ids)
    if isinstance(value, xr.DataArray):
        return _from_array(of, value, ids)
    if isinstance(value := activations_of(value), xr.Dataset):
        raise LensTypeError(
            f"{of} is a DataFrame or DataArray with ids, not Dataset: give one layer of another "
            "model, as other.activations.lens.features(name), or its RDM; .cka takes all of them"
        )
    raise LensTypeError(
        f"{of} is a DataFrame or DataArray with ids, not {type(value).__name__}: nothing is joined "
        "by position; give pd.DataFrame(values, index=ids), and columns=ids too if it is an RDM"
    )


def _from_frame(of: str, frame: pd.DataFrame, ids: pd.Index) -> Reference:
    order = positions(ids, frame.index, "the Dataset", of)
    named_as_rdm = len(frame) == frame.shape[1] and {*frame.index} == {*frame.columns}
    if not named_as_rdm:
        return Reference(real_numbers(of, frame.to_numpy())[order], is_rdm=False)
    values = real_numbers(of, frame.loc[:, frame.index].to_numpy())
    wrong = [*_not_of_an_rdm(values)]
    unnamed = list(frame.columns) == [*range(frame.shape[1])]
    if unnamed and {*wrong} == {_ASYMMETRIC, _DIAGONAL}:
        return Reference(real_numbers(of, frame.to_numpy())[order], is_rdm=False)
    _check_rdm(of, wrong)
    return Reference(values[np.ix_(order, order)], is_rdm=True)


def _from_levels(of: str, frame: pd.DataFrame, ids: pd.Index) -> Reference:
    """Of a table with rows of several subjects or runs, which levels of its index tell apart."""
    names = list(frame.index.names)
    if STIMULUS not in names or None in names:
        raise LensValueError(
            f"{of} has an index of the levels {shown(names)}; name them, one of them {STIMULUS!r}, "
            "as in .rename_axis(['subject', 'stimulus'])"
        )
    others = [name for name in names if name != STIMULUS]
    over = Over({str(name): frame.index.unique(name) for name in others})
    one = len(others) == 1  # of a list of one, pandas 2 gives the key alone and pandas 3 a tuple
    groups = frame.groupby(level=others[0] if one else others, sort=False, observed=True)
    rows = {(key,) if one else key: part for key, part in groups}
    found = []
    for place in over.places():
        labels = tuple(over.labels[d][k] for d, k in place.items())
        if labels not in rows:
            raise LensValueError(f"{over.said(of, place)} has no rows, and other places have")
        found.append(_from_frame(over.said(of, place), rows[labels].droplevel(others), ids))
    return _stacked(of, found, over)


def _from_array(of: str, array: xr.DataArray, ids: pd.Index) -> Reference:
    is_rdm = {STIMULUS, SECOND} <= {*array.dims}
    if is_rdm:
        dims = tuple(str(d) for d in array.dims if d not in (STIMULUS, SECOND))
        single = [d for d in dims if array.sizes[d] == 1 and d not in MEASURED]
        array = array.squeeze(single, drop=True)  # as of an RDM of one layer
        dims = tuple(d for d in dims if d not in single)
    else:
        dims = repeated_dims(array, of)
        if dims and array.ndim == 1 + len(dims):
            raise LensValueError(not_features(of, array, dims))
    over = Over({d: labels_of(array, d, of) for d in dims})
    one = _rdm_at if is_rdm else _features_at
    return _stacked(
        of, [one(over.said(of, place), at(array, place), ids) for place in over.places()], over
    )


def _features_at(of: str, array: xr.DataArray, ids: pd.Index) -> Reference:
    order = positions(ids, ids_of(array, of), "the Dataset", of)
    return Reference(real_numbers(of, patterns(array, None, of))[order], is_rdm=False)


def _rdm_at(of: str, array: xr.DataArray, ids: pd.Index) -> Reference:
    square = array.transpose(STIMULUS, SECOND)
    found = ids_of(square, of)
    if SECOND not in square.indexes:
        raise LensValueError(
            f"{of} has ids along {STIMULUS} and none along {SECOND}: an RDM is named on both "
            f"sides; give them with .assign_coords({SECOND}=ids)"
        )
    second = positions(found, square.indexes[SECOND], of, f"{SECOND} of {of}")
    values = real_numbers(of, square.to_numpy())[:, second]
    _check_rdm(of, [*_not_of_an_rdm(values)])
    order = positions(ids, found, "the Dataset", of)
    return Reference(values[np.ix_(order, order)], is_rdm=True)


def _stacked(of: str, parts: list[Reference], over: Over) -> Reference:
    if len({part.is_rdm for part in parts}) > 1:
        raise LensValueError(f"{of} is an RDM at some places and features at others")
    values = np.stack([part.values for part in parts])
    return Reference(values.reshape(*over.shape, *values.shape[1:]), parts[0].is_rdm, over)


def real_numbers(of: str, values: Any) -> Array:
    """Values in float64.

    Raises
    ------
    LensTypeError
        They are no real numbers.
    """
    try:
        if (kind := np.asarray(values).dtype.kind) in "cmM":
            raise TypeError("complex numbers" if kind == "c" else "times")
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LensTypeError(f"{of} holds other things than real numbers: {error}") from None


_ASYMMETRIC = "it is not symmetric (of an RDM stored as a triangle, add the transpose)"
_DIAGONAL = "its diagonal is not 0, as of a similarity (give the dissimilarity, such as 1 - r)"


def _not_of_an_rdm(values: Array) -> Iterator[str]:
    """What keeps a square matrix from being an RDM; what is missing is missing on both sides."""
    known = np.abs(values[np.isfinite(values)])
    slack = _ROUNDED * known.max(initial=0)
    if not np.allclose(values, values.T, rtol=0, atol=slack, equal_nan=True):
        yield _ASYMMETRIC
    diagonal = values.diagonal()
    if (np.abs(diagonal[~np.isnan(diagonal)]) > slack).any():
        yield _DIAGONAL


def _check_rdm(of: str, wrong: list[str]) -> None:
    if wrong:
        raise LensValueError(
            f"{of} has the same ids on both sides and is no RDM: {'; '.join(wrong)}. Of features, "
            "name the columns otherwise than the stimuli"
        )

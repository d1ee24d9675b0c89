"""Which stimuli an encoding model is fitted to and which it is tested on, by id and by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.rsa.responses import Responses
from lensframe_pd.schema import STIMULUS

Rows = NDArray[np.intp]
_FEWEST = 2
"""Rows that a score needs."""


class Fold(NamedTuple):
    """Rows to fit and to test, and splits of those to fit, by which alpha is chosen."""

    train: Rows
    test: Rows
    inner: list[tuple[Rows, Rows]]


def folds_of(groups: Rows, n_folds: int, seed: int | None) -> list[Fold]:
    """Folds that leave groups whole, the inner ones too.

    Parameters
    ----------
    groups
        The number of the group of each row.
    n_folds
        How many; the inner ones are as many, or as there are groups.
    seed
        Of the order in which groups are dealt out.

    Raises
    ------
    LensValueError
        Fewer groups than folds, or a fold of a single row.
    """
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < max(n_folds, 3):
        raise LensValueError(
            f"{n_folds} folds of {n_groups} groups: each fold needs a group of its own, and two "
            "more are needed to choose alpha; give fewer folds, or groups that are smaller"
        )
    outer = GroupKFold(n_folds, shuffle=True, random_state=seed)
    found = []
    for train, test in outer.split(groups, groups=groups):
        if len(test) < _FEWEST:
            raise LensValueError(
                f"with folds={n_folds} of {len(groups)} rows in {n_groups} groups, a fold has one "
                "row only, of which there is no score; give fewer folds"
            )
        # himalaya takes no groups, but splits
        own = groups[train]
        inner = GroupKFold(min(n_folds, len(np.unique(own))))
        found.append(Fold(train, test, list(inner.split(own, groups=own))))
    return found


def groups_of(groups: Any, dataset: xr.Dataset, responses: Responses) -> Rows:
    """The number of the group of each row: what is known of it says so, and always its id.

    Parameters
    ----------
    groups
        As for `encode`.

    Raises
    ------
    LensTypeError
        It is nothing of the kind.
    LensValueError
        Not each row has a group, or nothing has such a name.
    """
    by_id = responses.rows
    if groups is None:
        return by_id
    labels = pd.Index(_labels(groups, dataset, responses))
    if labels.hasnans:
        lost = responses.ids[by_id[labels.isna()]].unique()
        raise LensValueError(f"no group, or one that is missing, of the ids {shown(lost)}")
    return _joined(by_id, pd.factorize(labels)[0])


def _labels(groups: Any, dataset: xr.Dataset, responses: Responses) -> Any:
    """The group of each row of the sorted responses; missing where there is none."""
    ids = responses.ids[responses.rows]
    if isinstance(groups, str):
        return _named(groups, dataset, responses, ids)
    if isinstance(groups, Mapping):
        groups = pd.Series(groups)
    if isinstance(groups, xr.DataArray) and groups.dims == (STIMULUS,):
        groups = groups.to_series()
    if isinstance(groups, pd.Series):
        if groups.index.is_unique:
            return groups.reindex(ids).array
        per_id = groups.groupby(level=0, observed=True).nunique(dropna=False)
        several = per_id.index[per_id > 1]
        if len(several):
            raise LensValueError(f"groups= has several groups of the ids {shown(several)}")
        return groups[~groups.index.duplicated()].reindex(ids).array
    if isinstance(groups, (list, tuple, np.ndarray, pd.Index, pd.api.extensions.ExtensionArray)):
        shape = np.shape(groups)
        if shape != (len(ids),):
            raise LensValueError(
                f"groups= has shape {shape}; without ids it is one group for each of "
                f"the {len(ids)} rows of the responses. By id it is a Series or a dict"
            )
        return pd.Index(groups)[responses.given]
    raise LensTypeError(
        "groups= is the name of a coordinate, a Series or dict from id to group, or one group for "
        f"each row of the responses; not {type(groups).__name__}"
    )


def _named(name: str, dataset: xr.Dataset, responses: Responses, ids: pd.Index) -> Any:
    if name in responses.labels:
        return pd.Index(responses.labels[name])[responses.given]
    table = {k: c for k, c in dataset.coords.items() if c.dims == (STIMULUS,) and k != STIMULUS}
    if name not in table:
        known = shown([*table, *responses.labels]) or "none"
        raise LensValueError(
            f"no coordinate {name!r} along {STIMULUS} to group by; there are: {known}"
        )
    return pd.Series(table[name].values, table[name].indexes[STIMULUS]).reindex(ids).array


def _joined(by_id: Rows, by_group: Rows) -> Rows:
    """Groups that leave both whole: those that share an id are one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_ids = by_id.max() + 1
    size = n_ids + by_group.max() + 1
    tied = coo_array((np.ones(len(by_id)), (by_id, n_ids + by_group)), shape=(size, size))
    _, component = connected_components(tied, directed=False)
    numbers: Rows = pd.factorize(component[by_id])[0]
    return numbers

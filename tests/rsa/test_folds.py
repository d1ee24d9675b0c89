"""Which rows are fitted and which are tested."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lensframe_pd.errors import LensValueError
from lensframe_pd.rsa.folds import folds_of, groups_of
from lensframe_pd.rsa.responses import responses_of

IDS = ["d", "a", "c", "b", "c", "a"]  # two trials of a and c
SORTED = ["a", "a", "b", "c", "c", "d"]
KIND = {"a": "x", "b": "y", "c": "x", "d": "z"}
DATA = xr.Dataset(coords={"stimulus": list("dcba"), "kind": ("stimulus", list("zxyx"))})


def table():
    return responses_of(pd.DataFrame({"t": np.arange(6.0)}, IDS))


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (None, [0, 0, 1, 2, 2, 3]),
        ("kind", [0, 0, 1, 0, 0, 2]),
        (KIND, [0, 0, 1, 0, 0, 2]),
        (pd.Series(KIND), [0, 0, 1, 0, 0, 2]),
        (pd.Series(KIND | {"e": "q"}), [0, 0, 1, 0, 0, 2]),  # more than there are responses
        (xr.DataArray(list("zyxx"), {"stimulus": list("dbca")}, "stimulus"), [0, 0, 1, 0, 0, 2]),
        (pd.Series(list("zxxyxx"), IDS), [0, 0, 1, 0, 0, 2]),  # a row each, alike for an id
        (list("zxxyxx"), [0, 0, 1, 0, 0, 2]),
        (np.array(list("zxxyxx")), [0, 0, 1, 0, 0, 2]),
        (pd.Categorical(list("zxxyxx")), [0, 0, 1, 0, 0, 2]),
        (range(6), None),
        # rows of one id in two groups: these are one, with all their ids
        ([1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 2, 3]),
        ([1, 2, 3, 4, 1, 6], [0, 0, 1, 2, 2, 2]),
        ([1, 2, 2, 3, 4, 5], [0, 0, 1, 0, 0, 2]),
    ],
)
def test_groups_leave_ids_whole(groups, expected):
    if isinstance(groups, range):
        groups, expected = [*groups], [0, 0, 1, 2, 2, 3]
    assert groups_of(groups, DATA, table()).tolist() == expected


def test_groups_by_a_label_of_the_rows():
    index = pd.MultiIndex.from_arrays([[1, 2, 1, 2, 1, 2], IDS], names=["run", "stimulus"])
    given = responses_of(pd.DataFrame({"t": np.arange(6.0)}, index))
    assert groups_of("run", DATA, given).tolist() == [0, 0, 0, 1, 1, 1]
    array = xr.DataArray(
        np.ones((6, 1)), {"stimulus": IDS, "kind": ("stimulus", list("abcdef"))},
        ("stimulus", "voxel"),
    )  # fmt: skip
    assert groups_of("kind", DATA, responses_of(array)).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (pd.Series([1, 2], ["a", "b"]), "the ids 'c', 'd'"),
        (pd.Series([1.0, 2, 3, np.nan], list("abcd")), "the ids 'd'"),
        ([1, 2, 3, None, 4, 5], "the ids 'b'"),
        (pd.Series([1, 2, 1, 1, 1, 1], ["a", "a", "b", "c", "d", "d"]), "several groups.*'a'"),
        (np.ones((6, 2)), r"shape \(6, 2\)"),
    ],
)
def test_groups_that_are_none(groups, message):
    with pytest.raises(LensValueError, match=message):
        groups_of(groups, DATA, table())


@pytest.mark.parametrize("n_folds", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_and_inner_folds_leave_groups_whole(n_folds, seed):
    groups = np.repeat(np.arange(12), [1, 2, 3] * 4)
    folds = folds_of(groups, n_folds, seed)
    assert sorted(np.concatenate([f.test for f in folds])) == [*range(len(groups))]
    for fold in folds:
        assert not {*groups[fold.train]} & {*groups[fold.test]}
        assert len(fold.train) + len(fold.test) == len(groups)
        own = groups[fold.train]
        assert len(fold.inner) == n_folds
        for train, test in fold.inner:
            assert not {*own[train]} & {*own[test]}


def test_inner_folds_are_no_more_than_their_groups():
    folds = folds_of(np.repeat(np.arange(4), 3), 4, 0)
    assert [len(fold.inner) for fold in folds] == [3] * 4


@pytest.mark.parametrize(("n_groups", "n_folds"), [(1, 2), (2, 2), (4, 5)])
def test_too_few_groups(n_groups, n_folds):
    with pytest.raises(LensValueError, match=f"{n_folds} folds of {n_groups} groups"):
        folds_of(np.repeat(np.arange(n_groups), 4), n_folds, 0)

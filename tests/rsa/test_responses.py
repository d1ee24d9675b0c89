"""Tables of responses, by id."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.rsa.responses import responses_of

VALUES = np.array([[3.0, 30], [1, 10], [2, 20], [1.5, 15]])
IDS = ["c", "a", "b", "a"]
SORTED = [[1.0, 10], [1.5, 15], [2, 20], [3, 30]]


def frame(**changes):
    return pd.DataFrame(VALUES, **{"index": IDS, "columns": ["V1", "V4"]} | changes)


def array(dims=("stimulus", "voxel"), values=VALUES, **coords):
    return xr.DataArray(values, {"stimulus": IDS} | coords, dims)


@pytest.mark.parametrize(
    ("given", "targets"),
    [
        (frame(), ["V1", "V4"]),
        (frame().astype("float32"), ["V1", "V4"]),
        (frame(index=pd.CategoricalIndex(IDS)), ["V1", "V4"]),
        (
            frame(index=pd.MultiIndex.from_arrays([IDS, range(4)], names=["stimulus", "trial"])),
            ["V1", "V4"],
        ),
        (array(), [0, 1]),
        (array(voxel=["x", "y"]), ["x", "y"]),
        (array(("voxel", "stimulus"), VALUES.T), [0, 1]),
        (array(("stimulus", "y_1", "x_2"), VALUES[:, None]), [(0, 0), (0, 1)]),
    ],
)
def test_rows_are_sorted_by_id(given, targets):
    found = responses_of(given)
    assert found.values.tolist() == SORTED
    assert found.values.dtype == np.float64
    assert [*found.targets] == targets
    assert [*found.ids] == ["a", "b", "c"]
    assert found.rows.tolist() == [0, 0, 1, 2]
    assert found.given.tolist() == [1, 3, 2, 0]


def test_trials_along_an_axis_are_rows():
    values = np.arange(12.0).reshape(2, 3, 2)
    coords = {"stimulus": ["b", "a"], "trial": [7, 8, 9], "kind": ("stimulus", ["y", "x"])}
    found = responses_of(xr.DataArray(values, coords, ("stimulus", "trial", "voxel")))
    assert found.values.tolist() == [[6, 7], [8, 9], [10, 11], [0, 1], [2, 3], [4, 5]]
    assert found.rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.labels["trial"][found.given].tolist() == [7, 8, 9] * 2
    assert found.labels["kind"][found.given].tolist() == list("xxxyyy")


@pytest.mark.parametrize("named", [None, "V1"])
def test_one_target(named):
    series = pd.Series(VALUES[:, 0], IDS, name=named)
    of_array = xr.DataArray(VALUES[:, 0], {"stimulus": IDS}, "stimulus", name=named)
    for given in (series, of_array):
        found = responses_of(given)
        assert found.values.tolist() == [[row[0]] for row in SORTED]
        assert [*found.targets] == [0 if named is None else named]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (VALUES, LensTypeError, "not ndarray"),
        ({"V1": [1, 2]}, LensTypeError, "not dict"),
        (frame().astype(object).replace(3.0, "three"), LensTypeError, "real numbers"),
        (frame() * 1j, LensTypeError, "real numbers"),
        (frame().astype("datetime64[ns]"), LensTypeError, "real numbers: times"),
        (frame().astype("timedelta64[ns]"), LensTypeError, "real numbers: times"),
        (frame(index=["a", "b", None, "c"]), LensValueError, "missing, 1 of them"),
        (frame(index=["a", 1, "b", 2]), LensTypeError, "several kinds"),
        (frame(columns=["V1", "V1"]), LensValueError, "more than once: 'V1'"),
        (frame().iloc[:0], LensValueError, "0 rows"),
        (frame()[[]], LensValueError, "0 targets"),
        (
            frame(index=pd.MultiIndex.from_arrays([IDS, range(4)], names=["image", "trial"])),
            LensValueError, "none is 'stimulus'",
        ),
        (array(("stimulus", "subject")), LensValueError, "subject"),
        (array(("stimulus", "subject", "voxel"), VALUES[:, None]), LensValueError, "subject"),
        (
            frame(index=pd.MultiIndex.from_arrays([IDS, range(4)], names=["stimulus", "roi"])),
            LensValueError, r"a level 'roi'.*unstack\('roi'\)",
        ),
        (xr.DataArray(VALUES, dims=("stimulus", "voxel")), LensValueError, "no ids"),
        (xr.DataArray(VALUES, dims=("image", "voxel")), LensValueError, "no ids"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_responses(given, error, message):
    with pytest.raises(error, match=message):
        responses_of(given)

"""`stimulus=`: what it may be, what is refused before the run, and what becomes of its columns."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.cells import TEXT
from lensframe_pd.tables.stimuli import RESERVED

X = torch.arange(6.0).reshape(3, 2)
NAMES = ["im1", "im22", "im333"]


class Name(str):
    def __str__(self):
        return "another"


def seen(stimulus, x=X):
    return lf.trace(lambda x: x.relu(), x, stimulus=stimulus).activations


# ------------------------------------------------------------------ ids


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (NAMES, NAMES),
        (tuple(NAMES), NAMES),
        ((name for name in NAMES), NAMES),
        (dict.fromkeys(NAMES).keys(), NAMES),
        (np.array(NAMES), NAMES),
        (np.array(NAMES, dtype=object), NAMES),
        (pd.Index(NAMES, name="image"), NAMES),
        (pd.Series(NAMES, index=[9, 8, 7]), NAMES),
        (pd.Series(NAMES, dtype="string"), NAMES),
        (pd.Series(NAMES, dtype="category"), NAMES),
        (pd.Categorical(NAMES), NAMES),
        (pd.DataFrame(index=NAMES), NAMES),
        (pd.DataFrame(index=pd.CategoricalIndex(NAMES)), NAMES),
        ([Name("one"), Name("two"), "three"], ["one", "two", "three"]),
        ([3, 1, 2], [3, 1, 2]),
        (range(3), [0, 1, 2]),
        ([torch.tensor(3), np.int8(1), 2], [3, 1, 2]),
        (torch.tensor([3, 1, 2]), [3, 1, 2]),
        (torch.tensor([3, 1, 2]).half(), [3.0, 1.0, 2.0]),
        (np.array([3, 1, 2], dtype=np.float16), [3.0, 1.0, 2.0]),
        (np.array([2**64 - 1, 1, 2], dtype=np.uint64), [2**64 - 1, 1, 2]),
        (pd.array([3, 1, 2], dtype="Int64"), [3, 1, 2]),
        ([0.5, 1, 2], [0.5, 1.0, 2.0]),
    ],
)
def test_ids(given, ids):
    found = seen(given)
    assert found["stimulus"].values.tolist() == ids
    for k, name in enumerate(ids):
        assert found["relu_1"].sel(stimulus=name).values.tolist() == X[k].tolist()


@pytest.mark.parametrize(
    "days",
    [
        pd.date_range("2020-01-01", periods=3),
        [datetime.datetime(2020, 1, k) for k in (1, 2, 3)],
        np.array(["2020-01-01", "2020-01-02", "2020-01-03"], dtype="datetime64[D]"),
    ],
)
def test_times_as_ids(days):
    found = seen(days)["relu_1"].sel(stimulus=np.datetime64("2020-01-02"))
    assert found.values.tolist() == X[1].tolist()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("abc", r"one text, 'abc'"),
        (b"abc", "one text"),
        (5, "got a int"),
        (3.0, "got a float"),
        (object(), "got a object"),
        (len, "got a builtin_function_or_method"),
        ({"a": 1, "b": 2, "c": 3}, "got a dict"),
        ({"a", "b", "c"}, "got a set"),
        (["a", 1, "b"], "these are int, str"),
        (["a", True, "b"], "these are bool, str"),
        ([b"a", b"b", b"c"], "these are bytes"),
        ([1j, 2j, 3j], "these are complex"),
        ([("a", 1), ("a", 2), ("b", 1)], "these are tuple"),
        ([["a"], ["b"], ["c"]], "these are list"),
        ([2**70, 1, 2], "64 bits"),
        (pd.period_range("2020", periods=3), "these are Period"),
        (pd.date_range("2020", periods=3, tz="UTC"), "without a zone"),
        (pd.interval_range(0, 3), "these are Interval"),
    ],
)
def test_what_is_no_id(given, says):
    with pytest.raises(lf.LensTypeError, match=says):
        seen(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.ones(3, 1), "2 axes"),
        (np.ones((3, 2)), "2 axes"),
        (torch.tensor(3), "0 axes"),
        (pd.MultiIndex.from_product([["a"], [1, 2, 3]]), "2 levels"),
        (pd.DataFrame(index=pd.MultiIndex.from_product([["a"], [1, 2, 3]])), "2 levels"),
        (["im1", "im2", None], "missing at positions 2"),
        ([None, None, None], "missing at positions 0, 1, 2"),
        ([1, float("nan"), 3], "missing at positions 1"),
        (pd.array([1, None, 3], dtype="Int64"), "missing at positions 1"),
        (pd.Categorical(["a", None, "b"]), "missing at positions 1"),
        ([pd.NaT, *pd.date_range("2020", periods=2)], "missing at positions 0"),
        (torch.tensor([1.0, float("nan"), 2.0]), "missing at positions 1"),
        (pd.DataFrame({"x": [1, 2, 3]}, index=["a", None, "c"]), "missing at positions 1"),
        (["a", "b", "a"], "more than once: 'a'"),
        ([1, 1.0, 2], "more than once: 1.0"),
        (pd.DataFrame({"x": [1, 2, 3]}, index=[0, 0, 0]), "more than once: 0"),
        (pd.Series(["cat", "dog", "cat"], index=NAMES), r"'cat'.*to_frame"),
        (["a\0", "a\0b", "a"], r"hold NUL characters: 'a\\x00', 'a\\x00b'"),
        (["a", "b"], "2 ids.*axis 0 of the input has 3"),
    ],
)
def test_ids_that_identify_nothing(given, says):
    ran = []
    with pytest.raises(lf.LensValueError, match=says):
        lf.trace(lambda x: ran.append(x), X, stimulus=given)
    assert not ran


def test_the_table_is_that_of_the_call():
    table = pd.DataFrame({"kind": [1, 2, 3]}, index=NAMES)
    ids = np.array([7, 8, 9])
    trace, other = lf.trace(lambda x: x.relu(), X, stimulus=table), seen(ids)
    table["kind"], ids[:] = 0, 0
    assert trace.activations["kind"].values.tolist() == [1, 2, 3]
    assert other["stimulus"].values.tolist() == [7, 8, 9]


# ------------------------------------------------------------------ columns

NAN = float("nan")
COLUMNS = {
    "texts": (["short", "a longer text", "b"], ["short", "a longer text", "b"]),
    "one missing": (["im1", "a longer text", None], ["im1", "a longer text", NAN]),
    "NaN in texts": (["im1", NAN, "a longer text"], ["im1", NAN, "a longer text"]),
    "string": (pd.array(["abc", pd.NA, "d"], dtype="string"), ["abc", NAN, "d"]),
    "arrow": (pd.array(["abc", None, "d"], dtype="string[pyarrow]"), ["abc", NAN, "d"]),
    "all missing": ([None] * 3, [NAN] * 3),
    "all missing text": (pd.array([None] * 3, dtype=TEXT), [NAN] * 3),
    "NUL": (["a\0b", "a\0", "a"], ["a\0b", "a\0", "a"]),
    "empty text": (["", "a", None], ["", "a", NAN]),
    "categories": (pd.Categorical(["abc", None, "d"]), ["abc", NAN, "d"]),
    "numbers as categories": (pd.Categorical([5, 7, 5]), [5, 7, 5]),
    "numbers": ([0.5, NAN, 2.0], [0.5, NAN, 2.0]),
    "whole numbers": ([1, 2, 3], [1, 2, 3]),
    "nullable": (pd.array([1, None, 3], dtype="Int64"), [1.0, NAN, 3.0]),
    "too large for floats": (pd.array([2**60 + 1, None, 3], dtype="Int64"), [2**60 + 1, NAN, 3]),
    "yes and no": ([True, False, True], [True, False, True]),
    "yes, no, missing": (pd.array([True, None, False], dtype="boolean"), [True, NAN, False]),
    "objects": ([[1], {"a": 2}, None], [[1], {"a": 2}, NAN]),
    "mixed": (["a", 1, None], ["a", 1, NAN]),
    7: ([1, 2, 3], [1, 2, 3]),
}


@pytest.mark.parametrize("name", [*COLUMNS])
def test_columns_are_whole(name):
    values, expected = COLUMNS[name]
    found = seen(pd.DataFrame({name: values}, index=NAMES))[str(name)]
    assert found.dims == ("stimulus",)
    for here, there in zip(found.values.tolist(), expected, strict=True):
        if there is NAN:
            assert isinstance(here, float)
            assert here != here
        else:
            assert here == there
            assert type(here) is type(there)


def test_times_as_columns():
    table = pd.DataFrame({"day": pd.to_datetime(["2020-01-05", None, "2021-02-03"])}, index=NAMES)
    found = seen(table)["day"]
    assert found.dtype.kind == "M"
    assert np.isnat(found.values).tolist() == [False, True, False]
    assert found[2] == np.datetime64("2021-02-03")


# ------------------------------------------------------------------ names of columns


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_that_mean_something_else(name):
    ran = []
    with pytest.raises(lf.LensValueError, match=rf"something else: '{name}'"):
        lf.trace(lambda x: ran.append(x), X, stimulus=pd.DataFrame({name: [1, 2, 3]}))
    assert not ran


def test_columns_of_one_name():
    for names in (["a", "a"], [0, "0"]):
        table = pd.DataFrame(np.ones((3, 2)), index=NAMES, columns=names)
        with pytest.raises(lf.LensValueError, match="columns more than once"):
            seen(table)


def looped(x):
    for _ in range(2):
        x = x.sin()
    return torch.nn.functional.linear(x, torch.eye(2))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("input_1", "operations"),
        ("sin_1:2", "operations"),
        ("sin_1", "operations"),  # a layer: `lens["sin_1"]`
        ("linear_1", "operations"),
        ("output_1", "operations"),
        ("dim1_2", "dimensions"),
        ("feature_2", "dimensions"),
    ],
)
def test_names_of_the_run(name, what):
    table = pd.DataFrame({"kind": list("abc"), name: [1, 2, 3]}, index=NAMES)
    with pytest.raises(lf.LensValueError, match=rf"names of {what} of this run: '{name}'") as error:
        lf.trace(looped, X, stimulus=table)
    trace = error.value.trace  # what has been run is not lost
    assert len(trace.layers) == 6
    assert [*trace.activations.coords] == ["stimulus", "kind"]
    assert trace.activations["sin_1:2"].sel(stimulus="im22").shape == (2,)


@pytest.mark.parametrize("name", ["trial_1", "relu", "channel", "cos_1", "x_3", "n"])
def test_names_of_ones_own(name):
    table = pd.DataFrame({name: [4, 5, 6]}, index=NAMES)
    found = lf.trace(looped, X, stimulus=table).activations
    assert found[name].values.tolist() == [4, 5, 6]

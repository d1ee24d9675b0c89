"""Names of rows, and what verbs are asked for by name."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.labels import asked_names, distinct_labels, one_name


def test_labels_of_two_rows_are_all_named():
    rows = pd.DataFrame(index=pd.Index(["a_1", "b_1", "a_1", "c_1", "c_1"], name="op"))
    with pytest.raises(lf.LensValueError, match=r"keep: 'a_1', 'c_1': more than once in the frame"):
        distinct_labels(rows, "keep")
    assert distinct_labels(rows.iloc[:2], "keep") == ["a_1", "b_1"]


def asked():
    layers, activations = lf.trace(lambda x: x.exp().relu().sin(), torch.ones(3, 2))
    picked = layers.loc[["exp_1", "sin_1"]]
    two = ["exp_1", "sin_1"]
    return [
        ("exp_1", ["exp_1"]), (two, two), ((*two,), two), (np.array(two), two),
        (pd.Index(two), two), (pd.Series(two), two), (iter(two), two), (dict.fromkeys(two), two),
        (picked, two), (picked.index, two), (picked.reset_index(), two),
        (picked.drop(columns=["func"]), two), (picked.iloc[0], ["exp_1"]),
        (layers["func"].isin(["exp", "sin"]), two), (picked.iloc[:0], []), ([], []),
        (activations["exp_1"], ["exp_1"]), (activations[two], two),
        (activations["exp_1"].name, ["exp_1"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), asked())
def test_what_names_may_be_asked_with(given, expected):
    assert asked_names(given, "find") == expected


@pytest.mark.parametrize(
    "given", [3, 2.5, True, None, [1, 2], ["a", 1], torch.nn.ReLU(), np.arange(2), xr.DataArray(1)]
)
def test_what_are_no_names(given):
    with pytest.raises(lf.LensTypeError, match=r"^find got .*; it takes names") as caught:
        asked_names(given, "find")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("given", "n"), [([], "none"), (["a", "b"], r"2 \('a', 'b'\)")])
def test_one_name(given, n):
    assert one_name(["a"], "features") == "a"
    with pytest.raises(lf.LensTypeError, match=f"features takes one layer and got {n}"):
        one_name(given, "features")

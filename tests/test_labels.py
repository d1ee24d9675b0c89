"""Names of rows, and what verbs are asked for by name."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.labels import (
    asked_names,
    distinct_labels,
    label,
    labels_of,
    one_name,
    unknown_rows,
)


@pytest.mark.parametrize("n_passes", [(1, 1, 1), (2, 1, 2)])
def test_labels_of_many_executions_are_those_of_each(n_passes):
    executions = (("relu_1", "add_1", "relu_1"), (1, 1, 2), n_passes)
    assert labels_of(*executions) == [label(*one) for one in zip(*executions, strict=True)]


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


KNOWN = [
    "input_1", "conv2d_1", "conv2d_2:1", "conv2d_2:2", "conv2d_2", "relu_1", "areas.V4", "areas.IT",
    "areas.IT.ff", "heads.object", "heads.pose",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("IT", "no op 'IT'; did you mean 'areas.IT'?"),  # the last part of a path
        ("it", "no op 'it'; did you mean 'areas.IT'?"),
        ("object", "did you mean 'heads.object'?"),
        ("V4", "did you mean 'areas.V4'?"),
        ("IT.ff", "did you mean 'areas.IT.ff'"),
        ("Relu_1", "did you mean 'relu_1'?"),
        ("areas.It", "did you mean 'areas.IT'"),
        ("conv2d_3", "did you mean 'conv2d_1'"),  # of alike ones the first
        ("conv2d", """'conv2d' is a function; its rows: layers.query("func == 'conv2d'")"""),
        ("relu", """'relu' is a function; its rows: layers.query("func == 'relu'")"""),
        ("areas.*", "layers[layers['module'].str.contains('areas.*')]"),
        ("^areas", "layers[layers['module'].str.contains('^areas')]"),
        ("heads.(object|pose)", "str.contains('heads.(object|pose)')"),
        ("*.ff", r"str.contains('.*\\.ff')"),  # as of files, which is no regular expression
        ("areas*.ff", r"str.contains('areas.*\\.ff')"),
        ("areas.V?", r"str.contains('areas\\.V.')"),
    ],
)
def test_what_is_said_of_a_name_that_is_not_there(name, said):
    assert said in str(unknown_rows([name], KNOWN, "op"))


def test_of_a_name_like_none_only_what_there_is_is_said():
    expected = "no op 'V1'\nthere are: input_1, conv2d_1, conv2d_2:1, conv2d_2:2, ..., "
    assert str(unknown_rows(["V1"], KNOWN, "op")).startswith(expected)
    assert len(str(unknown_rows(["V1"], KNOWN, "op")).splitlines()) == 2

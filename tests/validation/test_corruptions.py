"""Corruptions planted in honest tables, one at a time: each is caught, by the check it is for."""

import numpy as np
import pandas as pd
import pytest
import torch

import lensframe_pd as lf

from .reports import Net, failed

IDS = ["s0", "s1", "s2", "s3"]
TABLE = pd.DataFrame({"category": ["cat", "dog", "cat", "owl"]}, index=IDS)
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return Net().eval()


@pytest.fixture(scope="module")
def honest(model):
    with torch.no_grad():
        return tuple(lf.trace(model, X, stimulus=TABLE))


def validated(model, layers, activations):
    with torch.no_grad():
        return layers.lens.validate(
            model, X, activations=activations, stimulus=TABLE, downstream="all"
        )


# In the activations.


def value(op, change):
    """Another value of one op, made of its value."""

    def forge(layers, activations):
        array = activations[op]
        changed = change(array.to_numpy().copy())
        return layers, activations.assign({op: (array.dims, changed, array.attrs)})

    return forge


def put(place, number):
    def change(array):
        array[place] = number
        return array

    return change


def with_dims(op, dims):
    def forge(layers, activations):
        array = activations[op]
        kept = activations.drop_vars(op)
        return layers, kept.assign({op: (dims, array.to_numpy(), array.attrs)})

    return forge


def attr(op, **changed):
    def forge(layers, activations):
        array = activations[op]
        attrs = {k: v for k, v in {**array.attrs, **changed}.items() if v is not None}
        return layers, activations.assign({op: (array.dims, array.to_numpy(), attrs)})

    return forge


def dataset(change):
    return lambda layers, activations: (layers, change(activations))


# In the frame.


def cell(op, **changed):
    def forge(layers, activations):
        wrong = layers.copy()
        for column, content in changed.items():
            wrong.at[op, column] = content
        return wrong, activations

    return forge


def frame(change):
    return lambda layers, activations: (change(layers.copy()), activations)


def exchanged(layers, a, b, *columns):
    for column in columns or layers.columns:
        layers.at[a, column], layers.at[b, column] = layers.at[b, column], layers.at[a, column]
    return layers


def added(layers):
    extra = layers.loc[["relu_1"]].rename(index={"relu_1": "relu_2"}).assign(layer="relu_2")
    return pd.concat([layers, extra])


def cut_and_said_to_be_stopped(layers, activations):
    wrong = layers.iloc[:-3].copy()
    wrong.attrs["stopped"] = True
    return wrong, activations[[op for op in activations.data_vars if op in wrong.index]]


IMAGE = ("stimulus", "channel_4", "y_4", "x_4")

CORRUPTIONS = {
    "one stimulus' value": ("replay", "relu_1", value("relu_1", put(2, 0.5))),
    "one element": ("replay", "relu_1", value("relu_1", put((1, 2, 3, 3), 0.25))),
    "one unit in the last place": (
        "replay", "mean_1", value("mean_1", lambda a: np.nextafter(a, np.float32(9)))),
    "not a number": ("replay", "linear_1:2", value("linear_1:2", put((0, 0), np.nan))),
    "values of two stimuli swapped": ("alignment", "relu_1", value(
        "relu_1", lambda a: a[[0, 2, 1, 3]])),
    "values shifted by a stimulus": ("alignment", "linear_1:3", value(
        "linear_1:3", lambda a: np.roll(a, 1, 0))),
    "values in reverse order": ("alignment", "output_1", value("output_1", lambda a: a[::-1])),
    "an image turned": ("replay", "conv2d_1", value("conv2d_1", lambda a: a.swapaxes(2, 3))),
    "the value of another pass": ("replay", "tanh_1:2", dataset(
        lambda d: d.assign({"tanh_1:2": d["tanh_1:1"].assign_attrs(d["tanh_1:2"].attrs)}))),
    "a value rounded": ("replay", "batch_norm_1", value(
        "batch_norm_1", lambda a: a.astype(np.float16).astype(np.float32))),
    "another input": ("replay", "conv2d_1", value("input_1", lambda a: a + 1)),
    "dims swapped": ("facts", "relu_1", with_dims(
        "relu_1", ("stimulus", "channel_4", "x_4", "y_4"))),
    "stimuli and features swapped": ("alignment", "linear_1:2", with_dims(
        "linear_1:2", ("feature_4", "stimulus"))),
    "another axis said to be the stimuli": ("alignment", "relu_1", with_dims(
        "relu_1", ("channel_4", "stimulus", "y_4", "x_4"))),
    "a second axis said to be the stimuli": ("alignment", "relu_1", with_dims(
        "relu_1", ("stimulus", "stimulus_", "y_4", "x_4"))),
    "a dim renamed": ("facts", "conv2d_1", with_dims(
        "conv2d_1", ("stimulus", "token_4", *IMAGE[2:]))),
    "stimuli that are none": ("facts", "relu_1", with_dims("relu_1", ("batch_4", *IMAGE[1:]))),
    "attr returned_by": ("facts", "relu_1", attr("relu_1", returned_by="conv:1")),
    "attr layer": ("facts", "tanh_1:2", attr("tanh_1:2", layer="tanh_2")),
    "attr pass_num": ("facts", "tanh_1:2", attr("tanh_1:2", pass_num=1)),
    "attr torch_dtype": ("facts", "relu_1", attr("relu_1", torch_dtype="bfloat16")),
    "attr func": ("facts", "relu_1", attr("relu_1", func="gelu")),
    "attr module": ("facts", "linear_1:1", attr("linear_1:1", module="norm")),
    "attr missing": ("facts", "batch_norm_1", attr("batch_norm_1", returned_by=None)),
    "float64": ("facts", "relu_1", value("relu_1", lambda a: a.astype(np.float64))),
    "text": ("facts", "relu_1", value("relu_1", lambda a: a.astype(str))),
    "whole numbers": ("facts", "gt_1", value("gt_1", lambda a: a.astype(np.int8))),
    "an extra variable": ("facts", "relu_2", dataset(lambda d: d.assign(relu_2=d["relu_1"]))),
    "a variable gone": ("invariants", "relu_1", dataset(lambda d: d.drop_vars("relu_1"))),
    "ids swapped": ("alignment", "relu_1", dataset(
        lambda d: d.assign_coords(stimulus=["s1", "s0", "s2", "s3"]))),
    "one id twice": ("alignment", "relu_1", dataset(
        lambda d: d.assign_coords(stimulus=["s0", "s0", "s2", "s3"]))),
    "a column of the stimuli": ("alignment", "relu_1", dataset(
        lambda d: d.assign_coords(category=("stimulus", ["cat", "cat", "dog", "owl"])))),
    "all stimuli in another order": ("alignment", "relu_1", dataset(
        lambda d: d.isel(stimulus=[3, 0, 1, 2]))),
    "a wrong edge": ("invariants", "tanh_1:3", cell("tanh_1:3", parents=("linear_1:2",))),
    "edges swapped": ("invariants", "sub_1", cell("sub_1", parents=("chunk_2", "chunk_1"))),
    "arguments swapped": ("invariants", "sub_1", cell("sub_1", parent_args=("other", "input"))),
    "an edge gone": ("invariants", "sub_1", cell(
        "sub_1", parents=("chunk_1",), parent_args=("input",), n_parents=1)),
    "an edge to what comes later": ("invariants", "relu_1", cell("relu_1", parents=("mean_1",))),
    "a wrong pass number": ("invariants", "tanh_1:2", cell("tanh_1:2", pass_num=3)),
    "two passes exchanged": ("invariants", "tanh_1:2", frame(
        lambda f: exchanged(f, "tanh_1:1", "tanh_1:2"))),
    "one pass a layer of its own": ("invariants", "tanh_1:2", cell(
        "tanh_1:2", layer="tanh_2", pass_num=1, n_passes=1)),
    "a missing op": ("invariants", "relu_1", frame(lambda f: f.drop(index="relu_1"))),
    "an added op": ("invariants", "relu_2", frame(added)),
    "two steps exchanged": ("invariants", "relu_1", frame(
        lambda f: exchanged(f, "relu_1", "mean_1", "step"))),
    "the tail gone, and said to be stopped": ("invariants", "output_1", cut_and_said_to_be_stopped),
    "another function": ("invariants", "tanh_1:1", cell("tanh_1:1", target="torch.sin")),
    "another name": ("invariants", "relu_1", cell("relu_1", func="gelu")),
    "another parameter": ("invariants", "linear_1:2", cell(
        "linear_1:2", params=("fc.bias", "fc.weight"))),
    "a parameter gone": ("invariants", "conv2d_1", cell("conv2d_1", params=("conv.weight",))),
    "another buffer": ("invariants", "batch_norm_1", cell(
        "batch_norm_1", buffers=("norm.running_var", "norm.running_mean"))),
    "another config": ("invariants", "mean_1", cell("mean_1", config='{"dim": [1, 2]}')),
    "another module": ("invariants", "relu_1", cell("relu_1", module="conv", module_type="Conv2d")),
    "returned by another module": ("invariants", "conv2d_1", cell(
        "conv2d_1", returned_by=("norm:1",))),
    "another decision": ("invariants", "gt_1", cell("gt_1", read_by=())),
    "another context": ("invariants", "relu_1", cell("relu_1", context="{}")),
    "another source": ("facts", "relu_1", cell("relu_1", source="reports.py:1")),
    "an input called elsewhere": ("facts", "input_1", cell("input_1", source="here.py:1")),
    "another dtype": ("invariants", "relu_1", cell("relu_1", dtype="float64")),
    "another shape": ("invariants", "relu_1", cell(
        "relu_1", shape=(4, 4, 2, 8), shape_str="4x4x2x8")),
    "random numbers that were none": ("invariants", "relu_1", cell("relu_1", random=True)),
    "written in place": ("invariants", "relu_1", cell("relu_1", inplace=True)),
    "not saved": ("invariants", "relu_1", cell("relu_1", saved=False)),
    "a reason why it is not saved": ("facts", "relu_1", lambda f, d: (
        cell("relu_1", saved=False, unsaved_reason="a meta tensor has no data")(f, d)[0],
        d.drop_vars("relu_1"))),
    "a time before it began": ("facts", "relu_1", cell("relu_1", seconds=-1.0)),
}  # fmt: skip


def test_the_honest_tables_pass(model, honest):
    report = validated(model, *honest)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    for check in ("alignment", "facts", "replay", "invariants"):
        assert report.attrs[f"{check}_checked"] > 15
        assert report.attrs[f"{check}_failed"] == 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_planted_corruption_is_caught(model, honest, name):
    check, op, forge = CORRUPTIONS[name]
    report = validated(model, *forge(*honest))
    assert op in failed(report, check), report.loc[~report["passed"], "reason"].tolist()
    assert not report.loc[op, "passed"]
    assert f"{check}: " in report.loc[op, "reason"]
    assert report.attrs[f"{check}_failed"] >= 1
    assert report.attrs["failed"] >= 1

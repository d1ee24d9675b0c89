"""What a new trace knows of values and calls is what the tables must say."""

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf

from .reports import X, failed, validate, writable


def test_a_faithful_trace(model, traced):
    report = validate(*traced, model)
    assert report["facts"].all()
    assert report.attrs["facts_checked"] == len(report)
    assert report.attrs["facts_failed"] == 0


def renamed(array):
    first = array.dims[0]
    return array.copy().rename({first: "channel_2" if first == "stimulus" else "stimulus"})


def swapped(array):
    """The names of the last two axes exchanged, where the axes stand."""
    a, b = array.dims[-2:]
    return array.copy().rename({a: "_", b: a}).rename({"_": b})


@pytest.mark.parametrize(
    ("forge", "op"),
    [
        (renamed, "input_1"), (renamed, "relu_1"), (renamed, "linear_1:2"), (renamed, "output_1"),
        (swapped, "input_1"), (swapped, "relu_1"), (swapped, "output_1"),
    ],
)  # fmt: skip
def test_other_dims(model, traced, forge, op):
    layers, activations = traced
    array = forge(activations[op])
    wrong = activations.drop_vars(op)
    wrong[op] = (array.dims, array.values, activations[op].attrs)
    report = validate(layers, wrong, model)
    assert failed(report, "facts") == {op}
    assert "dims" in report.loc[op, "reason"]


@pytest.mark.parametrize("op", ["relu_1", "linear_1:2", "getitem_1"])
@pytest.mark.parametrize(
    ("attr", "value"),
    [
        ("layer", "relu_9"), ("pass_num", 7), ("func", "gelu"), ("module", "fc.0"),
        ("torch_dtype", "float64"), ("returned_by", "norm:1"),
    ],
)  # fmt: skip
def test_a_forged_attr(model, traced, op, attr, value):
    layers, activations = traced
    wrong = writable(activations, op)
    wrong[op].attrs = {**activations[op].attrs, attr: value}
    report = validate(layers, wrong, model)
    assert failed(report, "facts") == {op}
    assert attr in report.loc[op, "reason"]


def test_an_attr_that_is_missing(model, traced):
    layers, activations = traced
    wrong = writable(activations, "relu_1")
    wrong["relu_1"].attrs = {k: v for k, v in wrong["relu_1"].attrs.items() if k != "returned_by"}
    assert failed(validate(layers, wrong, model), "facts") == {"relu_1"}


def test_attrs_that_arithmetic_has_lost(model, traced):
    layers, activations = traced
    bare = activations.copy()
    for op in bare.data_vars:
        bare[op].attrs = {}
    assert validate(layers, bare, model)["passed"].all()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.complex64, ">f8"])
def test_another_element_type(model, traced, dtype):
    layers, activations = traced
    wrong = activations.copy()
    wrong["relu_1"] = activations["relu_1"].astype(dtype)
    assert failed(validate(layers, wrong, model), "facts") == {"relu_1"}


def test_the_other_byte_order_is_the_same_type(model, traced):
    layers, activations = traced
    other = activations.copy()
    other["relu_1"] = activations["relu_1"].astype(">f4")
    assert not failed(validate(layers, other, model), "facts")


class Kinds(nn.Module):
    def forward(self, x):
        return x.bfloat16() * 2, x.double() + 1, x > 0, x.long(), x.to(torch.complex64)


def test_each_type_is_kept_as_what_holds_it():
    model, x = Kinds().eval(), torch.randn(3, 4)
    layers, activations = lf.trace(model, x)
    assert layers.lens.validate(model, x, activations=activations)["facts"].all()
    for op in layers.index[layers["func"] != "input"]:
        wrong = activations.copy()
        wide = np.complex128 if activations[op].dtype.kind == "c" else np.uint8
        wrong[op] = activations[op].astype(wide)
        assert "kept as" in layers.lens.validate(model, x, activations=wrong).loc[op, "reason"]


@pytest.mark.parametrize("name", ["relu_2", "mine", "linear_1"])
def test_a_variable_that_is_no_row(model, traced, name):
    layers, activations = traced
    report = validate(layers, activations.assign({name: activations["relu_1"]}), model)
    assert failed(report, "facts") == {name}
    assert not report.loc[name, "passed"]


@pytest.mark.parametrize("op", ["input_1", "relu_1", "tanh_1:2", "output_1"])
@pytest.mark.parametrize("source", ["reports.py:1", "elsewhere.py:30", "", "reports.py"])
def test_another_source(model, traced, op, source):
    layers, activations = traced
    wrong = layers.copy()
    wrong.at[op, "source"] = source
    report = validate(wrong, activations, model)
    assert op in failed(report, "facts")
    assert "source" in report.loc[op, "reason"]


@pytest.mark.parametrize("seconds", [-1.0, np.nan, np.inf])
def test_a_time_that_is_none(model, traced, seconds):
    layers, activations = traced
    wrong = layers.copy()
    wrong.at["relu_1", "seconds"] = seconds
    assert failed(validate(wrong, activations, model), "facts") == {"relu_1"}


class Sparse(nn.Module):
    def forward(self, x):
        return x.to_sparse().to_dense() * 2


def test_why_a_value_is_not_saved():
    model, x = Sparse().eval(), torch.eye(3)
    layers, activations = lf.trace(model, x)
    assert layers.loc["to_sparse_1", "unsaved_reason"]
    assert layers.lens.validate(model, x, activations=activations)["facts"].all()
    for op, reason in (("to_sparse_1", "a nested tensor is not one array"), ("mul_1", "lost")):
        wrong = layers.copy()
        wrong.loc[op, ["unsaved_reason", "saved"]] = [reason, False]
        kept = activations.drop_vars(op, errors="ignore")
        report = wrong.lens.validate(model, x, activations=kept)
        assert failed(report, "facts") == {op}


def test_a_partly_saved_trace(model):
    with torch.no_grad():
        layers, activations = lf.trace(model, X, save=["relu_1"])
        assert layers.lens.validate(model, X, activations=activations)["facts"].all()
        wrong = activations.rename(stimulus="batch")
        report = layers.lens.validate(model, X, activations=wrong)
    assert failed(report, "facts") == {"relu_1"}

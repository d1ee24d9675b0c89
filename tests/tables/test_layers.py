"""The columns of `layers`: what they say of a call, checked against what was written here."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS
from lensframe_pd.tables import layers as tables
from lensframe_pd.tape import alike


@pytest.fixture(autouse=True, params=[None, 1, 2], ids=["whole", "by row", "by two"])
def stretch(request, monkeypatch):
    """How many rows are tabled at a time: what a table says does not depend on it."""
    if request.param:
        monkeypatch.setattr(tables, "_STRETCH", request.param)
    monkeypatch.setattr(alike, "_recent", [])
    monkeypatch.setattr(alike, "_met", {})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.zeros(1))
        self.conv.bias.requires_grad_(False)

    def forward(self, x):
        y = self.norm(self.conv(x)) * self.scale + self.shift
        low, high = y.amin(dim=(2, 3)), y.max(dim=1)
        return {"low": low, "high": high.values}


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return lf.trace(Net().eval(), torch.rand(2, 3, 9, 9)).layers


def test_columns_are_those_of_the_schema_in_order(layers):
    assert list(layers.columns) == list(COLUMNS)
    first = ["func", "module", "shape_str", "parents", "n_params", "seconds"]
    assert list(layers.columns)[: len(first)] == first
    assert layers.index.name == "op"
    assert layers.index.is_unique
    assert list(layers["step"]) == list(range(len(layers)))


def test_eighty_columns_of_a_terminal_show_what_ran_and_where(layers):
    with pd.option_context("display.width", 80, "display.max_columns", 0):
        shown = repr(layers).splitlines()[0].split()
    assert shown[:3] == ["func", "module", "shape_str"]
    assert shown[-2:] == ["kind", "saved"]


def test_a_convolution(layers):
    row = layers.loc["conv2d_1"]
    assert row["kind"] == "op"
    assert (row["func"], row["target"]) == ("conv2d", "torch.conv2d")
    assert (row["module"], row["module_type"]) == ("conv", "Conv2d")
    assert row["module_stack"] == row["returned_by"] == ("conv:1",)
    assert (row["parents"], row["parent_args"]) == (("input_1",), ("input",))
    assert row["params"] == ("conv.weight", "conv.bias")
    assert row["param_args"] == ("weight", "bias")
    assert row["param_shapes"] == ((4, 3, 3, 3), (4,))
    assert (row["n_params"], row["params_nbytes"], row["n_trainable"]) == (112, 448, 108)
    assert (row["shape"], row["shape_str"]) == ((2, 4, 4, 4), "2x4x4x4")
    assert row["stride"] == (64, 16, 4, 1)
    assert (row["dtype"], row["device"], row["numel"], row["nbytes"]) == (
        "float32",
        "cpu",
        128,
        512,
    )
    assert json.loads(row["config"]) == {
        "stride": [2, 2], "padding": [0, 0], "dilation": [1, 1], "groups": 1,
    }  # fmt: skip
    assert row["context"] == "{}"
    assert row["source"].startswith("test_layers.py:")
    assert row["seconds"] > 0


def test_parameters_and_buffers_of_bare_operations(layers):
    assert layers.loc["mul_1", "params"] == ("scale",)
    assert layers.loc["mul_1", "param_args"] == ("other",)
    assert layers.loc["add_1", "buffers"] == ("shift",)
    norm = layers.loc["batch_norm_1"]
    assert norm["buffers"] == ("norm.running_mean", "norm.running_var")
    assert norm["buffer_args"] == ("running_mean", "running_var")


def test_a_call_with_two_results_gives_two_rows(layers):
    values, indices = layers.loc["max_1"], layers.loc["max_2"]
    assert values["call"] == indices["call"]
    assert (values["dtype"], indices["dtype"]) == ("float32", "int64")
    assert layers["call"].nunique() == len(layers) - 1


def test_inputs_and_outputs_say_where_they_stand(layers):
    assert layers.loc["input_1", "path"] == "x"
    outputs = layers[layers["kind"] == "output"]
    assert dict(zip(outputs["path"], outputs["parents"], strict=True)) == {
        "low": ("amin_1",),
        "high": ("max_1",),
    }


def test_parameter_counts_agree_with_the_model(layers):
    named = dict(Net().named_parameters())
    read = {name for names in layers["params"] for name in names}
    assert read == set(named)
    assert layers["n_params"].sum() == sum(p.numel() for p in named.values())


def test_arguments_inside_containers_have_dotted_names():
    layers = lf.trace(lambda x: torch.cat([x, x * 2]), torch.zeros(3)).layers
    assert layers.loc["cat_1", "parents"] == ("input_1", "mul_1")
    assert layers.loc["cat_1", "parent_args"] == ("tensors.0", "tensors.1")


def test_batch_norm_in_train_mode_writes_its_statistics():
    model, plain = nn.BatchNorm1d(3).train(), nn.BatchNorm1d(3).train()
    x = torch.arange(12.0).reshape(4, 3)
    with pytest.warns(lf.LensWarning, match="train mode"):
        layers, activations = lf.trace(model, x)
    plain(x)
    written = layers[layers["inplace"] & (layers["func"] == "batch_norm")]
    assert list(written.index) == ["batch_norm_2", "batch_norm_3"]
    np.testing.assert_array_equal(activations["batch_norm_2"], plain.running_mean)
    np.testing.assert_array_equal(activations["batch_norm_3"], plain.running_var)
    assert layers.loc["batch_norm_1", "call"] == layers.loc["batch_norm_2", "call"]


def test_attrs_are_a_handful_of_json_scalars():
    trace = lf.trace(nn.Linear(2, 2).eval(), torch.ones(1, 2), seed=5)
    assert trace.layers.attrs["model"] == "Linear"
    assert trace.layers.attrs["seed"] == 5
    assert len(trace.layers.attrs) < 10
    json.dumps(trace.layers.attrs)


def test_attrs_are_of_pythons_own_types():
    """A subclass of str, as torch's version is, is no text to some writers of netCDF."""
    trace = lf.trace(nn.Conv2d(1, 2, 2).eval(), torch.ones(1, 1, 3, 3), dims={"x": "time"})
    tables = [trace.layers, trace.activations, *trace.activations.data_vars.values()]
    values = [value for table in tables for value in table.attrs.values()]
    flat = [part for v in values for part in (v if isinstance(v, tuple) else (v,))]
    assert {*map(type, flat)} <= {str, int, float, bool}
    assert not [v for v in values if isinstance(v, tuple) and isinstance(v[0], str)]


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x):
        for _ in range(3):
            x = torch.relu(self.drop(self.fc(x)) + x)
            low, high = x.chunk(2)
            x = torch.cat([low.neg(), high.neg()])
        return x


def test_facts_of_a_run_go_on_from_row_to_row():
    torch.manual_seed(0)
    model = Steps().train()
    with pytest.warns(lf.LensWarning, match="train mode"):
        trace = lf.trace(model, torch.ones(4, 3), save=["relu_1:3"], stop=True, seed=3)
    layers = trace.layers

    def of(func, column):
        return layers.loc[layers["func"] == func, column].tolist()

    assert of("relu", "ordinal") == [1, 2, 3]  # of the model's own call
    assert of("neg", "ordinal") == [1, 2, 3, 4]
    assert of("linear", "ordinal") == [1, 1, 1]  # of a call of `fc` each
    assert of("linear", "module") == ["fc"] * 3
    assert of("linear", "module_stack") == [("fc:1",), ("fc:2",), ("fc:3",)]
    assert of("linear", "params") == [("fc.weight", "fc.bias")] * 3
    assert of("chunk", "call") == [5, 5, 13, 13]
    assert of("neg", "parents") == [(label,) for label in layers.index[layers["func"] == "chunk"]]
    assert layers.index[layers["random"]].tolist() == [f"dropout_1:{k}" for k in (1, 2, 3)]
    stopped = ["stopped" in json.loads(context) for context in layers["context"]]
    assert stopped == [False] * (len(layers) - 1) + [True]
    seeded = ["seed" in json.loads(context) for context in layers["context"]]
    assert seeded == layers["random"].tolist()


def test_an_empty_program():
    layers, activations = lf.trace(lambda: None)
    assert isinstance(layers, pd.DataFrame)
    assert list(layers.columns) == list(COLUMNS)
    assert len(layers) == len(activations) == 0


def test_the_same_function_reads_what_is_held_at_any_place():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

        def forward(self, x):
            y = x + self.p
            return y + (self.q + self.p) + (self.p + y) + x

    rows = lf.trace(Sums().eval(), torch.ones(3, 2)).layers.query("func == 'add'")
    read = [
        *zip(rows["parents"], rows["parent_args"], rows["params"], rows["param_args"], strict=True)
    ]
    assert read == [
        (("input_1",), ("input",), ("p",), ("other",)),
        ((), (), ("q", "p"), ("input", "other")),
        (("add_1", "add_2"), ("input", "other"), (), ()),
        (("add_1",), ("other",), ("p",), ("input",)),
        (("add_3", "add_4"), ("input", "other"), (), ()),
        (("add_5", "input_1"), ("input", "other"), (), ()),
    ]
    assert rows["n_parents"].tolist() == [1, 0, 2, 1, 2, 2]

"""`save=` in all its forms, and `stop=`."""

import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)
        self.executed = 0

    def forward(self, x):
        for _ in range(6):
            self.executed += 1
            x = torch.relu(self.inner(x))
        return self.out(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Recurrent().eval()


X = torch.linspace(-1, 1, 12).reshape(3, 4)


def by_hand(model, x):
    """The values of every inner pass and its relu, computed without the library."""
    values = {}
    with torch.no_grad():
        for p in range(1, 7):
            x = x @ model.inner.weight.T + model.inner.bias
            values[f"linear_1:{p}"] = x.numpy()
            x = x.clamp(min=0)
            values[f"relu_1:{p}"] = x.numpy()
        values["linear_2"] = (x @ model.out.weight.T + model.out.bias).numpy()
    return values


def kept(model, save, **options):
    trace = lf.trace(model, X, save=save, **options)
    expected = by_hand(model, X)
    for name, variable in trace.activations.items():
        if name in expected:
            np.testing.assert_allclose(variable.values, expected[name], rtol=1e-5, atol=1e-6)
    assert list(trace.layers.index[trace.layers["saved"]]) == list(trace.activations)
    return list(trace.activations)


def test_all_and_nothing(model):
    assert len(kept(model, "all")) == 15
    assert kept(model, None) == []


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("linear_1:4", ["linear_1:4"]),
        (["relu_1:6", "linear_2"], ["relu_1:6", "linear_2"]),
        ("linear_1", [f"linear_1:{p}" for p in range(1, 7)]),
        (pd.Index(["input_1", "output_1"]), ["input_1", "output_1"]),
        ("out", ["linear_2"]),
        (["inner"], [f"linear_1:{p}" for p in range(1, 7)]),
        ([], []),
    ],
)
def test_labels_layers_and_module_paths(model, save, expected):
    assert kept(model, save) == expected


def test_rows_of_an_earlier_frame(model):
    layers, _ = lf.trace(model, X)
    picked = layers.query("func == 'relu' and pass_num in [2, 5]")
    assert kept(model, picked) == ["relu_1:2", "relu_1:5"]
    assert kept(model, layers.loc["linear_2"]) == ["linear_2"]
    # a merge loses the index; the columns rebuild it
    assert kept(model, picked.reset_index(drop=True)) == ["relu_1:2", "relu_1:5"]
    assert kept(model, layers.iloc[:0]) == []


def test_a_function_of_the_row(model):
    assert kept(model, lambda row: row.func == "linear" and row["shape"] == (3, 2)) == ["linear_2"]
    assert kept(model, lambda row: row.module == "out") == ["linear_2"]


def test_module_path_keeps_what_its_forward_hook_receives():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net = nn.Sequential(block, nn.Tanh()).eval()
    seen = []
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    activations = lf.trace(net, X, save="0").activations
    handle.remove()
    assert list(activations) == ["linear_2"]
    np.testing.assert_array_equal(activations["linear_2"], seen[0].detach())


@pytest.mark.parametrize("save", ["linear_1:3", ["relu_1:1", "linear_1:3"]])
def test_stop_ends_the_run_after_the_last_selected_pass(model, save):
    trace = lf.trace(model, X, save=save, stop=True)
    assert trace.output is None
    assert model.executed == 3
    assert trace.layers.index[-1] == "linear_1:3"


def test_stop_with_rows_and_with_a_module_path(model):
    rows = lf.trace(model, X).layers.query("layer == 'relu_1' and pass_num <= 2")
    model.executed = 0
    assert kept(model, rows, stop=True) == ["relu_1:1", "relu_1:2"]
    assert model.executed == 2
    assert kept(model, "inner", stop=True) == ["linear_1"]  # the truncated run has one pass


def test_unselected_values_are_let_go():
    """Memory is bounded by what is saved, also for labels known only after the run."""
    grown = []

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096

    def forward(x):
        before = resident()
        for _ in range(1000):
            x = x * 1.0001
        grown.append(resident() - before)
        return x

    megabyte = torch.ones(2**18)
    trace = lf.trace(forward, megabyte, save=["mul_1:3", "mul_1:700"])
    assert list(trace.activations) == ["mul_1:3", "mul_1:700"]
    np.testing.assert_allclose(trace.activations["mul_1:700"], 1.0001**700, rtol=1e-3)
    assert grown[0] < 200 * 2**20  # all 1000 would be 1000 MiB


def test_a_small_view_does_not_keep_its_storage():
    trace = lf.trace(lambda x: torch.ones(1000, 1000)[:1] + x, torch.ones(1), save="getitem_1")
    value = trace.tape.values[list(trace.layers.index).index("getitem_1")]
    assert value.untyped_storage().nbytes() == 4000


def test_unknown_names_are_all_reported_with_near_misses(model):
    with pytest.raises(lf.LensKeyError) as caught:
        lf.trace(model, X, save=["linear_1:9", "rely_1:2", "linear_2"])
    text = str(caught.value)
    assert "'linear_1:9'" in text
    assert "'rely_1:2'" in text
    assert "relu_1:2" in text.split("rely_1:2")[1]
    with pytest.raises(KeyError, match="did you mean 'inner'"):
        lf.trace(model, X, save="iner")
    assert model.executed == 6  # the second was refused before the model ran


def test_a_frame_of_another_model(model):
    other = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval()
    rows = lf.trace(other, X).layers
    with pytest.raises(lf.LensValueError, match="rows of another model") as caught:
        lf.trace(model, X, save=rows)
    assert "'tanh_1' is not in this run" in str(caught.value)
    with pytest.raises(lf.LensValueError, match="has module '0' in save= and 'inner'"):
        lf.trace(model, X, save=rows.query("func == 'linear'").rename({"linear_1": "linear_1:1"}))


def test_other_wrong_selections(model):
    with pytest.raises(lf.LensTypeError, match="save= got 3"):
        lf.trace(model, X, save=3)
    with pytest.raises(lf.LensValueError, match="stop=True"):
        lf.trace(model, X, stop=True)
    with pytest.raises(lf.LensKeyError, match="known only after the run"):
        lf.trace(model, X, save=lambda row: row.layer == "relu_1")
    with pytest.raises(lf.LensKeyError, match="save= needs column"):
        lf.trace(model, X, save=pd.DataFrame({"func": ["relu"]}))


# ------------------------------------------------------------------ one rule for names


class Alike(nn.Module):
    """Modules named as operations are: `linear_1` is the second, `relu_1` runs no relu."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.linear_1 = nn.Linear(3, 3)
        self.relu_1 = nn.Tanh()
        self.block_1 = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
        self.parts = nn.ModuleDict({"a,b": nn.Linear(3, 3), "module=x": nn.Softplus()})

    def forward(self, x):
        x = self.block_1(self.linear_1(self.first(x)))
        return self.parts["module=x"](self.parts["a,b"](self.relu_1(x.sin())).exp())


ALIKE = {
    "linear_1": "linear_1",  # an op goes first
    "module=linear_1": "linear_2",
    "linear_2": "linear_2",
    "first": "linear_1",
    "module=first": "linear_1",
    "relu_1": "tanh_1",  # no such op
    "module=relu_1": "tanh_1",
    "block_1": "sigmoid_1",
    "module=block_1": "sigmoid_1",
    "block_1.0": "linear_3",
    "parts.a,b": "linear_4",
    "module=parts.a,b": "linear_4",
    "parts.module=x": "softplus_1",
    "module=parts.module=x": "softplus_1",
}


@pytest.fixture(scope="module")
def alike():
    torch.manual_seed(0)
    model, x = Alike().eval(), torch.rand(2, 3)
    return model, x, lf.trace(model, x).activations


@pytest.mark.parametrize(("name", "op"), ALIKE.items())
def test_a_name_means_the_same_everywhere(alike, name, op):
    model, x, activations = alike
    said = pytest.warns(lf.LensWarning, match="'module=linear_1'")
    with said if name == "linear_1" else contextlib.nullcontext():
        saved = lf.trace(model, x, save=name).activations
    assert list(saved.data_vars) == [op]
    with said if name == "linear_1" else contextlib.nullcontext():
        viewed = activations.lens[name]
    np.testing.assert_array_equal(viewed, activations[op])
    np.testing.assert_array_equal(saved[op], activations[op])
    assert list(saved.lens.rdm([name])["layer"].values) == [name]


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("module=linear_1", "linear_2"),
        ("block_1", "sigmoid_1"),  # torch has no function `block`
        ("parts.a,b", "linear_4"),
        ("relu_1", "output_1"),  # a relu may come to the end
    ],
)
def test_stopping_after_a_name(alike, name, last):
    model, x, _ = alike
    trace = lf.trace(model, x, save=name, stop=True)
    assert trace.layers.index[-1] == last
    assert list(trace.activations.data_vars) == [ALIKE[name]]


def test_an_op_whose_name_a_module_returned_before():
    """The module is known first, and the op goes first all the same."""

    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu_1 = nn.Tanh()

        def forward(self, x):
            return self.relu_1(x).relu().exp()

    with pytest.warns(lf.LensWarning, match="save='relu_1' is read as the operation"):
        trace = lf.trace(Later().eval(), torch.rand(2, 3), save="relu_1", stop=True)
    assert list(trace.activations.data_vars) == ["relu_1"]
    assert trace.layers.index[-1] == "relu_1"


def test_a_module_that_is_its_op_is_no_second_meaning():
    model = nn.Sequential()
    model.add_module("linear_1", nn.Linear(3, 3))
    assert list(lf.trace(model.eval(), torch.rand(2, 3), save="linear_1").activations) == [
        "linear_1"
    ]


@pytest.mark.parametrize("name", ["module=firts", "module=tanh_1", "parts.a"])
def test_no_module_of_this_name(alike, name):
    model, x, activations = alike
    with pytest.raises(lf.LensKeyError, match="no "):
        lf.trace(model, x, save=name)
    with pytest.raises(lf.LensKeyError, match="no "):
        activations.lens[name]

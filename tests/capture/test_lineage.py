"""Links, names and memory that are easy to lose: broken ones warn, whole ones stay silent."""

import functools
import gc
import json
import types
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.arange(32.0).reshape(4, 8)


def silent(model, *args, **options):
    """A trace that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", lf.LensWarning)
        return lf.trace(model, args, **options)


class RoundTrip(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.sin(x.numpy()))


def test_a_round_trip_that_a_module_returns_warns():
    model = nn.Sequential(nn.Linear(8, 8), RoundTrip(), nn.ReLU()).eval()
    with torch.no_grad(), pytest.warns(lf.LensWarning, match="'constant_1', consumed by 'relu_1'"):
        layers = lf.trace(model, X).layers
    assert list(layers["func"]) == ["input", "linear", "constant", "relu", "output"]


@pytest.mark.parametrize("save", ["all", None, "0"])
def test_what_hooks_do_themselves_is_no_row(save):
    class StaleView(nn.Module):
        def forward(self, x):
            x = x.clone()
            v = x[0]
            x.add_(1)
            return v

    layers = silent(nn.Sequential(StaleView(), nn.ReLU()).eval(), X, save=save).layers
    assert list(layers.index) == [
        "input_1", "clone_1", "getitem_1", "add_1", "alias_1", "relu_1", "output_1",
    ]  # fmt: skip
    assert layers.loc["alias_1", "parents"] == ("getitem_1", "add_1")
    assert layers.loc["alias_1", "returned_by"] == ("0:1",)
    assert layers.loc["relu_1", "parents"] == ("alias_1",)


def test_numpy_arguments_are_described_and_copied():
    array = np.ones(8, dtype=np.float32)

    def forward(x):
        y = x + torch.as_tensor(array)
        array[:] = 7
        return y

    layers = silent(forward, X).layers
    (data,) = json.loads(layers.loc["as_tensor_1", "config"]).values()
    assert data == {"$array": [1.0] * 8, "dtype": "float32"}


TABLE = types.SimpleNamespace(scale=torch.full((8,), 2.0))


class Config:
    shift = torch.ones(8)


class Callable:
    """No module: its tensors and parts are attributes."""

    args, func = 3, staticmethod(torch.sin)

    def __init__(self):
        self.offset = torch.ones(8)
        self.part = nn.Linear(8, 8).eval()

    def __call__(self, x):
        return self.part(x) + self.offset


def test_tensors_older_than_the_run_are_named_and_do_not_warn():
    def forward(x, w=torch.full((8,), 3.0)):  # noqa: B008  (a default is what is tested)
        return x * TABLE.scale + Config.shift * w

    layers = silent(forward, X).layers
    assert list(layers.loc[layers["kind"] == "constant", "path"]) == [
        "TABLE.scale",
        "Config.shift",
        "default.0",
    ]
    layers = silent(Callable(), X).layers
    assert list(layers.loc[layers["kind"] == "constant", "path"]) == ["offset"]
    assert layers.loc["linear_1", "module"] == "part"


def test_a_partial_names_the_module_it_is_given():
    part = nn.Linear(8, 8).eval()
    layers = silent(functools.partial(lambda net, x: net(x), part), X).layers
    assert layers.loc["linear_1", "module"] == "args.0"


def test_stimulus_is_the_axis_with_one_entry_per_stimulus():
    def forward(x):
        return x[:2] * 2, torch.cat([x, x]), x.mean(0), x[0], x * 3

    activations = silent(forward, X, stimulus=list("abcd")).activations
    assert activations["mul_1"].dims == ("dim0_2", "dim1_8")
    assert activations["cat_1"].dims == ("dim0_8", "dim1_8")
    assert activations["mean_1"].dims == ("dim0_8",)
    assert activations["mul_2"].dims == ("stimulus", "dim1_8")
    assert activations.sizes["stimulus"] == 4


def test_an_axis_that_was_taken_away_does_not_come_back():
    square = torch.arange(64.0).reshape(8, 8)
    activations = silent(lambda x: (x[0] * 2, x.mean(0).sin()), square).activations
    assert activations["mul_1"].dims == ("dim0_8",)
    assert activations["sin_1"].dims == ("dim0_8",)
    lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True).eval()
    activations = silent(lstm, torch.ones(2, 3, 8)).activations
    assert activations["lstm_2"].dims == ("dim0_2", "stimulus", "feature_8")


def test_pixels_are_not_heads():
    model = nn.Sequential(nn.Linear(8, 192), nn.Unflatten(1, (3, 8, 8))).eval()
    activations = silent(model, X).activations
    assert activations["unflatten_1"].dims == ("stimulus", "dim1_3", "dim2_8", "dim3_8")


def test_noise_inside_a_loop_leaves_it_a_loop():
    def forward(x):
        h = x.new_zeros(4, 8)
        t = torch.tensor(0.0)
        for _ in range(5):
            h = torch.tanh(x + h + 0.1 * torch.randn_like(h)) * t.sin()
            t = t + 0.1
        return h

    layers = silent(forward, X).layers
    found = layers.groupby("func")["n_passes"].max()
    assert found["randn_like"] == found["tanh"] == 5
    assert list(layers.loc[layers["layer"] == "tanh_1", "pass_num"]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("save", ["all", "0"])
def test_a_trace_is_freed_without_the_collector(save):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    gc.collect()
    gc.disable()
    try:
        trace = silent(model, X, save=save)
        tape = weakref.ref(trace.tape)
        del trace
        assert tape() is None
    finally:
        gc.enable()


def test_many_aliased_writes_have_few_parents():
    """Disjoint blocks do not alias each other, in whatever order they are written."""

    def forward(x):
        blocks = list(x.clone().unbind())
        for i in (2, 0, 3, 1):
            blocks[i].add_(i)
        return blocks[0] + blocks[3]

    layers = silent(forward, X).layers
    assert "alias" not in set(layers["kind"])
    assert layers.loc["add_2", "parents"] == ("add_1:2", "add_1:3")  # of blocks 0 and 3


def test_a_bound_forward_warns_of_train_mode():
    with pytest.warns(lf.LensWarning, match="train mode"):
        lf.trace(nn.Linear(8, 8).train().forward, X)


@functools.lru_cache(maxsize=8)
def table(n):
    return torch.arange(n) * 2.0


@functools.cache
def endless(n):
    return torch.arange(n) * 3.0


def through_a_decorator(function):
    cached = functools.lru_cache(maxsize=1)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return cached(*args)

    return wrapper


class Position(nn.Module):
    @staticmethod
    @through_a_decorator
    def table(n):
        return torch.linspace(0, 1, n)

    def forward(self, x):
        return self.table(len(x))


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = Position()

    @functools.lru_cache(maxsize=8)  # noqa: B019 (as models do)
    def grid(self, n):
        return torch.ones(n), torch.zeros(n)

    def forward(self, x):
        return x * table(4) + endless(4) + self.grid(4)[0] + self.position(x)


def test_results_that_lru_cache_keeps_are_named_and_do_not_warn():
    model = Cached().eval()
    model(torch.ones(4))
    layers, activations = lf.trace(model, torch.ones(4))
    constants = layers[layers["kind"] == "constant"]
    assert [path.split(".cache.")[0] for path in constants["path"]] == [
        "table",
        "endless",
        "Cached.grid",
        "Position.table",
    ]
    assert activations["constant_1"].values.tolist() == [0, 2, 4, 6]

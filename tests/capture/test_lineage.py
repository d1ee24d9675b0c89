"""Links and memory that are easy to lose: broken ones warn, whole ones stay silent."""

import gc
import json
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
        lf.trace(nn.Dropout(0.5).train().forward, X)

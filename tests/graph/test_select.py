"""Rows chosen along the graph, each against an expectation in plain pandas, networkx or by hand."""

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lensframe_pd as lf

from .random_graphs import graphs


def test_ancestors_and_descendants_are_those_of_networkx(net, recurrent):
    for frame in (net, recurrent):
        graph = networkx.DiGraph()
        graph.add_nodes_from(frame.index)
        graph.add_edges_from((p, op) for op, parents in frame["parents"].items() for p in parents)
        for op in frame.index:
            assert set(frame.lens.ancestors(op).index) == networkx.ancestors(graph, op)
            assert set(frame.lens.descendants(op).index) == networkx.descendants(graph, op)


def test_between_is_what_lies_on_a_path(net):
    found = net.lens.between("linear_1", "add_1")
    assert found.index.tolist() == ["linear_1", "linear_2", "relu_1", "add_1"]
    with pytest.raises(lf.LensValueError, match="no path leads from 'add_1' to 'linear_1'"):
        net.lens.between("add_1", "linear_1")


def test_find_by_label_layer_and_module(net, recurrent):
    assert net.lens.find("relu_2").index.tolist() == ["relu_2"]
    inside = net[[any(c.startswith("blocks.1:") for c in s) for s in net["module_stack"]]]
    assert net.lens.find("blocks.1").index.tolist() == inside.index.tolist()
    assert len(inside) == 3
    assert len(recurrent.lens.find("tanh_1")) == 5
    assert recurrent.lens.find("cell:2").index.tolist() == [
        "linear_1:2", "linear_2:2", "add_1:2", "tanh_1:2",
    ]  # fmt: skip
    with pytest.raises(lf.LensKeyError, match=r"did you mean 'blocks\.1'"):
        net.lens.find("block.1")


def test_keep_connects_through_what_is_dropped(net):
    kept = net.lens.keep(net["func"].isin(["input", "linear", "output"]))
    assert kept["parents"].to_dict() == {
        "input_1": (),
        "linear_1": ("input_1",),
        "linear_2": ("linear_1",),
        "linear_3": ("linear_1", "linear_2"),
        "linear_4": ("linear_1", "linear_2", "linear_3"),
        "output_1": ("linear_4",),
    }
    assert kept["n_parents"].tolist() == [len(p) for p in kept["parents"]]
    assert net.lens.keep(lambda rows: rows["func"] == "relu")["parents"].tolist() == [
        (), ("relu_1",),
    ]  # fmt: skip
    pd.testing.assert_frame_equal(net.lens.keep(np.ones(len(net), bool)), net)


def test_keep_leaves_edges_to_rows_that_were_gone_before(net):
    part = net.loc["linear_2":"add_1"]
    kept = part.lens.keep(part["func"] == "add")
    assert kept.loc["add_1", "parents"] == ("linear_1", "linear_1")  # beside the block and into it
    assert kept.loc["add_1", "parent_args"] == ("input", "other")


def test_keep_on_a_rolled_loop_ends(recurrent):
    rolled = recurrent.lens.roll()
    kept = rolled.lens.keep(rolled["func"].isin(["input", "tanh"]))
    assert set(kept.loc["tanh_1", "parents"]) == {"input_1", "tanh_1"}


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True], "1 values for 10 rows"),
        (["yes"] * 10, "not boolean"),
        (pd.Series([True], index=["relu_1"]), "no value for 9 of 10"),
    ],
)
def test_wrong_masks(net, mask, error):
    assert len(net) == 10
    with pytest.raises(lf.LensError, match=error):
        net.lens.keep(mask)


@given(graphs(), st.data())
@settings(deadline=None)
def test_keep_on_random_graphs_follows_every_path(frame, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))
    kept = frame.lens.keep(mask)
    chosen = set(frame.index[mask])

    def nearest(op):
        return {op} if op in chosen else set().union(*map(nearest, frame.at[op, "parents"]))

    for op, parents in kept["parents"].items():
        assert set(parents) == set().union(*map(nearest, frame.at[op, "parents"]))


def test_an_operation_and_a_module_of_one_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu_1 = nn.Tanh()
            self.linear_1 = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear_1(self.relu_1(x.relu()))

    layers = lf.trace(Odd().eval(), torch.rand(2, 3)).layers
    with pytest.warns(lf.LensWarning, match=r"module of that path has 'tanh_1'.*'module=relu_1'"):
        assert layers.lens.find("relu_1").index.tolist() == ["relu_1"]
    assert layers.lens.find("module=relu_1").index.tolist() == ["tanh_1"]
    assert layers.lens.find("linear_1").index.tolist() == ["linear_1"]  # one and the same
    assert layers.lens.ancestors("module=relu_1").index.tolist() == ["input_1", "relu_1"]
    with pytest.raises(lf.LensKeyError, match=r"no module 'relu'.*'relu_1'"):
        layers.lens.find("module=relu")

"""Rows of an earlier run as a plan: found by their address, or refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture.plan import Address, Departed, Follow, followed
from lensframe_pd.capture.run import Run


class Steps(nn.Module):
    """A recurrent cell over the steps of its input, then a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2), nn.ReLU())

    def forward(self, x):
        h = torch.zeros(len(x), 3)
        for t in range(x.shape[1]):
            h = torch.tanh(self.cell(x[:, t]) + h)
        return self.head(h)


def test_the_address_of_each_row():
    trace = lf.trace(Steps().eval(), torch.ones(1, 2, 3))
    assert followed(trace.tape) == [
        Address("", "input", 1),
        Address("", "zeros", 1),
        Address("", "getitem", 1),
        Address("cell:1", "linear", 1),
        Address("", "add", 1),
        Address("", "tanh", 1),
        Address("", "getitem", 2),
        Address("cell:2", "linear", 1),
        Address("", "add", 2),
        Address("", "tanh", 2),
        Address("head.0:1", "linear", 1),
        Address("head.1:1", "relu", 1),
        Address("", "output", 1),
    ]
    assert [a.ordinal for a in followed(trace.tape)] == trace.layers["ordinal"].tolist()


def test_rows_of_a_shorter_run_are_found_in_a_longer_one():
    """What ran more often before them does not move them."""
    model = Steps().eval()
    rows = lf.trace(model, torch.ones(1, 2, 3), save=None).layers.loc[["tanh_1:2", "relu_1"]]
    long = torch.linspace(-1, 1, 15).reshape(1, 5, 3)
    whole = lf.trace(model, long).activations
    found = lf.trace(model, long, save=rows).activations
    assert list(found) == ["tanh_1:2", "relu_1"]
    for name in found:
        np.testing.assert_array_equal(found[name], whole[name])


def test_results_of_one_call_are_told_apart():
    def both(x):
        values, indices = x.max(1)
        return values, indices, x.max(0)[0]

    layers = lf.trace(both, torch.eye(3)).layers
    rows = layers[layers["dtype"] == "int64"].query("kind == 'op'").iloc[:1]
    found = lf.trace(both, torch.eye(3), save=rows).activations
    assert list(found) == list(rows.index)
    np.testing.assert_array_equal(found[rows.index[0]], [0, 1, 2])


def test_a_row_whose_label_is_another_now_is_refused():
    """Its place is there, but what it is called depends on what else ran."""

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.second(self.first(x) * 2 if x.sum() > 0 else x * 2)

    rows = lf.trace(Branch().eval(), torch.ones(3)).layers.loc[["relu_2"]]
    with pytest.raises(
        lf.LensValueError, match="relu number 1 in second:1 is 'relu_2' in save= and 'relu_1' in"
    ):
        lf.trace(Branch().eval(), -torch.ones(3), save=rows)


def test_rows_of_two_runs_are_refused():
    a = lf.trace(lambda x: torch.relu(x), torch.ones(2)).layers
    b = lf.trace(lambda x: torch.relu(x.relu() * 2), torch.ones(2)).layers
    rows = pd.concat([a.query("func == 'relu'"), b.query("func == 'relu'")])
    rows.index = pd.Index(["relu_1", "relu_2", "relu_3"], name="op")
    with pytest.raises(lf.LensValueError, match="'relu_1' and 'relu_2' for the same place"):
        lf.trace(lambda x: torch.relu(x), torch.ones(2), save=rows)


def test_rows_without_an_address_are_names():
    """Those of a merge that kept little, or of a file from before the column."""
    layers = lf.trace(Steps().eval(), torch.ones(1, 3, 3), save=None).layers
    few = layers.loc[["tanh_1:2"], ["func", "module"]]
    assert list(lf.trace(Steps().eval(), torch.ones(1, 3, 3), save=few).activations) == ["tanh_1:2"]


def test_rows_from_a_file(tmp_path):
    model, x = Steps().eval(), torch.ones(1, 3, 3)
    lf.trace(model, x, save=None).layers.to_parquet(tmp_path / "layers.parquet")
    rows = pd.read_parquet(tmp_path / "layers.parquet").query("func == 'tanh'").iloc[1:]
    found = lf.trace(model, x, save=rows, stop=True)
    assert list(found.activations) == ["tanh_1:2", "tanh_1:3"]
    assert found.layers.index[-1] == "tanh_1:3"


def test_an_input_alone_stops_before_the_model():
    ran = []
    rows = lf.trace(lambda x: x + 1, torch.ones(2)).layers.loc[["input_1"]]
    trace = lf.trace(lambda x: ran.append(x), torch.ones(2), save=rows, stop=True)
    assert list(trace.activations) == ["input_1"]
    assert ran == []


def test_no_more_is_kept_than_planned():
    megabyte = torch.ones(2**18)

    def forward(x):
        for _ in range(300):
            x = x * 1.0001
        return x

    rows = lf.trace(forward, megabyte, save=None).layers.loc[["mul_1:3", "mul_1:200"]]
    trace = lf.trace(forward, megabyte, save=rows)
    assert sum(value is not None for value in trace.tape.values) == 2
    assert list(trace.activations) == ["mul_1:3", "mul_1:200"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda x: (x * 2).exp(), "row 2 was exp number 1, and sin number 1 in the first run"),
        (lambda x: (x * 2).sin().exp(), "row 3 was exp number 1, and output number 1 in"),
        (lambda x: nn.ReLU()(x * 2), "row 2 was relu number 1 in ReLU:1, and sin number 1 in"),
    ],
)
def test_a_run_ends_where_it_leaves_the_path(other, said):
    path = followed(lf.trace(lambda x: (x * 2).sin(), torch.ones(2)).tape)
    with pytest.raises(Departed, match=said):
        Run(other, also=lambda tape: Follow(tape, path)).execute((torch.ones(2),), {})
    assert lf.trace(other, torch.ones(2)).output is not None  # nothing of it is left

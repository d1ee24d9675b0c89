"""Validation passes what is right and, above all, fails what is wrong."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS

from .reports import Net, X, failed, validate


def test_all_checks_pass_on_a_faithful_trace(model, traced):
    layers, activations = traced
    report = validate(layers, activations, model, downstream="all")
    assert list(report.index) == list(layers.index)
    assert report["passed"].all()
    ops = layers["kind"].isin(["op", "alias", "output"])
    assert report.loc[ops.to_numpy(), "replay"].all()
    assert report.loc[ops.to_numpy(), "dependence"].all()
    assert (report.loc[ops.to_numpy(), "max_abs_diff"] == 0).all()
    # everything but the comparison that only steers the branch reaches the output
    reaching = ops & (layers["kind"] == "op") & ~layers["func"].isin(["sum", "gt"])
    assert report.loc[reaching.to_numpy(), "downstream"].all()
    assert report["completeness"].all()
    assert report["invariants"].all()
    assert report.loc["output_1", "interference"]
    assert report.attrs["failed"] == 0
    assert report.attrs["aten_gaps"] == 0


def test_the_shorthand_says_the_same(model, traced):
    layers, activations = traced
    with torch.no_grad():
        trace = lf.trace(model, X)
        here, there = trace.validate(), validate(layers, activations, model)
    there.loc["input_1", ["check", "replay", "max_abs_diff"]] = ["invariants", pd.NA, np.nan]
    pd.testing.assert_frame_equal(here, there)  # only a frame has to ask for the same input


def test_it_works_on_files(model, traced, tmp_path):
    layers, activations = traced
    layers.to_parquet(tmp_path / "layers.parquet")
    renamed = activations.rename({op: op.replace(":", "__") for op in activations.data_vars})
    renamed.to_netcdf(tmp_path / "activations.nc", engine="netcdf4")
    from_disk = xr.load_dataset(tmp_path / "activations.nc")
    from_disk = from_disk.rename({op: op.replace("__", ":") for op in from_disk.data_vars})
    report = validate(pd.read_parquet(tmp_path / "layers.parquet"), from_disk, model)
    assert report["passed"].all()
    assert report.loc["linear_1:2", "max_abs_diff"] == 0


def test_nothing_is_changed(model, traced):
    layers, activations = traced
    state, frame = copy.deepcopy(model.state_dict()), layers.copy(deep=True)
    values = {op: v.to_numpy().copy() for op, v in activations.data_vars.items()}
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    x = X.clone()
    with torch.no_grad():
        layers.lens.validate(model, x, activations=activations, downstream="all")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(x, X)
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert all(not module._forward_hooks for module in model.modules())
    pd.testing.assert_frame_equal(layers, frame)
    for op, value in values.items():
        np.testing.assert_array_equal(activations[op].to_numpy(), value)


FACTS = [c for c in COLUMNS if c not in ("seconds", "source", "unsaved_reason")]


def other_cell(cell):
    """A cell of the same kind that says something else."""
    if isinstance(cell, bool | np.bool_):
        return not cell
    if isinstance(cell, int | np.integer):
        return cell + 1
    if isinstance(cell, str):
        return cell + "x"
    if cell and isinstance(cell[0], str):
        return (*cell[:-1], cell[-1] + "x")
    if cell and isinstance(cell[0], int):
        return (*cell[:-1], cell[-1] + 1)
    return cell[:-1] if cell else ("x",)


@pytest.mark.parametrize("column", FACTS)
def test_a_corrupted_cell_of_any_column_is_found(model, traced, column):
    layers, activations = traced
    random = np.random.default_rng(len(column))
    for op in random.choice(layers.index, 2, replace=False):
        wrong = layers.copy()
        wrong.at[op, column] = other_cell(layers.at[op, column])
        report = validate(wrong, activations, model, downstream=None)
        assert not report.loc[op, "passed"], (op, wrong.at[op, column])
        assert report.loc[op, "reason"]


def test_raising(model, traced):
    layers, activations = traced
    wrong = layers.assign(func=layers["func"].where(layers["func"] != "relu", "gelu"))
    with pytest.raises(lf.LensValidationError, match=r"relu_1: .*gelu") as caught:
        validate(wrong, activations, model, raise_on_failure=True)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.report["passed"].sum() == len(layers) - 1


def test_a_partly_saved_trace(model):
    with torch.no_grad():
        trace = lf.trace(model, X, save=["conv2d_1", "batch_norm_1", "relu_1"])
        report = trace.validate()
    assert report["passed"].all()
    assert set(report.index[report["replay"].fillna(False)]) == {"batch_norm_1", "relu_1"}
    assert "'input_1' is not saved" in report.loc["conv2d_1", "reason"]


def test_without_values(model, traced):
    layers, _ = traced
    report = validate(layers.assign(saved=False), None, model)
    assert report["passed"].all()
    assert report["replay"].isna().all()
    assert report["completeness"].all()


def test_a_stopped_trace(model):
    with torch.no_grad():
        layers, activations = lf.trace(model, X, save=["relu_1"], stop=True)
        report = layers.lens.validate(model, X, activations=activations)
    assert report["passed"].all()
    assert list(report.index) == list(layers.index)


class Caching(nn.Module):
    """Computes a table once; a second forward finds it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6))
        self.table = {}
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if "w" not in self.table:
            self.table["w"] = self.weight.exp() * 2
        return x * self.table["w"]


def test_a_model_that_keeps_state():
    fresh = Caching().eval()
    model = copy.deepcopy(fresh)
    with torch.no_grad():
        trace = lf.trace(model, X)
        report = trace.validate()
        assert report["passed"].all()
        assert model.calls == 1
        assert fresh.table == {}
        report = trace.layers.lens.validate(fresh, X, activations=trace.activations)
        assert report["passed"].all()
        assert fresh.calls == 0
        assert fresh.table == {}
        # the model as it is now does not compute the table
        report = trace.layers.lens.validate(model, X, activations=trace.activations)
    assert "exp_1" in failed(report, "invariants")


def test_training_mode_with_buffers_that_move():
    model = Net().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.LensWarning)
        trace = lf.trace(model, X)
    before = model.norm.running_mean.clone()
    report = trace.validate(downstream="all")
    assert report["passed"].all(), report[~report["passed"]].to_string()
    assert report.loc["batch_norm_1", "replay"]
    assert torch.equal(model.norm.running_mean, before)


class Remaking(nn.Module):
    """Makes a module of its own while it runs, as BigBird does when its input is short."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(8))

    def forward(self, x):
        for i in range(len(self.layers)):
            self.layers[i] = nn.Linear(6, 6)
            x = self.layers[i](x)
        return x


def test_modules_made_while_it_runs_stay_linked_to_what_made_them():
    trace = lf.trace(Remaking().eval(), X[0, 0])  # a broken link would warn
    assert not (trace.layers["kind"] == "constant").any()
    assert trace.validate()["passed"].all()


def test_wrong_arguments(model, traced):
    layers, activations = traced
    with pytest.raises(lf.LensKeyError, match="validate needs column 'parents'"):
        validate(layers.drop(columns="parents"), activations, model)
    with pytest.raises(lf.LensValueError, match="no rows"):
        validate(layers.iloc[:0], activations, model)
    with pytest.raises(lf.LensValueError, match="'sample', 'all' or None"):
        validate(layers, activations, model, downstream="some")
    with pytest.raises(lf.LensTypeError, match="give the Dataset"):
        validate(layers, layers, model)

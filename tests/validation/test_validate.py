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


class Net(nn.Module):
    """A convolution, a loop with shared weights, a subtraction, a write through a view."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        h = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        for _ in range(3):
            h = torch.tanh(self.fc(h)) * self.scale
        y = h.clone()
        y[:, 0] = 5
        v = y[:, 1]
        v.add_(1)
        left, right = y.chunk(2, 1)
        return left - right if bool(left.sum() > -1000) else left


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    return Net().eval()


@pytest.fixture
def traced(model):
    with torch.no_grad():
        layers, activations = lf.trace(model, X)
    return layers, activations


def validate(layers, activations, model, **options):
    with torch.no_grad():
        return layers.lens.validate(model, X, activations=activations, **options)


def writable(activations, op):
    """The dataset with a copy of one variable that can be changed."""
    changed = activations.copy()
    changed[op] = activations[op].copy(deep=True)
    changed[op].attrs = activations[op].attrs
    return changed


def failed(report, check):
    """The ops for which a check failed."""
    return set(report.index[report[check] == False])  # noqa: E712 (missing is not False)


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


# ------------------------------------------------------------ what must be caught


@pytest.mark.parametrize("op", ["conv2d_1", "linear_1:2", "alias_1", "output_1", "input_1"])
def test_one_corrupted_value(model, traced, op):
    layers, activations = traced
    changed = writable(activations, op)
    flat = changed[op].to_numpy().reshape(-1)
    flat[0] = np.nextafter(flat[0], np.float32(np.inf))
    changed[op] = (changed[op].dims, flat.reshape(changed[op].shape), changed[op].attrs)
    report = validate(layers, changed, model)
    assert op in failed(report, "replay")
    assert "replay" in report.loc[op, "reason"]
    assert 0 < report.loc[op, "max_abs_diff"] < 1e-5


def test_an_activation_mutated_in_place_in_a_trace(model):
    with torch.no_grad():
        trace = lf.trace(model, X)
    array = trace.activations["relu_1"].to_numpy()
    trace.tape.values[list(trace.layers.index).index("relu_1")][0, 0, 0, 0] += 1
    assert array[0, 0, 0, 0] == trace.activations["relu_1"].to_numpy()[0, 0, 0, 0]
    report = trace.validate()
    assert failed(report, "replay") == {"relu_1", "mean_1"}


def test_a_dropped_edge(model, traced):
    layers, activations = traced
    cut = layers.copy()
    cut.at["sub_1", "parents"] = cut.at["sub_1", "parents"][:1]
    cut.at["sub_1", "parent_args"] = cut.at["sub_1", "parent_args"][:1]
    cut.at["sub_1", "n_parents"] = 1
    report = validate(cut, activations, model)
    assert "sub_1" in failed(report, "replay")
    assert "no parent for the argument 'other'" in report.loc["sub_1", "reason"]


def test_two_parents_swapped(model, traced):
    layers, activations = traced
    swapped = layers.copy()
    swapped.at["sub_1", "parents"] = swapped.at["sub_1", "parents"][::-1]
    report = validate(swapped, activations, model)
    assert "sub_1" in failed(report, "replay")
    assert "sub_1" in failed(report, "invariants")


def test_a_renumbered_pass(model, traced):
    layers, activations = traced
    wrong = layers.copy()
    wrong.at["tanh_1:2", "pass_num"] = 3
    report = validate(wrong, activations, model)
    assert {"tanh_1:1", "tanh_1:2", "tanh_1:3"} <= failed(report, "invariants")
    assert "passes 1, 3, 3" in report.loc["tanh_1:1", "reason"]


@pytest.mark.parametrize("op", ["gt_1", "relu_1", "output_1", "mul_1:3"])
def test_a_removed_row(model, traced, op):
    layers, activations = traced
    report = validate(layers.drop(index=op), activations, model)
    assert op in failed(report, "invariants")
    assert "lacks this row" in report.loc[op, "reason"]


def test_an_added_row(model, traced):
    layers, activations = traced
    extra = layers.loc[["relu_1"]].rename(index={"relu_1": "relu_2"})
    extra["layer"] = "relu_2"
    report = validate(pd.concat([layers, extra]), activations, model)
    assert "no such operation" in report.loc["relu_2", "reason"]


def test_a_parameter_changed_since(model, traced):
    layers, activations = traced
    with torch.no_grad():
        model.fc.weight[0, 0] += 1e-3
    report = validate(layers, activations, model)
    assert failed(report, "replay") == {"linear_1:1", "linear_1:2", "linear_1:3"}


def test_another_input(model, traced):
    layers, activations = traced
    with torch.no_grad():
        report = layers.lens.validate(model, X + 1, activations=activations)
    assert failed(report, "replay") == {"input_1"}
    assert "not the one given now" in report.loc["input_1", "reason"]


class Hidden(nn.Module):
    """An operation no function mode can see."""

    def forward(self, x):
        x = x + 1
        with torch._C.DisableTorchFunction():
            x = x.sin()
        return x * 2


def test_an_operation_the_tracer_cannot_see():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.LensWarning)
        trace = lf.trace(Hidden().eval(), torch.ones(3))
    report = trace.validate()
    assert len(failed(report, "completeness")) == 1
    assert "aten.sin" in report["reason"].str.cat()


class Nosy(nn.Module):
    """Its output tells whether a function mode is active."""

    def forward(self, x):
        seen = torch._C._len_torch_function_stack()
        self.seen = seen
        return x + seen


def test_a_model_that_tracing_changes():
    report = lf.trace(Nosy().eval(), torch.ones(3)).validate()
    assert failed(report, "interference") == {"output_1"}
    assert "seen" in report.loc["output_1", "reason"]


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
    for op in random.choice(layers.index, 4, replace=False):
        wrong = layers.copy()
        wrong.at[op, column] = other_cell(layers.at[op, column])
        report = validate(wrong, activations, model, downstream=None)
        assert not report.loc[op, "passed"], (op, wrong.at[op, column])
        assert report.loc[op, "reason"]


# ------------------------------------------------- what it can and cannot say


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


class Noisy(nn.Module):
    def forward(self, x):
        noise = torch.zeros(6).uniform_(generator=None)
        return (x + torch.rand_like(x)).relu() * torch.randn(()) * noise


def test_random_operations_replay_from_the_state_they_drew_from():
    trace = lf.trace(Noisy().eval(), X)
    report = trace.validate()
    assert report["passed"].all()
    assert report.loc[["rand_like_1", "randn_1", "uniform_1"], "replay"].all()
    trace.tape.values[list(trace.layers.index).index("uniform_1")][0] += 0.1
    assert failed(trace.validate(), "replay") == {"uniform_1", "mul_2"}


def test_random_operations_of_a_frame_need_a_seed():
    model = Noisy().eval()
    layers, activations = lf.trace(model, X)
    report = layers.lens.validate(model, X, activations=activations)
    assert report["passed"].all()
    assert report.loc["rand_like_1", "replay"] is pd.NA
    assert "no seed" in report.loc["rand_like_1", "reason"]
    layers, activations = lf.trace(model, X, seed=7)
    report = layers.lens.validate(model, X, activations=activations)
    assert report.loc["rand_like_1", "replay"]


class Masked(nn.Module):
    def forward(self, x):
        kept = torch.where(x > -100, x, x * 3)
        base = torch.zeros_like(x)
        base[:] = kept
        return base + x.new_ones(()).expand_as(x)


def test_exemptions_are_shown_and_counted():
    report = lf.trace(Masked().eval(), X).validate()
    assert report["passed"].all()
    reasons = report["reason"]
    assert "'condition' leaves no room" in reasons["where_1"]
    assert "only its shape is read" in reasons["zeros_like_1"]
    assert "overwrites all of it" in reasons["setitem_1"]
    assert "only its dtype is read" in reasons["new_ones_1"]
    exempt = sum(text.count("does not depend on") for text in reasons)
    assert report.attrs["dependence_exempt"] == exempt == 5  # expand_as reads the shape of x


class Uninitialised(nn.Module):
    def forward(self, x):
        room = torch.empty(2000)
        return room.copy_(x)


def test_uninitialised_memory_is_said_to_be():
    trace = lf.trace(Uninitialised().eval(), torch.ones(2000))
    i = list(trace.layers.index).index("empty_1")
    trace.tape.values[i].fill_(3.0)  # whatever was there
    report = trace.validate()
    assert report["passed"].all()
    assert "not initialised" in report.loc["empty_1", "reason"]


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


def test_views_that_functorch_makes_on_leaving_are_no_gap():
    def outer(x):
        inner = torch.vmap(lambda a, b: b > 0, in_dims=(None, 0))
        return torch.vmap(inner, in_dims=(0, None))(x, x) * 1

    report = lf.trace(outer, torch.arange(4.0)).validate()
    assert report["passed"].all()
    assert report.attrs["aten_gaps"] == 0


class Transposed(nn.Module):
    """A product with a view of a parameter: autograd's flag chooses its kernel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 16))

    def forward(self, x):
        return x.transpose(-1, -2) @ self.weight.t()


def test_replays_choose_the_same_kernel():
    x = torch.randn(8, 2, 16, 2, generator=torch.Generator().manual_seed(0)).transpose(-1, -2)
    with torch.no_grad():
        report = lf.trace(Transposed().eval(), x.transpose(-1, -2)).validate()
    assert report["passed"].all()
    assert (report["max_abs_diff"].dropna() == 0).all()


def test_slices_replay_at_the_alignment_they_had():
    cell = nn.LSTMCell(5, 8).eval()

    def unrolled(x):
        state = None
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
        return state[0]

    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        report = lf.trace(unrolled, x).validate()
    assert report["passed"].all()
    assert (report["max_abs_diff"].dropna() == 0).all()
    assert not report["reason"].str.contains("kernel").any()


class Energetic(nn.Module):
    """Descends its own energy: gradients inside the forward, to the input and to a parameter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = (torch.tanh(self.fc(x)) ** 2).sum()
            (toward_input,) = torch.autograd.grad(energy, x, retain_graph=True)
            (toward_weight,) = torch.autograd.grad(energy, self.fc.weight)
        return x.detach() - 0.1 * toward_input + toward_weight.mean()


def test_gradients_are_taken_again():
    with torch.no_grad():
        trace = lf.trace(Energetic().eval(), X[0, 0])
        report = trace.validate()
        assert report["passed"].all()
        assert report.loc[["grad_1", "grad_2"], "replay"].all()
        trace.tape.values[list(trace.layers.index).index("grad_2")][0, 0] += 0.1
        assert failed(trace.validate(), "replay") == {"grad_2", "mean_1"}


@pytest.mark.parametrize("masked", [False, True])
def test_encoders_that_decide_by_their_mask(masked):
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    kwargs = {"src_key_padding_mask": mask} if masked else {}
    with torch.no_grad():
        trace = lf.trace(model, torch.randn(2, 5, 8), kwargs)
        report = trace.validate()
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    if masked:  # torch asks whether the mask is left-aligned
        assert "left_aligned" in str(trace.layers["read_by"].tolist())


def test_sparse_tensors_have_no_stride():
    report = lf.trace(lambda x: torch.sparse.mm(x.to_sparse(), x.t()), X[0, 0]).validate()
    assert report["passed"].all()


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

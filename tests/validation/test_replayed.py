"""Each call again on its saved arguments: right values pass, one wrong bit fails."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf

from .reports import X, failed, validate, writable


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


class Seeded(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return x + torch.rand(3, generator=self.generator) + torch.randn(3)


def test_a_generator_of_the_models_own_is_replayed_and_not_moved():
    model = Seeded().eval()
    trace = lf.trace(model, torch.ones(3))
    before = model.generator.get_state()
    report = trace.validate()
    assert torch.equal(model.generator.get_state(), before)
    assert report["passed"].all()
    assert report.loc[["rand_1", "randn_1"], "replay"].all()


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


class Halves(nn.Module):
    """Every kind of row, in bfloat16."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x):
        y = self.fc(x) + self.shift
        y[0] = 1.5
        return torch.softmax(y.view(-1), 0), y.T[1:], torch.rand(3, dtype=x.dtype)


def nudged(values):
    """The next float32, which bfloat16 does not hold."""
    return np.nextafter(values, np.float32(np.inf))


def negative_zero(values):
    values[values == 0] = -0.0
    return values


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_bfloat16_is_compared_as_it_was_saved(tolerance):
    model, x = Halves().to(torch.bfloat16).eval(), torch.zeros(2, 3, dtype=torch.bfloat16)
    layers, activations = lf.trace(model, x, seed=0)
    given = {"activations": activations, "tolerance": tolerance}
    assert layers.lens.validate(model, x, **given)["passed"].all()
    assert {v.dtype for v in activations.values()} == {np.dtype(np.float32)}
    for op in layers.index:
        changed = writable(activations, op)
        values = nudged(changed[op].to_numpy().copy())
        changed[op] = (changed[op].dims, values, changed[op].attrs)
        report = layers.lens.validate(model, x, activations=changed, tolerance=tolerance)
        largest = report.loc[op, "max_abs_diff"]
        assert 0 < largest < 1e-6, op
        assert (op in failed(report, "replay")) == (tolerance is None or "input" in op), op


@pytest.mark.parametrize("change", ["float64", "float16", "a sign of zero"])
def test_bfloat16_that_was_saved_as_something_else(change):
    model, x = nn.ReLU().eval(), torch.tensor([-1.0, 2.0], dtype=torch.bfloat16)
    layers, activations = lf.trace(model, x)
    changed = writable(activations, "relu_1")
    values = changed["relu_1"].to_numpy()
    values = negative_zero(values.copy()) if "zero" in change else values.astype(change)
    changed["relu_1"] = (changed["relu_1"].dims, values, changed["relu_1"].attrs)
    report = layers.lens.validate(model, x, activations=changed)
    assert "relu_1" in failed(report, "replay")

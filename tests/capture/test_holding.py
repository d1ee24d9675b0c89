"""With autograd's graph kept: values are not copied for it, and nobody's write changes them."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture.holding import held_by_python


def test_this_torch_counts_references_as_expected():
    assert held_by_python([]) == set()


class Keeps(nn.Module):
    """Keeps what `keep` makes of its first layer's output."""

    def __init__(self, keep):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)
        self.keep = keep

    def forward(self, x):
        y = self.first(x).relu()
        self.kept = self.keep(y)
        return self.last(y).exp()


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.held = x
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


HOLDERS = {
    "itself": (lambda y: y, lambda kept: kept),
    "a list": (lambda y: [y], lambda kept: kept[0]),
    "a closure": (lambda y: lambda: y, lambda kept: kept()),
    "a view": (lambda y: y[0], lambda kept: kept),
    "a view of a view": (lambda y: y.view(-1)[2:], lambda kept: kept),
    "a detached one": (lambda y: y.detach(), lambda kept: kept),
    "an array": (lambda y: y.detach().numpy(), lambda kept: torch.from_numpy(kept)),
    "a function's context": (lambda y: Twice.apply(y), lambda kept: kept.grad_fn.held),
}


@pytest.mark.parametrize("after", ["nothing", "gradients", "activations"])
@pytest.mark.parametrize("how", HOLDERS)
def test_what_somebody_holds_has_a_copy(how, after):
    keep, read = HOLDERS[how]
    model, x = Keeps(keep), torch.randn(3, 4)
    expected = model.first(x).relu().detach().numpy()
    trace = lf.trace(model, x, gradients=True)
    if after == "gradients":
        trace.gradients(lambda o: o.sum())
    elif after == "activations":
        trace.activations
    with torch.no_grad():
        read(model.kept).fill_(7)
    assert np.array_equal(trace.activations["relu_1"].values, expected)


@pytest.mark.parametrize("shown", [False, True])
def test_an_alias_that_was_never_seen(shown):
    """It is written: then the value is as it was, or is let go of with the reason."""
    model, x = Keeps(lambda y: Same.apply(y)), torch.randn(3, 4)
    expected = model.first(x).relu().detach().numpy()
    trace = lf.trace(model, x, gradients=True)
    if shown:
        trace.activations
    with torch.no_grad():
        model.kept.fill_(7)
    if shown or trace.layers.loc["relu_1", "saved"]:
        assert np.array_equal(trace.activations["relu_1"].values, expected)
    else:
        assert "relu_1" not in trace.activations
        assert "out of the trace's sight" in trace.layers.loc["relu_1", "unsaved_reason"]


def test_the_output_has_a_copy():
    trace = lf.trace(
        nn.Sequential(nn.Linear(4, 5), nn.Sigmoid()), torch.randn(3, 4), gradients=True
    )
    expected = trace.output.detach().clone().numpy()
    with torch.no_grad():
        trace.output.zero_()
    assert np.array_equal(trace.activations["sigmoid_1"].values, expected)
    assert np.array_equal(trace.activations["output_1"].values, expected)


def test_what_only_the_graph_holds_has_none():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2))
    trace = lf.trace(model, torch.randn(3, 4), gradients=True)
    saved = trace.output.grad_fn._saved_mat1
    row = [*trace._passes.labels()].index("sigmoid_1")
    assert trace.tape.values[row].data_ptr() == saved.data_ptr()
    del saved
    trace.gradients(lambda o: o.sum())
    trace.output = None
    gc.collect()
    before = trace.tape.values[row].data_ptr()
    assert trace.activations["sigmoid_1"].values.ctypes.data == before


def test_a_graph_that_goes_on_being_there_is_copied_when_values_are_shown():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2))
    trace = lf.trace(model, torch.randn(3, 4), gradients=True)
    shown = trace.activations["sigmoid_1"].values
    assert shown.ctypes.data != trace.output.grad_fn._saved_mat1.data_ptr()

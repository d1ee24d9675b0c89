"""The Dataset of gradients: what is in it, what is not and why, and what is refused."""

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lensframe_pd as lf


def net():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def square(output):
    return output.square().sum()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ what is in it


@pytest.mark.parametrize("save", ["all", None, "relu_1"])
def test_labels_dims_and_coordinates_are_those_of_the_activations(save):
    model, ids = net(), pd.DataFrame({"kind": list("aab")}, index=["p", "q", "r"])
    whole = lf.trace(model, X, stimulus=ids).activations
    trace = lf.trace(model, X, save=save, stimulus=ids, gradients=True)
    gradients = trace.gradients(square)
    assert [*gradients.data_vars] == ["linear_1", "relu_1", "linear_2", "output_1"]
    for label, gradient in gradients.data_vars.items():
        assert gradient.dims == whole[label].dims
        assert gradient.attrs == whole[label].attrs
    assert gradients["kind"].values.tolist() == list("aab")
    assert gradients["stimulus"].values.tolist() == list("pqr")
    out = model(X)
    assert np.array_equal(gradients["linear_2"].values, (2 * out).detach().numpy())


def test_gradient_times_activation_is_one_line():
    trace = lf.trace(net(), X, gradients=True)
    product = trace.activations * trace.gradients(square)
    assert np.array_equal(product["linear_2"].values, 2 * trace.output.detach().numpy() ** 2)


@pytest.mark.parametrize("loss", ["tensor", "function"])
def test_the_loss_is_a_number_or_a_function_of_the_output(loss):
    trace = lf.trace(net(), X, gradients=True)
    gradients = trace.gradients(square(trace.output) if loss == "tensor" else square)
    assert np.array_equal(gradients["output_1"].values, 2 * trace.output.detach().numpy())


ROWS = {
    "a label": ("relu_1", ["relu_1"]),
    "labels": (["relu_1", "linear_2"], ["relu_1", "linear_2"]),
    "a module": ("2", ["linear_2"]),
    "a call of a module": ("2:1", ["linear_2"]),
    "none": ([], []),
}


@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_chosen_at_the_call(rows):
    asked, expected = ROWS[rows]
    trace = lf.trace(net(), X, gradients=True)
    whole = trace.gradients(square, retain_graph=True)
    chosen = trace.gradients(square, rows=asked)
    assert [*chosen.data_vars] == expected
    for label in expected:
        assert chosen[label].identical(whole[label])


def test_rows_may_be_rows():
    trace = lf.trace(net(), X, gradients=True)
    gradients = trace.gradients(square, rows=trace.layers.query("func == 'linear'"))
    assert [*gradients.data_vars] == ["linear_1", "linear_2"]


def test_an_input_has_one_where_the_callers_tensor_requires_it():
    x = X.clone().requires_grad_()
    model = net().requires_grad_(False)
    gradients = lf.trace(model, x, gradients=True).gradients(square)
    (expected,) = torch.autograd.grad(square(model(x)), x)
    assert np.array_equal(gradients["input_1"].values, expected.numpy())
    assert x.grad is None
    assert json.loads(gradients.attrs["without"]) == {}


def test_a_layer_that_ran_often():
    cell = nn.Linear(4, 4)
    trace = lf.trace(lambda x: cell(cell(x)), X, gradients=True)
    assert [*trace.gradients(square, rows="linear_1").data_vars] == ["linear_1:1", "linear_1:2"]


def test_the_loss_may_reach_a_part_of_the_rows():
    def forward(x):
        h = LINEAR(x)
        return h.exp(), h.sin()

    trace = lf.trace(forward, X, gradients=True)
    gradients = trace.gradients(trace.output[0].sum())
    assert {"linear_1", "exp_1"} <= {*gradients}
    assert gradients.attrs["without"]["sin_1"] == "not on the way to the loss"


def test_it_can_be_written_and_read(tmp_path):
    gradients = lf.trace(net(), X, gradients=True).gradients(square)
    for name in ("g.nc", "g.zarr"):
        lf.write(gradients, tmp_path / name)
        back = lf.read(tmp_path / name)
        assert np.array_equal(back["relu_1"].values, gradients["relu_1"].values)
        assert json.loads(back.attrs["without"]) == {"input_1": "nothing upstream requires grad"}


def test_reasons_are_text_and_read_by_label():
    reasons = lf.trace(net(), X, gradients=True).gradients(square).attrs["without"]
    for same in (reasons, copy.deepcopy(reasons), pickle.loads(pickle.dumps(reasons))):
        assert same["input_1"] == "nothing upstream requires grad"
        assert "input_1" in same
        assert "relu_1" not in same
        assert dict(same) == json.loads(same)
        assert [*same] == ["input_1"]


# ------------------------------------------------------------------ what is not


LINEAR = nn.Linear(4, 4)


def frozen_part(x):
    return (x * 2).sum() + LINEAR(x)


def indices(x):
    y = LINEAR(x)
    return y.gather(1, y.argmax(1, keepdim=True))


def detached(x):
    y = LINEAR(x)
    return y * y.detach().exp()


def off(x):
    y = LINEAR(x)
    with torch.no_grad():
        z = y.exp()
    return y * z


def inference(x):
    with torch.inference_mode():
        z = x.exp()
    return LINEAR(x) + z


def inside_func(x):
    y = torch.vmap(torch.sin)(LINEAR(x))
    return y * 2


def not_differentiable(x):
    class Steps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            steps = x.floor()
            ctx.mark_non_differentiable(steps)
            return x * 2, steps

        @staticmethod
        def backward(ctx, gradient, _):
            return gradient * 2

    y, steps = Steps.apply(LINEAR(x))
    return y + steps.exp()


def aside(x):
    y = LINEAR(x)
    y.sin()
    return y


WITHOUT = [
    (frozen_part, "mul", "nothing upstream requires grad"),
    (frozen_part, "sum", "nothing upstream requires grad"),
    (indices, "argmax", "integer"),
    (detached, "detach", "detached"),
    (detached, "exp", "detached"),
    (off, "exp", "detached"),
    (inference, "exp", "an inference tensor"),
    (inside_func, "sin", "inside torch.func"),
    (not_differentiable, "floor", "detached"),
    (not_differentiable, "exp", "detached"),
    (aside, "sin", "not on the way to the loss"),
]


@pytest.mark.parametrize(("program", "func", "reason"), WITHOUT)
def test_what_is_absent_says_why(program, func, reason):
    trace = lf.trace(program, X, gradients=True)
    gradients = trace.gradients(square)
    label = trace.layers.index[trace.layers["func"] == func][-1]
    assert label not in gradients
    assert gradients.attrs["without"][label] == reason
    assert {*gradients.data_vars} | {*gradients.attrs["without"]} == {*trace.layers.index}


def test_what_no_operation_can_differentiate():
    def forward(x):
        y = LINEAR(x)
        return y * (y > 0).to(y.dtype) + torch.ones_like(y)

    trace = lf.trace(forward, X, gradients=True)
    without = trace.gradients(square).attrs["without"]
    assert without["gt_1"] == "integer"
    assert without["to_1"] == "not differentiable"
    assert without["ones_like_1"] == "nothing upstream requires grad"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_mode_off_is_an_error_at_once(mode):
    ran = []
    with mode(), pytest.raises(lf.LensRuntimeError, match="outside of it"):
        lf.trace(lambda x: ran.append(x), X, gradients=True)
    assert not ran


def another_runs_loss(model, trace):
    return square(lf.trace(model, X, gradients=True).output)


REFUSED = {
    "not a scalar": (lambda m, t: t.output, "(3, 2) and must be one number"),
    "complex": (lambda m, t: t.output.sum() * 1j, "complex"),
    "no tensor": (lambda m, t: 3.0, "the loss is a float"),
    "a function that gives none": (lambda m, t: lambda o: None, "gave a NoneType"),
    "another run's": (another_runs_loss, "another run"),
    "a plain run's": (lambda m, t: square(m(X)), "another run"),
    "of parameters": (lambda m, t: m[0].weight.sum(), "another run"),
    "detached": (lambda m, t: square(t.output.detach()), "requires grad"),
    "a leaf": (lambda m, t: torch.ones((), requires_grad=True), "another run"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_loss_that_cannot_be(what):
    make, message = REFUSED[what]
    model = net()
    trace = lf.trace(model, X, gradients=True)
    with pytest.raises(lf.LensError) as caught:
        trace.gradients(make(model, trace))
    assert message in str(caught.value)
    trace.gradients(square)  # nothing was used up


def test_another_runs_loss_with_a_shared_input():
    x = X.clone().requires_grad_()
    model = net()
    trace = lf.trace(model, x, gradients=True)
    with pytest.raises(lf.LensValueError, match="another run"):
        trace.gradients(square(model(x)))


def test_a_frozen_model():
    trace = lf.trace(net().requires_grad_(False), X, gradients=True)
    with pytest.raises(lf.LensValueError, match="requires_grad_"):
        trace.gradients(square)


def test_a_trace_without_a_graph():
    with pytest.raises(lf.LensRuntimeError, match="gradients=True"):
        lf.trace(net(), X).gradients(square)


def test_a_second_call():
    trace = lf.trace(net(), X, gradients=True)
    first = trace.gradients(square, retain_graph=True)
    assert trace.gradients(square).identical(first)
    with pytest.raises(lf.LensRuntimeError, match="retain_graph=True"):
        trace.gradients(square)
    with pytest.raises(lf.LensRuntimeError, match="retain_graph=True"):
        trace.gradients(square, rows="relu_1")


def test_a_graph_that_the_caller_used_up():
    trace = lf.trace(net(), X, gradients=True)
    square(trace.output).backward()
    with pytest.raises(lf.LensRuntimeError, match="used up"):
        trace.gradients(square)


def test_a_reentrant_checkpoint():
    block = nn.Linear(4, 4)
    trace = lf.trace(
        lambda x: checkpoint(block, LINEAR(x), use_reentrant=True).exp(), X, gradients=True
    )
    with pytest.raises(lf.LensRuntimeError, match="use_reentrant=False"):
        trace.gradients(square)


def test_rows_that_are_not_there():
    trace = lf.trace(net(), X, gradients=True)
    with pytest.raises(lf.LensKeyError, match="did you mean 'relu_1'"):
        trace.gradients(square, rows=["relu_2"])
    with pytest.raises(lf.LensTypeError, match="rows="):
        trace.gradients(square, rows=[3])
    trace.gradients(square)

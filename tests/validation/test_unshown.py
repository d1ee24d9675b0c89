"""What no replay can show to be right is held against a new run of the model."""

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn

import lensframe_pd as lf

from .reports import failed


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x).relu()
        return self.last(y).tanh() * 2


def leaf(x):
    return x.detach().clone().requires_grad_()


def by_functional(x):
    return torch.autograd.functional.vjp(lambda v: v.sin() * 2, x, torch.ones_like(x))[1]


def hooked(register):
    def forward(x):
        x = leaf(x)
        y = x * x
        register(x, y)
        return torch.autograd.grad(y.sum(), x)[0] + 1

    return forward


def packed(x):
    x = leaf(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach() * 2, lambda t: t):
        y = (x * x).sum()
    return torch.autograd.grad(y, x)[0] + 1


def of_both(x):
    x = leaf(x)
    y = x.sin()
    return torch.autograd.grad([y.cos().sum(), y.sum()], [x, y])[0] + 1


def second_order(x):
    return torch.autograd.functional.hvp(lambda v: v.sin().sum(), x, torch.ones_like(x))[1]


def forward_mode(x):
    with forward_ad.dual_level():
        y = forward_ad.make_dual(x, x * 2).sin()
        return forward_ad.unpack_dual(y).tangent + 1


def inside(x):
    return torch.func.vmap(lambda v: v.sin() * 2)(x) + 1


def inside_gradients(x):
    return torch.func.vmap(torch.func.grad(lambda v: v.sin().sum()))(x) + 1


def sparse(x):
    return (torch.eye(len(x)).to_sparse() * 2) @ x


#: Model, what is saved of it, and the row that is looked at.
UNSHOWN = {
    "its parent was not saved": (Net().eval(), ["linear_2"], "linear_2"),
    "a module's result": (Net().eval(), ["first"], "linear_1"),
    "the last alone": (Net().eval(), ["mul_1"], "mul_1"),
    "inside vmap": (inside, "all", "sin_1"),
    "inside grad": (inside_gradients, "all", "sin_1"),
    "of a sparse tensor": (sparse, "all", "matmul_1"),
    "through a hook": (hooked(lambda x, y: y.register_hook(torch.neg)), "all", "grad_1"),
    "of a hooked leaf": (hooked(lambda x, y: x.register_hook(torch.neg)), "all", "grad_1"),
    "through a node's hook": (
        hooked(lambda x, y: y.grad_fn.register_prehook(lambda g: (-g[0],))), "all", "grad_1",
    ),
    "of what was packed": (packed, "all", "grad_1"),
    "by autograd.functional": (by_functional, "all", "grad_1"),
    "of two outputs, one an input": (of_both, "all", "grad_1"),
    "in forward mode": (forward_mode, "all", "_unpack_dual_2"),
    "of the second order": (second_order, "all", "grad_3"),
}  # fmt: skip
X = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))


def traced(kind, x=X):
    model, save, op = UNSHOWN[kind]
    trace = lf.trace(model, x.clone(), save=save)
    return model, op, trace


@pytest.mark.parametrize("kind", UNSHOWN)
def test_what_is_right_passes(kind):
    model, op, trace = traced(kind)
    layers, activations = trace
    assert op in activations
    for report in (
        trace.validate(),
        layers.lens.validate(model, X.clone(), activations=activations),
    ):
        assert report["passed"].all(), report["reason"]


@pytest.mark.parametrize("kind", UNSHOWN)
@pytest.mark.parametrize("change", ["an entry", "a bit"])
def test_what_is_wrong_fails(kind, change):
    model, op, (layers, activations) = traced(kind)
    wrong = activations[op].values.copy()
    if change == "an entry":
        wrong[0, 2] += 1
    else:
        wrong[0, 2] = np.nextafter(wrong[0, 2], np.float32(9))
    changed = activations.assign({op: (activations[op].dims, wrong, activations[op].attrs)})
    report = layers.lens.validate(model, X.clone(), activations=changed)
    assert op in failed(report, "replay")


def test_within_a_tolerance():
    model, op, (layers, activations) = traced("the last alone")
    moved = activations.copy()
    moved[op] = activations[op] + np.float32(1e-4)
    moved[op].attrs = activations[op].attrs
    for tolerance, passes in ((1e-3, True), (1e-6, False)):
        report = layers.lens.validate(model, X, activations=moved, tolerance=tolerance)
        assert report["passed"].all() == passes


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x):
        self.n += 1
        return (x + self.n).relu() * 2


def test_a_model_that_has_gone_on_is_judged_by_its_trace():
    model = Counting().eval()
    trace = lf.trace(model, X, save=["mul_1"])
    model(X)
    assert trace.validate()["passed"].all()


@pytest.mark.filterwarnings("ignore::lensframe_pd.errors.LensWarning")
@pytest.mark.parametrize("save", ["all", ["0"], ["1"], ["2"], lambda row: row["func"] == "relu"])
def test_what_reads_what_the_run_writes_of_the_model(save):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    x = torch.randn(5, 4)
    layers, activations = lf.trace(model, x, save=save)
    for _ in range(2):  # the model has gone on, by the trace and by itself
        assert layers.lens.validate(model, x, activations=activations)["passed"].all()
        with torch.no_grad():
            model[1](x)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.nn.functional.dropout(x).relu() * 2,
        lambda x: (torch.rand(4) + x) * 2,
        lambda x: [x.relu(), torch.empty(2**16).sum() * 0, torch.empty(2**12)[7] * 2][0] * 3,
    ],
)
def test_what_a_run_does_not_determine_decides_nothing(model):
    layers, activations = lf.trace(model, X, save=lambda row: row["func"] == "mul")
    assert layers.lens.validate(model, X, activations=activations)["passed"].all()


def test_random_numbers_that_can_be_drawn_again():
    def model(x):
        return (torch.nn.functional.dropout(x) + 1) * 2

    layers, activations = lf.trace(model, X, save=["mul_1"], seed=3)
    assert layers.lens.validate(model, X, activations=activations)["passed"].all()
    wrong = activations.copy()
    wrong["mul_1"] = activations["mul_1"] + 1
    wrong["mul_1"].attrs = activations["mul_1"].attrs
    report = layers.lens.validate(model, X, activations=wrong)
    assert failed(report, "replay") == {"mul_1"}

"""Runs held against a tape: they give the values that a trace gives, or part where it would."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lensframe_pd as lf
from lensframe_pd.capture.inventory import inventory
from lensframe_pd.validation import retraced
from lensframe_pd.validation.followed import Followed, Parted, is_followable

X = torch.linspace(-2, 3, 24).reshape(4, 6)
ORDER = [1, 1, 3, 3]


class Net(nn.Module):
    """A forward written as a function, with a few layers to use in it."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.lstm, self.attention = nn.LSTM(6, 3), nn.MultiheadAttention(6, 2, batch_first=True)
        self._forward = forward

    def forward(self, x, *more):
        return self._forward(self, x, *more)


def written(m, x):
    y = x * 2
    y.add_(1)
    y[:, 1] = 3.0
    return y * y


def handed_back(m, x):
    y = F.dropout(m.a(x), 0.5, training=False)
    return F.dropout(y, 0.5, training=False) + y.contiguous() + y


def parts(m, x):
    a, b = (x * 2).chunk(2, dim=1)
    values, places = torch.max(torch.stack([a, b], dim=1), dim=1)
    return {"both": torch.cat((values, b), dim=-1), "places": [places, a]}


def once_more(m, x):
    for _ in range(3):
        x = torch.tanh(m.a(x))
    return x


def counted(m, x):
    m.norm.train()
    return m.norm(x) + m.norm.num_batches_tracked


def repointed(m, x):
    y = x * 2
    y.data = x * 3
    return y + 1


SAME = {
    "layers": lambda m, x: m.b(torch.relu(m.a(x))),
    "written in place": written,
    "given other data": repointed,
    "handed back": handed_back,
    "several results": parts,
    "a loop": once_more,
    "composites": lambda m, x: F.softmax(F.layer_norm(F.gelu(x), (6,)), dim=-1),
    "attention": lambda m, x: m.attention(x[:, None], x[:, None], x[:, None])[0],
    "recurrent": lambda m, x: m.lstm(x)[0],
    "statistics": counted,
    "slices and masks": lambda m, x: x[:, 1:4].masked_fill(x[:, :3] > 0, 0)[..., None, 0],
    "an index of tensors": lambda m, x: x[:, torch.tensor([0, 2])],
    "random": lambda m, x: F.dropout(x, 0.5, training=True) + torch.rand_like(x),
    "into memory given": lambda m, x: torch.add(x, 1, out=torch.zeros_like(x)),
    "a parameter as it is": lambda m, x: x @ m.a.weight.t().contiguous() + F.dropout(m.a.bias, 0.1),
    "the input itself": lambda m, x: (x, x * 2),
    "numbers read": lambda m, x: x * float(m.a.bias[0].item()) + len(x) + x.shape[1],
}


def followed(model, args, trace):
    """The values by label of a run along the tape of a trace."""
    labels, seen = [*trace.layers.index], {}
    run = Followed(
        trace.tape, range(len(labels)), lambda row, value: seen.update({labels[row]: value.clone()})
    )
    torch.manual_seed(7)
    run.run(model, args, {})
    return seen


def traced(model, args):
    torch.manual_seed(7)
    return lf.trace(model, args)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.filterwarnings("ignore:.*train mode")
def test_values_are_those_of_a_trace(name):
    model, other = Net(SAME[name]).eval(), Net(SAME[name]).eval()
    with torch.no_grad():
        trace = traced(model, X.clone())
        model.load_state_dict(other.state_dict())
        assert is_followable(trace.tape, inventory(model))
        seen = followed(model, (X[ORDER],), trace)
        known = traced(other, X[ORDER])
    assert [*seen] == [*known.layers.index]
    for op, value in seen.items():
        np.testing.assert_array_equal(value.numpy(), known.activations[op].values, err_msg=op)


def is_other(x):
    with torch._C.DisableTorchFunction():
        return bool(x[0, 0] > -1)


def either(this, that):
    """`that` where the first stimulus is another."""
    return lambda m, x: (that if is_other(x) else this)(m, x)


OTHER = {
    "another function": (lambda m, x: x * 2, lambda m, x: x + 2),
    "another number": (lambda m, x: F.leaky_relu(x, 0.1), lambda m, x: F.leaky_relu(x, 0.2)),
    "a number of another type": (lambda m, x: x * 2, lambda m, x: x * 2.0),
    "another number by name": (lambda m, x: x.sum(dim=1), lambda m, x: x.sum(dim=0)),
    "another name": (lambda m, x: torch.relu(input=x), lambda m, x: torch.relu(x)),
    "another slice": (lambda m, x: x[:, 1:4], lambda m, x: x[:, 2:5]),
    "another type": (lambda m, x: x.to(torch.float64), lambda m, x: x.to(torch.float16)),
    "another layer": (lambda m, x: m.a(x), lambda m, x: m.b(x)),
    "another parameter": (lambda m, x: x + m.a.bias, lambda m, x: x + m.b.bias),
    "another order": (lambda m, x: (x * 2) - x, lambda m, x: x - (x * 2)),
    "an earlier row": (lambda m, x: (x * 2) * 3 + x, lambda m, x: (x, x * 2)[0] * 3 + x),
    "an earlier row, alike": (
        lambda m, x: [y := x * 2, z := y * 2, z * 2][-1],
        lambda m, x: [y := x * 2, y * 2, y * 2][-1],
    ),
    "one of a list": (
        lambda m, x: torch.cat([x * 1, x * 1]), lambda m, x: torch.cat([x, (x * 1, x * 1)[0]])
    ),
    "one more": (lambda m, x: x * 2, lambda m, x: (x * 2) * 1),
    "one less": (lambda m, x: (x * 2) * 1, lambda m, x: x * 2),
    "none at all": (lambda m, x: x * 2, lambda m, x: x),
    "another output": (lambda m, x: [x * 2, x * 3][0], lambda m, x: [x * 2, x * 3][1]),
    "more parts": (lambda m, x: x.split(3, 1), lambda m, x: x.split(2, 1)),
    "in place": (lambda m, x: (x * 2).relu(), lambda m, x: (x * 2).relu_()),
    "no random numbers": (
        lambda m, x: F.dropout(x, 0.5, training=True), lambda m, x: F.dropout(x, 0.5, False)),
    "more random numbers": (
        lambda m, x: torch.rand_like(x), lambda m, x: (torch.randn(3), torch.rand_like(x))[1]),
    "a generator moved on": (
        lambda m, x: torch.rand_like(x),
        lambda m, x: [torch.default_generator.manual_seed(3), torch.rand_like(x)][1]),
    "a tensor from elsewhere": (
        lambda m, x: x * 2 + x.sum(), lambda m, x: x * 2 + ELSEWHERE),
}  # fmt: skip
ELSEWHERE = torch.tensor(3.0)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.filterwarnings("ignore:.*train mode")
def test_a_run_that_goes_another_way_parts(name, turned):
    this, that = OTHER[name][::-1] if turned else OTHER[name]
    model = Net(either(this, that)).eval()
    with torch.no_grad():
        trace = traced(model, X.clone())
        if not is_followable(trace.tape, inventory(model)):
            assert turned
            assert name == "a tensor from elsewhere"
            return
        followed(model, (X.clone(),), trace)
        with pytest.raises(Parted):
            followed(model, (X.flip(0),), trace)


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.filterwarnings("ignore:.*train mode")
def test_a_report_is_that_of_traced_runs(name, monkeypatch):
    """Where a run parts it is traced, which says how."""
    model = Net(either(*OTHER[name])).eval()
    with torch.no_grad():
        trace = lf.trace(model, X.clone(), stimulus=[*"abcd"], seed=1)
        report = trace.validate()
        monkeypatch.setattr(retraced, "is_followable", lambda *_: False)
        whole = trace.validate()
    pd.testing.assert_frame_equal(report, whole)


def view_written(m, x):
    y = x * 2
    y[0].add_(1)
    return y + 1


def differentiated(m, x):
    with torch.enable_grad():
        y = (x * 2).requires_grad_()
        return torch.autograd.grad((y * y).sum(), y)[0]


UNLIKE = {
    "a constant": lambda m, x: x + ELSEWHERE,
    "a view written": view_written,
    "a gradient": differentiated,
    "mapped": lambda m, x: torch.vmap(lambda row: row * 2)(x),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_hangs_on_more_than_its_arguments_is_traced(name, monkeypatch):
    model = Net(UNLIKE[name]).eval()
    with torch.no_grad():
        trace = lf.trace(model, X.clone(), stimulus=[*"abcd"])
        seen = []
        real = retraced.Retraced._trace
        monkeypatch.setattr(
            retraced.Retraced, "_trace", lambda *given: (seen.append(name), real(*given))[1]
        )
        trace.validate()
    assert seen


def test_what_is_wrong_is_found_in_runs_along_the_tape(monkeypatch):
    """Ids in another order, of a value that is right in all else."""
    with torch.no_grad():
        trace = lf.trace(Net(lambda m, x: m.a(x).flip(0) * 2).eval(), X, stimulus=[*"abcd"])
    monkeypatch.setattr(retraced.Retraced, "_trace", None)
    assert trace.validate()["passed"].all()
    flipped = trace.activations.copy()
    variable = trace.activations.variables["linear_1"]
    flipped["flip_1"] = (variable.dims, flipped["flip_1"].values, flipped["flip_1"].attrs)
    model = trace._origin.model
    report = trace.layers.lens.validate(model, X, activations=flipped)
    assert report["alignment"].eq(False).sum() == 1
    assert not report.loc["flip_1", "alignment"]


WRITES = {
    "after it was read": lambda x: (y := x * 2, y + 1, y.mul_(0).add_(x.flip(0) * 0 + x))[1:],
    "through a view": lambda x: (y := x * 2, v := y[:, :1], v.zero_(), y + 1)[3],
    "of a whole row": lambda x: (y := x * 2, z := y.relu(), y.__setitem__(0, 7.0), y + z)[3],
    "by out=": lambda x: (y := x * 2, z := y + 1, torch.sin(x, out=y), y + z)[3],
    "by NumPy": lambda x: (y := x * 2, z := y + 1, y.numpy().__setitem__(0, 7.0), y + z)[3],
}


@pytest.mark.parametrize("name", WRITES)
def test_a_value_that_is_written_later_is_looked_at_before(name, monkeypatch):
    trace = lf.trace(WRITES[name], torch.linspace(-1, 1, 12).reshape(4, 3), stimulus=list("abcd"))
    report = trace.validate(alignment="all")
    monkeypatch.setattr("lensframe_pd.validation.retraced.is_followable", lambda *_: False)
    pd.testing.assert_frame_equal(report, trace.validate(alignment="all"))

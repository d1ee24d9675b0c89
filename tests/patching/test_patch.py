"""Each row with another value: as a forward of the model with that value, whatever was computed."""

import copy
import json
from collections import OrderedDict

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lensframe_pd as lf

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def total(output):
    return output.double().sum() if isinstance(output, torch.Tensor) else output[0].double().sum()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(), nn.Linear(16, 3), nn.Softmax(1),
    ).eval()  # fmt: skip


def transformer():
    torch.manual_seed(0)
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    ).eval()


LINEAR = nn.Linear(4, 4)
GRU = nn.GRU(4, 3, batch_first=True)


def recurrent(x):
    h = torch.zeros(3, 4)
    for _ in range(3):
        h = torch.tanh(LINEAR(x) + h)
    return h


def views(x):
    y = LINEAR(x)
    y[:, 0] = 5
    v = y[:, 1]
    v.mul_(3)
    return y * 2 + v[:, None]


def several(x):
    a, b = LINEAR(x).chunk(2, 1)
    values, where = a.max(1)
    return values * b.sum(1) + where


def random(x):
    return F.dropout(LINEAR(x), 0.5, training=True) + torch.rand(3, 4)


def integers(x):
    where = LINEAR(x).argmax(1)
    return F.one_hot(where, 4) * x


PROGRAMS = {
    "convolutions": (network(), torch.randn(2, 2, 4, 4)),
    "attention": (transformer(), torch.randn(2, 5, 8)),
    "passes": (recurrent, X),
    "writes through views": (views, X),
    "several tensors": (several, X),
    "random numbers": (random, X),
    "an LSTM's call": (lambda x: GRU(x)[0], torch.randn(2, 5, 4)),
    "integers": (integers, X),
}
VALUES = {"a number": 0, "a function": lambda t: t.flip(0)}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_row_is_as_in_a_real_forward(name, values, grad):
    model, x = PROGRAMS[name]
    value = VALUES[values]
    with torch.set_grad_enabled(grad):
        trace = lf.trace(model, x, seed=1)
        found = trace.patch(value, total)
        for op, row in found.iterrows():
            given = trace.layers.loc[[op]].assign(value=[value])
            try:
                real = lf.trace(model, x, seed=1, values=given)
            except lf.LensValueError as error:  # autograd cannot follow a function or a view there
                assert "no_grad" in str(error)  # noqa: PT017
                continue
            assert row["metric"] == float(total(real.output)), op
    assert not found["forward"].any() or name == "writes through views"
    editable = trace.layers.index[trace.layers["kind"].isin(["op", "input"])]
    passed_over = json.loads(found.attrs.get("passed_over", "{}"))
    assert {*found.index} | {*passed_over} == {*editable}
    assert not passed_over or name == "writes through views"
    assert json.loads(found.attrs["unpatched"]) == {"metric": float(total(trace.output))}


def _in_eval(x):
    return F.dropout(x, 0.5, training=False)


def _beside_itself(x):
    h = LINEAR(x)
    return _in_eval(h) + h * 2


def _marked(x):
    h = LINEAR(x).detach()
    h.requires_grad_(True)
    return h * 2


def _handed_twice(x):
    h = LINEAR(x)
    y = _in_eval(h.to(h.dtype))
    return h + y.exp()


def _then_read_once(x):
    h = LINEAR(x)
    return _in_eval(h).exp()


def _one_after_the_other(x):
    h = LINEAR(x)
    return _in_eval(h.contiguous()).exp()


def _twice_by_its_new_name(x):
    h = _in_eval(LINEAR(x))
    return h.exp() * h


def _of_a_copied_module(x):
    return copy.deepcopy(LINEAR)(x.exp())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.fc = nn.Dropout(), nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        return x + self.drop(x) * 2


#: Programs, and the rows of theirs that only a forward can tell.
HANDED = {
    "beside itself": (_beside_itself, {"dropout_1"}),
    "marked": (_marked, {"requires_grad_1"}),
    "handed back twice": (_handed_twice, {"to_1", "dropout_1"}),
    "then read once": (_then_read_once, set()),
    "one after the other": (_one_after_the_other, {"contiguous_1"}),
    "twice by its new name": (_twice_by_its_new_name, set()),
    "in a block": (Block().eval(), {"dropout_1"}),
    "of a module that the run copied": (_of_a_copied_module, set()),
}


@pytest.mark.parametrize("what", HANDED)
def test_a_tensor_that_was_there_before_its_row(what):
    """Whoever holds it by another name does not see the value."""
    model, forwards = HANDED[what]
    with torch.no_grad():
        trace = lf.trace(model, X)
        found = trace.patch(0.5, total)
        for op, row in found.iterrows():
            real = lf.trace(model, X, values=trace.layers.loc[[op]].assign(value=0.5))
            assert row["metric"] == float(total(real.output)), op
    assert {*found.index[found["forward"]]} == forwards


def test_another_traces_activations():
    model, x = PROGRAMS["convolutions"]
    with torch.no_grad():
        clean, other = lf.trace(model, x), lf.trace(model, x.flip(-1) * 2)
        found = clean.patch(other.activations, total)
        for op, row in found.iterrows():
            real = lf.trace(model, x, values=other.activations[[op]])
            assert row["metric"] == float(total(real.output)), op
        # all of the other run's from there on
        assert found.loc["conv2d_1", "metric"] == float(total(other.output))
        assert [*found.index] == [op for op in clean.layers.index if op != "output_1"]


def test_values_are_joined_by_stimulus():
    model = nn.Linear(4, 2).eval()
    donor = lf.trace(model, torch.randn(4, 4), stimulus=list("abcd"))
    trace = lf.trace(model, X, stimulus=list("dab"))
    found = trace.patch(donor.activations, lambda o: o[0].sum(), rows="linear_1")
    expected = donor.activations["linear_1"].sel(stimulus="d").sum()
    assert found.loc["linear_1", "metric"] == pytest.approx(float(expected))


# ------------------------------------------------------------------ where the model has to run


def by_count(x):
    z = x[x > 0]
    return z.view(z.shape[0], 1).expand(-1, 3).sum(0)


def by_decision(x):
    y = LINEAR(x)
    return y.exp() if y.sum() > 0 else y.sin()


def by_number(x):
    y = LINEAR(x)
    return y * y.max().item()


def by_numpy(x):
    y = LINEAR(x)
    z = torch.from_numpy(y.detach().numpy() * 2)
    return y + z


def by_list(x):
    y = LINEAR(x)
    return x * sum(y.flatten().tolist())


def by_shape_alone(x):
    y = LINEAR(x)
    n = (y > 0).nonzero().shape[0]
    return x * n


def by_gradient(x):
    with torch.enable_grad():
        y = LINEAR(x).detach().requires_grad_()
        (g,) = torch.autograd.grad(y.exp().sum(), y)
    return g + y.detach()


class Held:
    """Of torch's protocol, as a TensorDict: torch hands calls on it over to the class."""

    def __init__(self, tensor):
        self.tensor = tensor

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.zeros(3, 4) + args[0].tensor.detach().clone().mul(2)


def by_object(x):
    y = LINEAR(x)
    return y + torch.exp(Held(y))


def by_loop(x):
    y = LINEAR(x)
    while y.norm() > 1:
        y = y * 0.5
    return y


DEPEND = {
    "a count": (by_count, ["input_1", "getitem_1"]),
    "a decision": (by_decision, ["linear_1", "sum_1"]),
    "a number": (by_number, ["linear_1"]),
    "a NumPy round trip": (by_numpy, ["linear_1"]),
    "a list": (by_list, ["linear_1"]),
    "a shape alone": (by_shape_alone, ["linear_1"]),
    "a gradient": (by_gradient, ["linear_1"]),
    "an object": (by_object, ["linear_1"]),
    "a loop": (by_loop, ["linear_1", "mul_1:1"]),
}


@pytest.mark.filterwarnings("ignore::lensframe_pd.errors.LensWarning")
@pytest.mark.parametrize("value", [-3.0, 0.25])
@pytest.mark.parametrize("name", DEPEND)
def test_the_model_runs_where_its_course_may_depend_on_the_value(name, value):
    program, rows = DEPEND[name]
    with torch.no_grad():
        trace = lf.trace(program, X)
        found = trace.patch(value, total, rows=[op for op in rows if op in trace.layers.index])
        for op, row in found.iterrows():
            given = trace.layers.loc[[op]].assign(value=[value])
            real = lf.trace(program, X, values=given)
            assert row["metric"] == float(total(real.output)), op
    may_be_the_same = ("a decision", "a loop", "a shape alone")
    assert found["forward"].any() or name in may_be_the_same


def test_a_model_that_fails_with_the_value():
    def forward(x):
        y = LINEAR(x)
        if y.sum() > 1e6:
            raise ValueError("too much")
        return y * 2

    with torch.no_grad():
        trace = lf.trace(forward, X)
        found = trace.patch(1e9, total)
        assert "too much" in json.loads(found.attrs["passed_over"])["linear_1"]
        assert "mul_1" in found.index
        with pytest.raises(ValueError, match="too much"):
            trace.patch(1e9, total, rows="linear_1")


def test_a_function_passes_the_gradient_on_that_the_model_takes():
    def forward(x):
        with torch.enable_grad():
            y = x.detach().requires_grad_().exp()
            (g,) = torch.autograd.grad(y.sum(), y)
        return g

    with torch.no_grad():
        found = lf.trace(forward, X).patch(lambda t: t * 3, total, rows="exp_1")
    assert found.loc["exp_1", "forward"]


def test_a_decision_that_stays_as_it_was_needs_no_forward():
    def forward(x):
        y = x.exp()
        return y * 2 if (y > 0).all() else y

    trace = lf.trace(forward, X)
    found = trace.patch(lambda t: t + 1 if t.dtype.is_floating_point else ~t, total)
    assert found["forward"].to_dict() == {
        "input_1": False, "exp_1": False, "gt_1": True, "all_1": True, "mul_1": False,
    }  # fmt: skip
    assert found.loc["gt_1", "metric"] == pytest.approx(float(X.exp().sum()))


def test_a_view_that_is_written_is_passed_over_or_refused():
    def forward(x):
        y = x * 1
        v = y[:, 0]
        v.mul_(3)
        return y

    trace = lf.trace(forward, X)
    found = trace.patch(0, total)
    assert "getitem_1" not in found.index
    assert "shares memory" in json.loads(found.attrs["passed_over"])["getitem_1"]
    with pytest.raises(lf.LensValueError, match="shares memory"):
        trace.patch(0, total, rows="getitem_1")


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return self.inner(x).relu().exp()


def test_no_forward_where_none_is_needed():
    model = Counts().eval()
    trace = lf.trace(model, X)
    found = trace.patch(0, total)
    assert len(found) == 4
    assert model.runs == 1


# ------------------------------------------------------------------ the frame


def test_the_frame():
    trace = lf.trace(recurrent, X)
    found = trace.patch(0, {"mean": lambda o: o.mean(), "first": lambda o: o[0, 0].item()})
    assert found.index.name == "op"
    assert [*found.columns] == ["pass_num", "mean", "first", "forward"]
    assert found.loc["tanh_1:3", ["pass_num", "mean", "first"]].tolist() == [3, 0.0, 0.0]
    assert found.dtypes.astype(str).tolist() == ["int64", "float64", "float64", "bool"]
    same = trace.patch(0, lambda o: {"mean": o.mean(), "first": o[0, 0]})
    pd.testing.assert_frame_equal(same, found)
    joined = trace.layers.join(found[["mean"]])
    assert joined.loc["tanh_1:1", "mean"] == found.loc["tanh_1:1", "mean"]


def test_outputs_in_containers():
    def forward(x):
        y = x.exp()
        return {"a": [y, 3], "b": (y.sin(), "text")}

    trace = lf.trace(forward, X)
    found = trace.patch(
        1, lambda o: o["a"][0].sum() + o["b"][0].sum() + o["a"][1] + len(o["b"][1]), rows="exp_1"
    )
    ones = torch.ones(3, 4)
    expected = float(ones.sum() + ones.sin().sum() + 7)
    assert found.loc["exp_1", "metric"] == pytest.approx(expected)


def test_what_the_caller_did_to_the_output_meanwhile_does_not_matter():
    trace = lf.trace(lambda x: (x.exp(), x.sin()), X)
    expected = float(X.sin().sum())
    trace.output[1].zero_()
    found = trace.patch(0, lambda o: o[1].sum(), rows="exp_1")
    assert found.loc["exp_1", "metric"] == pytest.approx(expected)


def test_nothing_is_changed():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), Counts())
    with pytest.warns(lf.LensWarning, match="train mode"):
        trace = lf.trace(model, X)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    values = {op: v.values.copy() for op, v in trace.activations.items()}
    trace.patch(0, lambda o: o.mul_(0).sum())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(np.array_equal(v.values, values[op]) for op, v in trace.activations.items())
    assert torch.is_grad_enabled()


# ------------------------------------------------------------------ what is refused


def change_by_optimizer(model):
    model(X).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def change_data(model):
    model.inner.weight.data[0, 0] += 1


def change_last_bit(model):
    with torch.no_grad():
        model.inner.bias[0] = torch.nextafter(model.inner.bias[0], torch.tensor(10.0))


@pytest.mark.parametrize("change", [change_by_optimizer, change_data, change_last_bit])
def test_a_parameter_that_changed(change):
    model = Counts().eval()
    trace = lf.trace(model, X)
    change(model)
    with pytest.raises(lf.LensRuntimeError, match=r"inner\..*changed since"):
        trace.patch(0, total, rows="exp_1")


def test_what_reads_the_model_only_leaves_it_as_it_was():
    model = Counts().eval()
    trace = lf.trace(model, X)
    trace.validate()
    lf.trace(model, X, values={"relu_1": 0})
    model(X)
    assert not trace.patch(0, total)["forward"].any()


def test_a_model_that_went_on():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = torch.zeros(3, 4)

        def forward(self, x):
            self.h = self.h + x
            return self.h.exp() if self.h.sum() != 0 else x

    model = Keeps()
    trace = lf.trace(model, X)
    with pytest.raises(lf.LensRuntimeError, match="keeps between calls"):
        trace.patch(0, total, rows="add_1")


def traced(**options):
    return lf.trace(Counts().eval(), X, **options)


REFUSED = {
    "not all saved": (
        lambda: traced(save=None).patch(0, total), lf.LensValueError, 'save="all"',
    ),
    "stopped": (
        lambda: traced(save="relu_1", stop=True).patch(0, total), lf.LensRuntimeError, "stopped",
    ),
    "other values": (
        lambda: traced(values={"relu_1": 0}).patch(0, total), lf.LensRuntimeError, "other values",
    ),
    "no such row": (
        lambda: traced().patch(0, total, rows="rely_1"), lf.LensKeyError, "did you mean 'relu_1'",
    ),
    "no such key": (
        lambda: traced().patch({"rely_1": 0}, total), lf.LensKeyError, "did you mean 'relu_1'",
    ),
    "an output": (
        lambda: traced().patch(0, total, rows="output_1"), lf.LensValueError, "it comes from",
    ),
    "a row without a value": (
        lambda: traced().patch({"relu_1": 0}, total, rows=["exp_1"]), lf.LensValueError, "exp_1",
    ),
    "a shape": (
        lambda: traced().patch(np.zeros(3), total, rows="relu_1"), lf.LensValueError, "shape",
    ),
    "a metric of many": (
        lambda: traced().patch(0, lambda o: o), lf.LensTypeError, r"shape \(3, 4\)",
    ),
    "no metric": (lambda: traced().patch(0, "sum"), lf.LensTypeError, "function of the output"),
    "no metrics": (lambda: traced().patch(0, {}), lf.LensValueError, "empty"),
    "metrics that differ from row to row": (
        lambda: traced().patch(0, lambda o: {"a" if o.sum() == 0 else "b": 1.0}),
        lf.LensValueError, "for the output as it is",
    ),
    "no values": (lambda: traced().patch(None, total), lf.LensTypeError, "NoneType"),
    "a text": (lambda: traced().patch("zero", total), lf.LensTypeError, "a str"),
    "a list": (lambda: traced().patch(["relu_1"], total), lf.LensTypeError, "a list"),
    "a function that gives nothing": (
        lambda: traced().patch(lambda t: None, total), lf.LensValueError, "none of the",
    ),
    "a function that fails": (
        lambda: traced().patch(lambda t: t.nothing, total), lf.LensValueError, "nothing",
    ),
    "a metric's name": (
        lambda: traced().patch(0, {"forward": total}), lf.LensValueError, "forward",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused(what):
    call, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        call()


class Ordered(OrderedDict):
    """As a language model's output: its own constructor has an order of keys."""

    def __init__(self, first=None, second=None):
        super().__init__()
        self["first"], self["second"] = first, second

    def __reduce__(self):
        return type(self), (self["first"], self["second"])


def test_an_output_keeps_the_order_of_its_keys():
    def forward(x):
        output = Ordered(x.exp(), x.sin())
        output.move_to_end("first")
        return output

    trace = lf.trace(forward, X)
    found = trace.patch(0, lambda o: next(iter(o.values())).sum(), rows="sin_1")
    assert found.loc["sin_1", "metric"] == 0
    assert trace.patch(0, lambda o: [*o].index("second"))["metric"].eq(0).all()


class Cache:
    """As of a language model: an object that holds tensors in lists."""

    def __init__(self, keys):
        self.layers = [keys]
        self.me = self


def test_an_output_that_holds_objects():
    def forward(x):
        y = x.exp()
        return {"y": y.sin(), "cache": Cache(y)}

    trace = lf.trace(forward, X)
    cache = trace.output["cache"]
    found = trace.patch(2, lambda o: o["cache"].layers[0].sum() + o["y"].sum(), rows="exp_1")
    twos = torch.full((3, 4), 2.0)
    assert found.loc["exp_1", "metric"] == pytest.approx(float(twos.sum() + twos.sin().sum()))
    assert torch.equal(cache.layers[0], X.exp())

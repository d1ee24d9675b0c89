"""A model that watches operators by a mode of its own sees what it sees without a trace."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import lensframe_pd as lf

X = torch.arange(12.0).reshape(3, 4) - 5


class Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Logged(nn.Module):
    """What a function does, and the operators that it is made of."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x):
        with Log() as log:
            result = self.function(self, x)
        self.seen = log.seen
        return result


def written(m, x):
    y = x * 2
    y.view(-1)[::2].add_(1)
    return y.sin()


def written_twice(m, x):
    y = x.clone()
    for k in range(2):
        y[:, k] = k
        y.mul_(2)
    return y + 0


def of_entries(m, x):
    y = x[torch.tensor([2, 0, 1])]
    y[y > 0] = 0
    return torch.where(y < -1, y, x)


def kept_state(m, x):
    m.count += 1
    m.h = m.norm(m.layer(x)).relu_()
    return m.h * m.count


def from_outside(m, x):
    held = torch.zeros(3, 4)
    held.copy_(x)
    return held.numpy().sum() + x.relu() + held[0, 0].item() * 0


def drawn(m, x):
    torch.manual_seed(0)
    return nn.functional.dropout(x, 0.5) + torch.rand(3, 4).uniform_()


def differentiated(m, x):
    y = x.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(m.layer(y).tanh().sum(), y)[0] * 2


LOGGED = {
    f.__name__: f
    for f in (written, written_twice, of_entries, kept_state, from_outside, drawn, differentiated)
}
OPTIONS = {"all": {}, "none": {"save": None}, "some": {"save": lambda row: row["step"] % 2 == 0}}


@pytest.mark.filterwarnings("ignore::lensframe_pd.errors.LensWarning")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", LOGGED)
def test_a_log_of_operators(kind, options):
    torch.manual_seed(0)
    model = Logged(LOGGED[kind])
    other = copy.deepcopy(model)
    want = other(X.clone())
    trace = lf.trace(model, X.clone(), **OPTIONS[options])
    assert torch.equal(trace.output, want)
    assert model.seen == other.seen
    if options == "all":
        assert trace.validate()["passed"].all()


def flops(x):
    with FlopCounterMode(display=False) as counted:
        y = x @ x.T
        y[0] = 1
    return y * counted.get_total_flops()


def a_graph(x):
    graph = make_fx(lambda v: (v.sin().add_(1).view(-1) * 2).sum())(x)
    a_graph.code = graph.code
    return graph(x) + 1


def a_graph_of_nothing(x):
    graph = make_fx(lambda v: v.sin() * 2, tracing_mode="fake")(x)
    a_graph_of_nothing.code = graph.code
    return graph(x)


def linearized(x):
    return torch.func.linearize(lambda v: v.sin() * v, x)[1](x)


def what_would_be(x):
    with FakeTensorMode() as mode:
        y = mode.from_tensor(x) * 2
        y.view(-1).add_(1)
    return x * y.shape[0]


@pytest.mark.parametrize(
    "model",
    [flops, a_graph, a_graph_of_nothing, linearized, what_would_be],
    ids=lambda f: f.__name__,
)
def test_modes_of_torch(model):
    want, code = model(X.clone()), getattr(model, "code", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = lf.trace(model, X.clone())
    assert torch.equal(trace.output, want)
    assert getattr(model, "code", None) == code
    assert "mul_1" in trace.layers.index
    assert torch._C._len_torch_dispatch_stack() == 0


def test_modes_are_as_before_where_it_fails():
    def failing(x):
        y = x * 2
        y.add_(1)
        raise ValueError("no")

    with Log() as log:
        with pytest.raises(ValueError, match="no"):
            lf.trace(failing, X.clone())
        assert torch._C._len_torch_dispatch_stack() == 1
        X.sin()
    assert log.seen[-1] == "aten.sin.default"

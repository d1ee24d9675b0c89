"""What cannot be run, what has not run, and which parts are in train mode."""

import asyncio
import functools
import warnings

import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.rand(4, 3)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(3, width)

    def forward(self, x):
        return self.fc(x)


async def later(x):
    return x + 1


def steps(x):
    for _ in range(3):
        x = x + 1
        yield x


async def later_steps(x):
    yield x + 1


class Async(nn.Module):
    async def forward(self, x):
        return x + 1


class Steps(nn.Module):
    def forward(self, x):
        yield x + 1


class Called:
    def __call__(self, x):
        yield x + 1

    async def predict(self, x):
        return x + 1


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Net, r"Net is a class.*Net\(\.\.\.\)"),
        (nn.ReLU, "ReLU is a class"),
        (Called, "Called is a class"),
        (functools.partial(Net, 5), "Net is a class"),
        (functools.partial(functools.partial(Net, 5)), "Net is a class"),
        (later, r"a coroutine.*asyncio\.run"),
        (functools.partial(later), "a coroutine"),
        (Async(), "a coroutine"),
        (Async().forward, "a coroutine"),
        (Called().predict, "a coroutine"),
        (steps, r"a generator.*list\(model"),
        (Steps(), "a generator"),
        (Called(), "a generator"),
        (torch.no_grad()(steps), "a generator"),
        (later_steps, "an async generator"),
        (5, "cannot trace a int"),
    ],
)
def test_what_would_run_nothing(model, says):
    with pytest.raises(lf.LensTypeError, match=says):
        lf.trace(model, X)


@pytest.mark.parametrize(
    ("model", "func", "n"),
    [
        (lambda x: asyncio.run(later(x)), "add", 1),
        (lambda x: [*steps(x)], "add", 3),
        (lambda x: Net()(x), "linear", 1),
        (functools.partial(nn.functional.relu, inplace=False), "relu", 1),
        (type("Callable", (), {"__call__": lambda self, x: x.exp()})(), "exp", 1),
        (nn.ReLU().eval().forward, "relu", 1),
        (torch.exp, "exp", 1),
        (X.add, "add", 1),
    ],
)
def test_what_to_give_instead(model, func, n):
    layers = lf.trace(model, X).layers
    assert (layers["func"] == func).sum() == n


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda x: steps(x), "returned a generator"),
        (lambda x: (y + 1 for y in x), "returned a generator"),
        (lambda x: later_steps(x), "returned an async generator"),
    ],
)
def test_code_that_has_not_run(model, says):
    with pytest.warns(lf.LensWarning, match=says):
        lf.trace(model, X)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_coroutine_that_has_not_run():
    with pytest.warns(lf.LensWarning, match="returned a coroutine"):
        lf.trace(lambda x: later(x), X).output.close()


# ------------------------------------------------------------------ train mode


class Own(nn.Module):
    def forward(self, x):
        return x * 2 if self.training else x


class Functional(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=self.training)


class Inside(nn.Module):
    def forward(self, x):
        return next(map(lambda y: y + int(self.training), [x]))  # noqa: C417


class Frozen(nn.Module):
    """Says something about its mode, and computes the same in both."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.training = True

    def train(self, mode=True):
        super().train(mode)
        self.kept = self.training
        return self

    def extra_repr(self):
        return f"training={self.training}"

    def forward(self, x):
        return self.fc(x)


class OwnDropout(nn.Dropout):
    def forward(self, x):
        return super().forward(x)


def in_train(module):
    return nn.Sequential(nn.Identity(), module).train()


def first_in_train(module):
    model = nn.Sequential(module, nn.Dropout(0.5)).eval()
    module.train()
    return model


@pytest.mark.parametrize("around", [in_train, first_in_train, nn.DataParallel])
@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0.1), nn.AlphaDropout(0.1), OwnDropout(0.2), nn.BatchNorm1d(3),
        nn.RReLU(), Own(), Functional(), Inside(), torch.jit.script(nn.Dropout(0.4)),
    ],
)  # fmt: skip
def test_modules_that_behave_differently_in_training_are_named(around, module):
    model = around(module.train())
    with pytest.warns(lf.LensWarning, match=r"(?s)in train mode.*model\.eval\(\)") as caught:
        lf.trace(model, X)
    (only,) = (w for w in caught if "train mode" in str(w.message))
    assert type(module).__name__ in str(only.message)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.0), nn.LayerNorm(3), Net(3), Frozen(),
        nn.BatchNorm1d(3, track_running_stats=False), nn.GELU(), nn.Softmax(-1), nn.Identity(),
        torch.jit.script(nn.Linear(3, 3)),
    ],
)  # fmt: skip
def test_modules_that_do_not_are_none(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error", lf.LensWarning)
        lf.trace(in_train(module), X)


@pytest.mark.parametrize(
    ("module", "differs"),
    [
        (nn.LSTM(3, 4, 2, dropout=0.1), True),
        (nn.GRU(3, 4, 2), False),
        (nn.TransformerEncoderLayer(4, 2, 8), True),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), False),
        (nn.InstanceNorm1d(4, track_running_stats=True), True),
        (nn.InstanceNorm1d(4), False),
    ],
)
def test_parts_of_torch(module, differs):
    x = torch.rand(5, 2, 3 if isinstance(module, nn.RNNBase) else 4)
    x = x.transpose(1, 2) if isinstance(module, nn.InstanceNorm1d) else x
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        trained = lf.trace(module.train(), x, seed=1).output
    said = any("train mode" in str(w.message) for w in caught)
    assert said is differs
    plain = lf.trace(module.eval(), x, seed=1).output
    outputs = [t[0] if isinstance(t, tuple) else t for t in (trained, plain)]
    assert torch.allclose(*outputs, atol=1e-6) is not differs


def test_the_root_flag_is_nobodys():
    """A wrapper is made in train mode, whatever it wraps."""
    inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    for model in (nn.DataParallel(inner), nn.Sequential(inner), in_train(nn.ReLU()).append(inner)):
        inner.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("error", lf.LensWarning)
            lf.trace(model, X)
        inner[1].train()
        with pytest.warns(lf.LensWarning, match="BatchNorm1d"):
            lf.trace(model, X)


def test_of_a_function_that_uses_a_model():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    with pytest.warns(lf.LensWarning, match=r"'net\.1 \(Dropout\)'"):
        lf.trace(lambda x: net(x), X)

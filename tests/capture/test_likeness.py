"""Rows of another model do not give their values to this one; those of a copy do."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.randn(3, 4)
IMAGES = torch.randn(2, 3, 8, 8)


def mlp(width=8, act=nn.ReLU):
    return nn.Sequential(nn.Linear(4, width), act(), nn.Linear(width, 4)).eval()


def cnn(width=4):
    norm = nn.BatchNorm2d(width)
    return nn.Sequential(nn.Conv2d(3, width, 3), norm, nn.ReLU(), nn.MaxPool2d(2)).eval()


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.norm = nn.Linear(4, width), nn.LayerNorm(width)

    def forward(self, x):
        h = self.up(x)
        return (h + self.norm(h).tanh()).reshape(len(x), -1) * 2


class Reads(nn.Module):
    """Adds a parameter of its own."""

    def __init__(self, name, width=4):
        super().__init__()
        setattr(self, name, nn.Parameter(torch.ones(width)))
        self.which = name

    def forward(self, x):
        return x + getattr(self, self.which)


def lstm(width):
    return nn.LSTM(4, width, batch_first=True).eval()


SERIES = torch.randn(2, 5, 4)
OTHERS = {
    "a wider linear": (mlp(8), mlp(16), X, "linear_1", "shapes"),
    "a linear of what is wider": (mlp(8), mlp(16), X, "linear_2", "shapes"),
    "what follows a wider linear": (mlp(8), mlp(16), X, "relu_1", "8 along 'feature'.*16"),
    "a wider convolution": (cnn(4), cnn(6), IMAGES, "conv2d_1", "shapes"),
    "a wider norm": (cnn(4), cnn(6), IMAGES, "batch_norm_1", "shapes"),
    "what follows a wider convolution": (cnn(4), cnn(6), IMAGES, "relu_1", "4 along 'channel'.*6"),
    "two steps on": (cnn(4), cnn(6), IMAGES, "max_pool2d_1", "4 along 'channel'.*6"),
    "a wider LSTM": (lstm(5), lstm(6), SERIES, "lstm_1", "shapes"),
    "a sum of two branches": (Residual(8), Residual(16), X, "add_1", "8 along 'feature'.*16"),
    "after a view": (Residual(8), Residual(16), X, "mul_1", "8 along 'feature'.*16"),
    "another parameter": (Reads("scale"), Reads("shift"), X, "add_1", "parameters scale.*shift"),
    "a parameter of another shape": (Reads("w", 4), Reads("w", 1), X, "add_1", "shapes"),
    "a module of another class": (
        nn.Sequential(nn.ReLU()),
        nn.Sequential(type("Mine", (nn.ReLU,), {})()),
        X,
        "relu_1",
        "classes ReLU.*Mine",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("value", ["number", "function"])
def test_rows_of_another_model_are_refused(what, value):
    first, second, x, op, message = OTHERS[what]
    rows = lf.trace(first, x, save=None).layers.loc[[op]]
    rows = rows.assign(value=[0.0 if value == "number" else (lambda t: t * 0)])
    with pytest.raises(lf.LensValueError, match=message) as caught:
        lf.trace(second, x, values=rows)
    assert repr(op) in str(caught.value)
    assert "another model" in str(caught.value)
    assert "by label" in str(caught.value)
    label = {op: rows["value"].iloc[0]}  # which is looked up in the model itself
    assert (lf.trace(second, x, values=label).layers["kind"] == "edit").sum() == 1


def _with_another_head():
    model = mlp()
    model[2] = nn.Linear(8, 9)
    return model.eval()


def _finetuned(model):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
            parameter.requires_grad_(False)
    return model


WITHOUT_SPACE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU()).eval()
POOL = nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
LAZY = nn.Sequential(nn.LazyLinear(8), nn.ReLU()).eval()
ALIKE = {
    "the same model": (mlp(), None, X, X),
    "weights of one's own": (mlp(), mlp(), X, X),
    "a frozen copy with other weights": (cnn(), _finetuned(cnn()), IMAGES, IMAGES),
    "another head": (mlp(), _with_another_head(), X, X),
    "half": (mlp(), copy.deepcopy(mlp()).bfloat16(), X, X.bfloat16()),
    "another batch": (cnn(), None, IMAGES, torch.randn(5, 3, 8, 8)),
    "images of another size": (cnn(), None, IMAGES, torch.randn(2, 3, 12, 10)),
    "unbatched": (cnn()[0:1], None, IMAGES, IMAGES[0]),
    "a longer series": (lstm(5), None, SERIES, torch.randn(3, 9, 4)),
    "places made features": (WITHOUT_SPACE, None, IMAGES, torch.randn(2, 3, 9, 9)),
    "channels that no weights make": (POOL, None, IMAGES, torch.randn(2, 5, 8, 8)),
    "a module that becomes another": (LAZY, None, X, X),
}


@pytest.mark.parametrize("what", ALIKE)
@pytest.mark.parametrize("source", ["memory", "file"])
def test_rows_of_a_model_like_it_are_taken(what, source, tmp_path):
    first, second, x, other = ALIKE[what]
    first = copy.deepcopy(first)
    rows = lf.trace(first, x, save=None).layers.query("kind == 'op'")
    if source == "file":
        rows.to_parquet(tmp_path / "rows.parquet")
        rows = pd.read_parquet(tmp_path / "rows.parquet")
        assert not isinstance(rows["param_shapes"].iloc[0], tuple)
    if what == "another head":
        rows = rows.iloc[:2]
    if what == "a module that becomes another":
        rows = rows.loc[["linear_1", "relu_1"]]  # the rest happens once
    run = lf.trace(second or first, other, values=rows.assign(value=0.5))
    assert (run.layers["kind"] == "edit").sum() == len(rows)
    edits = run.activations[[*run.layers.query("kind == 'edit'").index]]
    assert all(bool((edits[name] == 0.5).all()) for name in edits)


@pytest.mark.parametrize("lacks", ["module_types", "params", "param_shapes", "shape"])
def test_what_rows_do_not_say_is_not_asked(lacks):
    rows = lf.trace(mlp(), X, save=None).layers.loc[["relu_1"]].assign(value=0.0)
    for narrow in (
        rows.drop(columns=lacks),
        rows.astype({lacks: object}).assign(**{lacks: np.nan}),
    ):
        run = lf.trace(mlp(), X, values=narrow)
        assert torch.equal(run.output, run.output[:1].expand(3, 4))

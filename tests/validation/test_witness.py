"""A second witness below the tracer: every kernel belongs to a row."""

import warnings
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lensframe_pd as lf

from .reports import failed


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


def test_views_that_functorch_makes_on_leaving_are_no_gap():
    def outer(x):
        inner = torch.vmap(lambda a, b: b > 0, in_dims=(None, 0))
        return torch.vmap(inner, in_dims=(0, None))(x, x) * 1

    report = lf.trace(outer, torch.arange(4.0)).validate()
    assert report["passed"].all()
    assert report.attrs["aten_gaps"] == 0


class SelfAttention(nn.Module):
    def __init__(self, n=1, **settings):
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(8, 2, **settings) for _ in range(n))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, x, x)[0] + x
        return x


OPENED = {
    "attention": SelfAttention(),
    "attention, batch first": SelfAttention(batch_first=True),
    "attention without bias, twice": SelfAttention(2, bias=False),
    "attention of other keys": SelfAttention(add_bias_kv=True, batch_first=True),
    "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    "decoder": nn.TransformerDecoderLayer(8, 2, 16),
    "interpolate": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), scale_factor=2),
    "loss": lambda x: F.gaussian_nll_loss(x, x * 2, x.abs()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", OPENED.values(), ids=OPENED)
@pytest.mark.parametrize("grad", [False, True])
def test_operations_of_opened_composites_are_at_their_own_places(model, grad):
    """A frame read from a file is compared with the labels of the run that is witnessed."""
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    given = (x, x) if isinstance(model, nn.TransformerDecoderLayer) else (x,)
    with torch.set_grad_enabled(grad):
        if isinstance(model, nn.Module):
            model.eval()
        layers, activations = lf.trace(model, given)
        report = layers.lens.validate(model, given, activations=activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].to_dict()


class _Table(nn.Module):
    """Returns a tensor that an earlier run has made, which is met as the module hands it over."""

    @staticmethod
    @lru_cache(maxsize=1)
    def made(n: int) -> Tensor:
        return torch.arange(n) / n

    def forward(self, n: int) -> Tensor:
        return self.made(n)


class _Positions(nn.Module):
    def __init__(self, wrapped: bool) -> None:
        super().__init__()
        self.table = nn.Sequential(_Table()) if wrapped else _Table()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(x.shape[-1])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("route", ["trace", "frame"])
def test_the_tracers_own_copy_of_a_constant_is_no_gap(wrapped, route):
    model, x = _Positions(wrapped), torch.rand(2, 5)
    model(x)
    trace = lf.trace(model, x)
    if route == "trace":
        report = trace.validate()
    else:
        report = trace.layers.lens.validate(model, x, activations=trace.activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()

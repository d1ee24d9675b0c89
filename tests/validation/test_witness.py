"""A second witness below the tracer: every kernel belongs to a row."""

import warnings

import torch
from torch import nn

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

"""A changed parent changes its child, or it is said why it cannot."""

import torch
from torch import nn

import lensframe_pd as lf

from .reports import X


class Masked(nn.Module):
    def forward(self, x):
        kept = torch.where(x > -100, x, x * 3)
        base = torch.zeros_like(x)
        base[:] = kept
        return base + x.new_ones(()).expand_as(x)


def test_exemptions_are_shown_and_counted():
    report = lf.trace(Masked().eval(), X).validate()
    assert report["passed"].all()
    reasons = report["reason"]
    assert "'condition' leaves no room" in reasons["where_1"]
    assert "only its shape is read" in reasons["zeros_like_1"]
    assert "overwrites all of it" in reasons["setitem_1"]
    assert "only its dtype is read" in reasons["new_ones_1"]
    exempt = sum(text.count("does not depend on") for text in reasons)
    assert report.attrs["dependence_exempt"] == exempt == 5  # expand_as reads the shape of x

"""A run beside the traced one shows whether tracing changed the model."""

import torch
from torch import nn

import lensframe_pd as lf

from .reports import failed


class Nosy(nn.Module):
    """Its output tells whether a function mode is active."""

    def forward(self, x):
        seen = torch._C._len_torch_function_stack()
        self.seen = seen
        return x + seen


def test_a_model_that_tracing_changes():
    report = lf.trace(Nosy().eval(), torch.ones(3)).validate()
    assert failed(report, "interference") == {"output_1"}
    assert "seen" in report.loc["output_1", "reason"]

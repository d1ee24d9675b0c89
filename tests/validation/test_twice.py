"""A run beside the traced one shows whether tracing changed the model."""

import pytest
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


def _repointed(weight):
    weight.data = weight.detach().clone()


def _turned(weight):
    weight.data.t_()


def _other_nan(weight):
    weight.detach().view(torch.int32)[0, 0] += 1  # still NaN, with another payload


def _written(weight):
    weight.data[1, 1] += 1


def _written_then_repointed(weight):
    old = weight.detach()
    weight.data = old.clone()
    old[1, 1] += 1


@pytest.mark.parametrize(
    "change",
    [_repointed, _turned, _other_nan, _written, _written_then_repointed],
    ids=lambda change: change.__name__.strip("_"),
)
@pytest.mark.parametrize("n", [1, 3])
def test_what_a_forward_does_to_its_parameters_is_undone_to_the_bit(change, n):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(9.0).reshape(3, 3), requires_grad=False)
            self.weight.data[0, 0] = torch.nan

        def forward(self, x):
            BEGUN.append((self.weight.data_ptr(), _bits(self.weight)))
            y = x @ self.weight
            change(self.weight)
            return y

    model = Changing().eval()
    trace = lf.trace(model, torch.ones(n, 3), stimulus=[*"abc"][:n])
    before = model.weight
    address, bits = before.data_ptr(), _bits(before)
    BEGUN.clear()
    trace.validate()
    assert model.weight is before
    assert (before.data_ptr(), _bits(before)) == (address, bits)
    assert len(BEGUN) >= 2
    assert {*BEGUN} == {(address, bits)}


BEGUN = []  # how each run found the weight; what a model holds itself would be put back


def _bits(tensor):
    data = tensor.detach()
    return (*data.shape, *data.stride(), data.contiguous().numpy().tobytes())

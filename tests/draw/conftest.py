"""Frames to draw: one written by hand, one of a trace with all columns."""

import pytest
import torch

import lensframe_pd as lf

from .drawn import rows


@pytest.fixture
def recurrent():
    """Two steps of `h = tanh(read(x[t]) + h)`, then a block of two ops called once."""
    read = ("read.weight", "read.bias")
    return rows(
        ("input_1", "input", "2x2x3", "", (), (), ()),
        ("zeros_1", "op", "2x4", "", (), (), ()),
        ("linear_1:1", "op", "2x4", "read", ("read:1",), ("input_1",), read),
        ("add_1:1", "op", "2x4", "", (), ("linear_1:1", "zeros_1"), ()),
        ("linear_1:2", "op", "2x4", "read", ("read:2",), ("input_1",), read),
        ("add_1:2", "op", "2x4", "", (), ("linear_1:2", "add_1:1"), ()),
        ("mul_1", "op", "2x4", "head", ("head:1",), ("add_1:2", "add_1:2"), ("scale",)),
        ("relu_1", "op", "2x4", "head.act", ("head:1", "head.act:1"), ("mul_1",), ()),
        ("sum_1", "op", "", "", (), ("relu_1",), ()),
        ("output_1", "output", "", "", (), ("sum_1",), ()),
    )


class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.read = torch.nn.Linear(3, 4)
        self.keep = torch.nn.Linear(4, 4)

    def forward(self, x, h):
        return torch.tanh(self.read(x) - self.keep(h))


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Cell()
        self.head = torch.nn.Conv1d(4, 2, 1, stride=1, padding=2)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if h.sum() > -100:
                h = h * 0.5
        return self.head(h[..., None])


@pytest.fixture(scope="session")
def traced():
    with torch.no_grad():
        return lf.trace(Recurrent().eval(), torch.rand(2, 3, 3)).layers

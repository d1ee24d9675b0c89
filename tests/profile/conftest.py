"""A frame that the tests of costs, totals and profiles share."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Blocks(nn.Module):
    """A list of blocks, one of them run twice, and an operation of the model's own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.blocks[0](x)
        x = self.blocks[1](self.blocks[1](x))
        return self.head(x) * 2


@pytest.fixture
def blocks():
    return lf.trace(Blocks().eval(), torch.rand(5, 4)).layers

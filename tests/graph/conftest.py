"""Two traces that all verbs are tried on: a chain of blocks and a loop."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.fc(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(3, 4)
        self.keep = nn.Linear(4, 4)

    def forward(self, x, h):
        return torch.tanh(self.read(x) + self.keep(h))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Cell()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if t == 2:
                h = h * 2
        return self.head(h)


@pytest.fixture(scope="session")
def net():
    return lf.trace(Net().eval(), torch.rand(5, 3)).layers


@pytest.fixture(scope="session")
def recurrent():
    return lf.trace(Recurrent().eval(), torch.rand(2, 5, 3)).layers

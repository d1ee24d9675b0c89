"""A model with something of everything, its validation, and what failed in it."""

import torch
from torch import nn


class Net(nn.Module):
    """A convolution, a loop with shared weights, a subtraction, a write through a view."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        h = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        for _ in range(3):
            h = torch.tanh(self.fc(h)) * self.scale
        y = h.clone()
        y[:, 0] = 5
        v = y[:, 1]
        v.add_(1)
        left, right = y.chunk(2, 1)
        return left - right if bool(left.sum() > -1000) else left


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def validate(layers, activations, model, **options):
    with torch.no_grad():
        return layers.lens.validate(model, X, activations=activations, **options)


def writable(activations, op):
    """The dataset with a copy of one variable that can be changed."""
    changed = activations.copy()
    changed[op] = activations[op].copy(deep=True)
    changed[op].attrs = activations[op].attrs
    return changed


def failed(report, check):
    """The ops for which a check failed."""
    return set(report.index[report[check] == False])  # noqa: E712 (missing is not False)

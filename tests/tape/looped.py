"""Programs with loops, and how many passes their layers have."""

import torch
from torch import nn

import lensframe_pd as lf

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def passes(model, args):
    """Function name to the pass counts of its layers, in order of first execution."""
    torch.manual_seed(0)
    with torch.no_grad():
        layers = lf.trace(model, args, save=None).layers
    found = {}
    for layer, rows in layers[layers["kind"] == "op"].groupby("layer", sort=False):
        assert list(rows["pass_num"]) == list(range(1, len(rows) + 1))
        assert (rows["n_passes"] == len(rows)).all()
        found.setdefault(rows["func"].iloc[0], []).append(len(rows))
        assert layer.rpartition("_")[0] == rows["func"].iloc[0]
    return found


class Forward(nn.Module):
    """A module with some parts and a forward written in the test."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward
        self.eval()

    def forward(self, *args):
        return self._forward(self, *args)


def linears(n):
    return nn.ModuleList([nn.Linear(8, 8) for _ in range(n)])

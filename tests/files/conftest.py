"""A trace to store."""

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Loop(nn.Module):
    """Ragged passes (a growing cache), a bool, a scalar, bfloat16 and complex values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        cache = x[:, :1]
        for _ in range(3):
            cache = torch.cat([cache, self.fc(cache[:, -1:])], dim=1)
        half = cache.bfloat16()
        return (cache > 0, half.float().mean(), torch.fft.fft(cache), cache.half())


@pytest.fixture(scope="session")
def trace():
    torch.manual_seed(0)
    table = pd.DataFrame({"category": ["u", "v"], "n: /": [1, 2]}, index=["a", "bb"])
    with torch.no_grad():
        return lf.trace(Loop().eval(), torch.randn(2, 4, 3), stimulus=table)

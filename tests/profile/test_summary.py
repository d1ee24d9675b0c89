"""The summary: a table to read, in numbers to read."""

import pytest
import torch
from torch import nn

from lensframe_pd.profile.summary import large, seconds, summary

from .layer_files import traced_layers


def test_summary():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 10))
    table = summary(traced_layers(model.eval(), torch.rand(2, 3, 8, 8)))
    assert table["output"].to_dict() == {
        "(model)": "2x10", "0": "2x64x6x6", "1": "2x64x6x6", "2": "2x2304", "3": "2x10",
    }  # fmt: skip
    assert table["params"].to_dict() == {"(model)": "24,842", "0": "1,792", "1": "", "2": "",
                                         "3": "23,050"}  # fmt: skip
    assert table.loc["0", ["type", "FLOPs", "activations"]].tolist() == [
        "Conv2d",
        "249 k",
        "18.4 kB",
    ]
    assert table.loc["(model)", "share"] == "100.0%"


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 "), (999, "999 "), (999.6, "1 k"), (1000, "1 k"), (1.5e12, "1.5 T")]
)
def test_large_numbers(n, text):
    assert large(n) == text


@pytest.mark.parametrize(
    ("s", "text"), [(2, "2 s"), (0.9999, "1 s"), (1e-3, "1 ms"), (3e-9, "3 ns")]
)
def test_times(s, text):
    assert seconds(s) == text

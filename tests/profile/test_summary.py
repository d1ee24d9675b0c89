"""The summary: a table to read, in numbers to read."""

import pandas as pd
import torch
from torch import nn

from lensframe_pd.profile.summary import summary

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


def test_the_class_of_the_model_is_in_any_row_of_its_own():
    model = nn.Sequential(nn.Linear(3, 2)).eval()  # all its operations are in a module
    assert summary(traced_layers(model, torch.rand(2, 3)))["type"].tolist() == [
        "Sequential", "Linear",
    ]  # fmt: skip


def test_the_summary_does_not_read_attrs(blocks):
    bare = blocks.copy()
    bare.attrs = {"model": "not the model", "seconds": -1, "stopped": True}
    pd.testing.assert_frame_equal(summary(bare), summary(blocks))

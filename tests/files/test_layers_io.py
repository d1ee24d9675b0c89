"""`layers` through pandas' own files: no reader of ours, no cell lost."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from stored import BY_PANDAS
from torch import nn

import lensframe_pd as lf
from lensframe_pd.draw.dot import dot

SEQUENCES = [
    "parents", "parent_args", "module_stack", "returned_by", "shape", "stride", "params",
    "param_args", "param_shapes", "param_dtypes", "buffers", "buffer_args", "buffer_shapes",
    "buffer_dtypes", "tuple_args", "read_by",
]  # fmt: skip


class Steps(nn.Module):
    """A loop, a branch on a value, a buffer and a scalar."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.norm(x)
        for _ in range(3):
            x = torch.relu(self.fc(x))
        if x.sum() > -1:
            x = x + 1
        return {"mean": x.mean(), "x": x}


@pytest.fixture(scope="module")
def layers():
    return lf.trace(Steps().eval(), torch.rand(2, 4)).layers


def as_tuples(cell):
    if isinstance(cell, str) or not hasattr(cell, "__len__"):
        return cell
    return tuple(as_tuples(c) for c in cell)


@pytest.fixture(params=["parquet", "feather"])
def again(request, layers, tmp_path):
    """The frame written and read by plain pandas."""
    path = tmp_path / f"layers.{request.param}"
    getattr(layers, f"to_{request.param}")(path)
    return getattr(pd, f"read_{request.param}")(path)


def test_every_column_comes_back(layers, again):
    assert list(again.columns) == list(layers.columns)
    assert list(again.index) == list(layers.index)
    assert again.index.name == "op"
    plain = [c for c in layers.columns if c not in SEQUENCES]
    pd.testing.assert_frame_equal(again[plain], layers[plain], **BY_PANDAS)
    for column in SEQUENCES:
        assert [as_tuples(c) for c in again[column]] == list(layers[column]), column


def test_attrs_come_back_from_parquet(layers, tmp_path):
    layers.to_parquet(tmp_path / "layers.parquet")
    assert pd.read_parquet(tmp_path / "layers.parquet").attrs == layers.attrs
    assert layers.attrs["model"] == "Steps"


def test_a_frame_read_back_draws_the_same(layers, again):
    assert dot(again) == dot(layers)
    assert dot(again.query("func == 'linear'")) == dot(layers.query("func == 'linear'"))


def test_rows_of_a_file_are_linked_by_plain_pandas(layers, again):
    edges = again["parents"].explode().dropna()
    expected = [(p, op) for op, parents in layers["parents"].items() for p in parents]
    assert list(zip(edges, edges.index, strict=True)) == expected
    assert set(edges) <= set(again.index)


def test_reading_needs_neither_torch_nor_this_library(layers, tmp_path):
    path = tmp_path / "layers.parquet"
    layers.to_parquet(path)
    code = (
        "import sys, pandas as pd\n"
        f"frame = pd.read_parquet({str(path)!r})\n"
        "assert 'torch' not in sys.modules and 'lensframe_pd' not in sys.modules\n"
        "print(len(frame), list(frame.loc['linear_1:2', 'parents']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == f"{len(layers)} ['relu_1:1']"

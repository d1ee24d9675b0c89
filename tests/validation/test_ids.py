"""Ids of a Dataset must be whole, each once, and those told, in the order of the arguments."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import lensframe_pd as lf

from .reports import failed, writable

IDS = ["s0", "s1", "s2", "s3"]
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def named():
    x = X
    table = {"kind": ["cat", "dog", "cat", "owl"], "size": [1.0, np.nan, 3.0, 4.0]}
    frame = pd.DataFrame(table, index=IDS)
    layers, activations = lf.trace(torch.relu, x, stimulus=frame)
    return x, frame, layers, activations


def test_ids_as_told(named):
    x, frame, layers, activations = named
    report = layers.lens.validate(torch.relu, x, activations=activations, stimulus=frame)
    assert report["passed"].all(), report["reason"].tolist()
    report = layers.lens.validate(torch.relu, x, activations=activations, stimulus=IDS)
    assert report["passed"].all()


@pytest.mark.parametrize(
    "forge",
    [
        lambda a: a.assign_coords(stimulus=["s1", "s0", "s2", "s3"]),
        lambda a: a.assign_coords(stimulus=["s0", "s1", "s2", "x"]),
        lambda a: a.assign_coords(kind=("stimulus", ["cat", "cat", "dog", "owl"])),
        lambda a: a.assign_coords(size=("stimulus", [1.0, 2.0, 3.0, 4.0])),
        lambda a: a.assign_coords(size=("stimulus", [1.0, np.nan, np.nan, 4.0])),
        lambda a: a.drop_vars("stimulus"),
        lambda a: a.drop_vars("kind"),
        lambda a: a.isel(stimulus=[1, 0, 2, 3]),
    ],
)
def test_other_ids_than_told(named, forge):
    x, frame, layers, activations = named
    report = layers.lens.validate(torch.relu, x, activations=forge(activations), stimulus=frame)
    assert {"input_1", "relu_1", "output_1"} <= failed(report, "alignment")


def test_an_id_that_stands_twice(named):
    x, _, layers, activations = named
    wrong = activations.assign_coords(stimulus=["s0", "s0", "s2", "s3"])
    report = layers.lens.validate(torch.relu, x, activations=wrong)
    assert "relu_1" in failed(report, "alignment")


def test_files_say_the_same(tmp_path):
    layers, activations = lf.trace(torch.relu, X, stimulus=IDS)
    lf.write(activations, tmp_path / "a.nc")
    again = lf.read(tmp_path / "a.nc")
    assert isinstance(again, xr.Dataset)
    report = layers.lens.validate(torch.relu, X, activations=again, stimulus=IDS)
    assert report["passed"].all()
    assert report["alignment"].all()


def test_a_value_off_at_one_stimulus(named):
    x, _, layers, activations = named
    wrong = writable(activations, "relu_1")
    wrong["relu_1"][2] = 7
    report = layers.lens.validate(torch.relu, x, activations=wrong)
    assert not report.loc["relu_1", "passed"]

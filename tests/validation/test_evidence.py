"""Validation goes by columns and values: of stopped and seeded runs, without attrs, from files."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

import lensframe_pd as lf


class Noisy(nn.Module):
    """A recurrent cell that drops out at every step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(4, 4)

    def forward(self, x):
        h = torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = nn.functional.dropout(torch.tanh(self.cell(x[:, t]) + h), 0.5, training=True)
        return h


X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


IMAGES = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)


def as_traced(layers, activations, folder):
    return layers, activations


def without_attrs(layers, activations, folder):
    layers, activations = layers.copy(), activations.copy()
    layers.attrs.clear()
    activations.attrs.clear()
    return layers, activations


def from_files(layers, activations, folder):
    layers.to_parquet(folder / "layers.parquet")
    lf.write(activations, folder / "activations.zarr")
    layers = pd.read_parquet(folder / "layers.parquet")
    layers.attrs.clear()
    return layers, lf.read(folder / "activations.zarr")


ways = pytest.mark.parametrize("way", [as_traced, without_attrs, from_files])


@ways
@pytest.mark.parametrize("save", ["layer2", "relu_5", "bn1", ["conv2d_1", "layer1.0"]])
def test_a_stopped_run(resnet, save, way, tmp_path):
    with torch.no_grad():
        stopped = lf.trace(resnet, IMAGES, save=save, stop=True)
    assert stopped.validate()["passed"].all()
    layers, activations = way(*stopped, tmp_path)
    report = layers.lens.validate(resnet, IMAGES, activations=activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    assert len(report) == len(layers)


@pytest.mark.parametrize("claims", [False, True])
def test_a_whole_run_without_its_tail(resnet, claims):
    with torch.no_grad():
        layers, activations = lf.trace(resnet, IMAGES)
    cut = layers.iloc[:20].copy()
    if claims:
        cut.attrs["stopped"] = True
    report = cut.lens.validate(resnet, IMAGES, activations=activations[list(cut.index)])
    assert report.loc[layers.index[20], "reason"].startswith("invariants: the frame lacks this row")
    assert (~report["passed"]).sum() >= len(layers) - 20


def spoilt_stop(layers):
    return layers.drop(index="relu_2")


def changed_parent(layers):
    layers = layers.copy()
    layers.at["relu_3", "parents"] = ("relu_1",)
    return layers


@pytest.mark.parametrize("spoil", [spoilt_stop, changed_parent])
def test_a_spoilt_frame_of_a_stopped_run(resnet, spoil):
    with torch.no_grad():
        layers, _ = lf.trace(resnet, IMAGES, save="layer1", stop=True)
    assert not spoil(layers).lens.validate(resnet, IMAGES)["passed"].all()


def test_a_tail_dropped_from_a_stopped_run(resnet):
    """What is left has no row that says it is the end."""
    with torch.no_grad():
        layers, _ = lf.trace(resnet, IMAGES, save="layer1", stop=True)
    report = layers.iloc[:-2].lens.validate(resnet, IMAGES)
    assert not report["passed"].all()


def test_the_end_of_a_module_is_not_that_of_its_last_row(resnet):
    """Ended by the row, a module has returned nothing; ended by the module, it has."""
    with torch.no_grad():
        layers, _ = lf.trace(resnet, IMAGES, save="bn1", stop=True)
    assert json.loads(layers["context"].iloc[-1])["stopped"] == "bn1:1"
    wrong = layers.copy()
    wrong.loc[wrong.index[-1], "context"] = json.dumps({"grad": False, "stopped": True})
    report = wrong.lens.validate(resnet, IMAGES)
    assert "returned_by" in report.loc["batch_norm_1", "reason"]


@ways
def test_seeded_random_numbers_are_replayed(way, tmp_path):
    model = Noisy().eval()
    layers, activations = way(*lf.trace(model, X, seed=3), tmp_path)
    report = layers.lens.validate(model, X, activations=activations)
    assert report["passed"].all()
    random = layers.index[layers["random"]]
    assert len(random) == 3
    assert report.loc[random, "replay"].all()
    wrong = activations.copy(deep=True)
    value = wrong[random[1]].values.copy()
    value.flat[np.flatnonzero(value)[0]] *= 2
    wrong[random[1]] = (wrong[random[1]].dims, value, wrong[random[1]].attrs)
    report = layers.lens.validate(model, X, activations=wrong)
    assert not report.loc[random[1], "passed"]


def test_without_a_seed_they_are_not_and_it_is_said():
    model = Noisy().eval()
    layers, activations = lf.trace(model, X)
    report = layers.lens.validate(model, X, activations=activations)
    random = layers.index[layers["random"]]
    assert report.loc[random, "replay"].isna().all()
    assert report.loc[random, "reason"].str.contains("the trace recorded no seed").all()


def test_the_seed_stands_where_it_decides():
    layers = lf.trace(Noisy().eval(), X, seed=3).layers
    seeds = layers["context"].map(json.loads).map(lambda facts: facts.get("seed"))
    assert seeds[layers["random"]].tolist() == [3, 3, 3]
    assert seeds[~layers["random"]].isna().all()
    assert layers.attrs["seed"] == 3

"""Hand-offs, each judged by the package it is for."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import pdist
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import cross_val_score
from torch import nn

import lensframe_pd as lf
from lensframe_pd.rsa.handoff import (
    to_assembly,
    to_datatree,
    to_rsatoolbox,
    to_rsatoolbox_rdms,
    to_sklearn,
    to_stacked,
)

IDS = ["d", "a", "c", "b", "e", "f"]


@pytest.fixture(scope="module")
def activations():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)).eval()
    table = pd.DataFrame({"category": list("xyxyxy")}, index=IDS)
    with torch.no_grad():
        return lf.trace(net, torch.randn(6, 3, 5, 5), stimulus=table).activations


def test_rsatoolbox_dataset(activations):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    found = to_rsatoolbox(activations, "relu_1")
    assert isinstance(found, Dataset)
    assert found.measurements.dtype == np.float64
    np.testing.assert_array_equal(found.measurements, activations["relu_1"].values.reshape(6, -1))
    assert list(found.obs_descriptors["stimulus"]) == IDS
    assert list(found.obs_descriptors["category"]) == list("xyxyxy")
    assert found.channel_descriptors["channel"][9] == 1
    assert found.descriptors == {"layer": "relu_1", "model": "Sequential"}
    means = calc_rdm(found, descriptor="category")
    assert means.n_cond == 2


@pytest.mark.parametrize(
    ("ours", "theirs"), [("correlation", "correlation"), ("sqeuclidean", "euclidean")]
)
def test_rdms_are_those_rsatoolbox_computes(activations, ours, theirs):
    from rsatoolbox.rdm import RDMs, calc_rdm

    layers = ["relu_1", "linear_1"]
    found = to_rsatoolbox_rdms(activations, layers, ours)
    assert isinstance(found, RDMs)
    expected = [calc_rdm(to_rsatoolbox(activations, name), method=theirs) for name in layers]
    for k, rdm in enumerate(expected):
        np.testing.assert_allclose(found.dissimilarities[k], rdm.dissimilarities[0], rtol=1e-9)
        assert found.dissimilarity_measure == rdm.dissimilarity_measure
    assert list(found.rdm_descriptors["layer"]) == layers
    assert list(found.rdm_descriptors["n_features"]) == [36, 5]
    assert list(found.pattern_descriptors["stimulus"]) == IDS


def test_a_plain_euclidean_distance_keeps_its_name(activations):
    found = to_rsatoolbox_rdms(activations, "linear_1", "euclidean")
    assert found.dissimilarity_measure == "euclidean"
    expected = pdist(activations["linear_1"].values.astype(float))
    np.testing.assert_allclose(found.dissimilarities[0], expected)


def test_inference_is_rsatoolboxs(activations):
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import compare

    rdms = to_rsatoolbox_rdms(activations)
    last = to_rsatoolbox_rdms(activations, "linear_1")
    scores = compare(rdms, last, method="spearman").ravel()
    assert scores[-1] == pytest.approx(1)
    result = eval_fixed([ModelFixed("last", last)], rdms, method="corr")
    assert result.evaluations.shape[1] == 1


def test_missing_package(activations, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rsatoolbox", None)
    with pytest.raises(lf.LensRuntimeError, match="pip install rsatoolbox"):
        to_rsatoolbox(activations, "relu_1")


def test_assembly(activations, tmp_path):
    found = to_assembly(activations, ["relu_1", "linear_1"], path=tmp_path / "a.nc")
    assert found.dims == ("presentation", "neuroid")
    assert list(found["stimulus_id"].values) == IDS
    assert list(found["category"].values) == list("xyxyxy")
    relu = found[:, (found["layer"] == "relu_1").values]
    np.testing.assert_array_equal(relu, activations["relu_1"].values.reshape(6, -1))
    unit = relu[:, 17]
    at = [int(unit[c]) for c in ("channel", "channel_x", "channel_y")]
    np.testing.assert_array_equal(unit, activations["relu_1"].values[:, at[0], at[1], at[2]])
    last = found[:, (found["layer"] == "linear_1").values]
    assert list(last["channel"].values) == [0, 1, 2, 3, 4]
    assert np.isnan(last["channel_x"]).all()
    assert last["neuroid_id"].values[2] == "Sequential.linear_1.2"
    assert len(set(found["neuroid_id"].values)) == found.sizes["neuroid"]
    with xr.open_dataarray(tmp_path / "a.nc", engine="netcdf4") as read:
        np.testing.assert_array_equal(read, found)
        assert not read.indexes
        # What brainio does with a file: coordinates of a dimension become its MultiIndex.
        names = {d: [c for c in read.coords if read[c].dims == (d,)] for d in read.dims}
        indexed = read.set_index(presentation=names["presentation"], neuroid=names["neuroid"])
        assert indexed.sel(layer="linear_1").sizes["neuroid"] == 5
        assert indexed.sel(stimulus_id="c").values.size == 41


def test_assembly_needs_ids(activations):
    with pytest.raises(lf.LensValueError, match="has no stimulus ids"):
        to_assembly(activations.drop_vars("stimulus"), "relu_1")


def test_assembly_of_tokens():
    embed = nn.Embedding(5, 3)
    with torch.no_grad():
        ds = lf.trace(embed.eval(), torch.arange(4).reshape(2, 2), stimulus=[1, 2]).activations
    found = to_assembly(ds, "embedding_1")
    assert list(found["token"].values) == [0, 0, 0, 1, 1, 1]
    assert list(found["channel"].values) == [0, 1, 2, 0, 1, 2]


def test_stacked(activations):
    found = to_stacked(activations, ["relu_1", "linear_1"])
    assert found.sizes == {"stimulus": 6, "feature": 41}
    np.testing.assert_array_equal(found.sel(layer="linear_1"), activations["linear_1"])
    assert list(found["stimulus"].values) == IDS
    pooled = to_stacked(activations, ["relu_1"], pool="mean")
    assert pooled.sizes["feature"] == 4


def test_datatree():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.relu_1 = nn.ReLU()

        def forward(self, x):
            return torch.relu(x) + self.relu_1(self.fc(x))

    net = nn.Sequential(Block(), Block()).eval()
    with torch.no_grad():
        ds = lf.trace(net, torch.randn(2, 3), stimulus=["a", "b"]).activations
    tree = to_datatree(ds)
    assert list(tree["0/fc"].data_vars) == ["linear_1"]
    assert list(tree["0"].data_vars) == ["relu_1", "add_1"]
    assert list(tree["0/relu_1_"].data_vars) == ["relu_2"]
    assert list(tree["1/fc"].to_dataset()["stimulus"].values) == ["a", "b"]
    variables = [str(v) for node in tree.subtree for v in node.to_dataset(inherit=False).data_vars]
    assert sorted(variables) == sorted(ds.data_vars)
    xr.testing.assert_equal(tree["1/fc"].to_dataset()["linear_2"], ds["linear_2"])
    assert tree.sel(stimulus="b")["0/fc"]["linear_1"].shape == (3,)


def test_scikit_learn_ridge_and_pls():
    rng = np.random.default_rng(0)
    inputs = torch.randn(60, 10)
    ids = [f"s{i}" for i in range(60)]
    layer = nn.Linear(10, 20)
    with torch.no_grad():
        ds = lf.trace(layer.eval(), inputs, stimulus=ids).activations
    order = rng.permutation(60)
    weights = rng.normal(size=(20, 3))
    neural = pd.DataFrame(ds["linear_1"].values @ weights, index=ids, columns=["n1", "n2", "n3"])
    X, y = to_sklearn(ds, "linear_1", neural.iloc[order])
    assert list(X.index) == list(y.index) == [ids[i] for i in order]
    for model in (RidgeCV(np.logspace(-6, 0, 7)), PLSRegression(10)):
        assert cross_val_score(model, X, y, cv=5).min() > 0.99
    shuffled = Ridge().fit(X, neural).score(X, neural)  # by position it does not work
    assert shuffled < 0.9


def test_trials_repeat_features(activations):
    trials = pd.DataFrame({"n1": [1.0, 2, 3, 4, 5, 6, 7]}, index=["a", *IDS])
    X, y = to_sklearn(activations, "linear_1", trials)
    np.testing.assert_array_equal(X.iloc[0], X.iloc[2])
    assert y is trials
    array = xr.DataArray(np.ones((2, 6)), {"stimulus": IDS[::-1]}, ("unit", "stimulus"))
    X, y = to_sklearn(activations, "linear_1", array)
    assert list(X.index) == list(y.index) == IDS[::-1]
    assert y.shape == (6, 2)


def test_responses_that_do_not_fit(activations):
    frame = pd.DataFrame({"n1": range(6)}, index=IDS)
    with pytest.raises(lf.LensValueError, match="no features of: 'zz'"):
        to_sklearn(activations, "linear_1", frame.rename(index={"a": "zz"}))
    with pytest.raises(lf.LensValueError, match="stimuli without a response: 'a'"):
        to_sklearn(activations, "linear_1", frame.drop("a"))
    with pytest.raises(lf.LensTypeError):
        to_sklearn(activations, "linear_1", [1, 2])
    with pytest.raises(lf.LensValueError, match="no stimulus ids"):
        to_sklearn(activations.drop_vars("stimulus"), "linear_1", frame)


def test_hand_offs_raise_no_warnings(activations):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_assembly(activations)
        to_stacked(activations)
        to_datatree(activations)

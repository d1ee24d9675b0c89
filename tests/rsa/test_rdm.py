"""RDMs beside scipy's pdist in float64."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata
from torch import nn

import lensframe_pd as lf
from lensframe_pd.rsa import distances
from lensframe_pd.rsa.distances import dissimilarities
from lensframe_pd.rsa.rdm import rdm

PRODUCTS = ("correlation", "cosine", "euclidean", "sqeuclidean")


def oracle(values, metric):
    return squareform(pdist(np.asarray(values, np.float64), metric))


def dataset(values, ids=None, name="a_1"):
    ds = xr.Dataset({name: (("stimulus", f"feature_{values.shape[1]}"), values)})
    return ds if ids is None else ds.assign_coords(stimulus=ids)


@pytest.mark.parametrize("metric", [*PRODUCTS, "cityblock", "chebyshev", "braycurtis"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
def test_equals_scipy(metric, dtype):
    values = (np.random.default_rng(0).normal(size=(30, 50)) * 5 + 2).astype(dtype)
    found = rdm(dataset(values), metric=metric)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], oracle(values, metric), rtol=1e-9, atol=1e-12)


def test_spearman_is_the_correlation_of_ranks():
    values = np.random.default_rng(0).integers(0, 5, size=(9, 12)).astype(np.float32)
    found = rdm(dataset(values), metric="spearman")
    np.testing.assert_allclose(
        found[0], oracle(rankdata(values, axis=1), "correlation"), atol=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(
    values=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 12), st.integers(1, 9)),
        elements=st.floats(-(2.0**40), 2.0**40, width=32),
    ),
    metric=st.sampled_from(PRODUCTS),
    columns=st.sampled_from([1, 3, 100]),
)
def test_property_any_chunking_equals_scipy(values, metric, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_CHUNK", 1)
        patch.setattr(distances, "_FEWEST", columns)
        patch.setattr(distances, "_BLOCK", 2)
        found = dissimilarities(values, metric)
    exact = values.astype(np.longdouble)
    low, high = exact.min(1), exact.max(1)
    constant = {"correlation": low == high, "cosine": (low == 0) & (high == 0)}
    np.testing.assert_array_equal(found.constant, constant.get(metric, np.zeros(len(values), bool)))
    keep = ~found.constant
    assert np.isnan(found.values[~keep]).all()
    kept = found.values[np.ix_(keep, keep)]
    np.testing.assert_array_equal(kept, kept.T)
    np.testing.assert_array_equal(np.diagonal(kept), 0)
    if metric in ("correlation", "cosine"):
        if metric == "correlation":
            exact = exact - exact.mean(1, keepdims=True)
        exact = exact[keep] / np.abs(exact[keep]).max(1, keepdims=True, initial=0)
        exact = exact / np.sqrt((exact**2).sum(1, keepdims=True))
        np.testing.assert_allclose(kept, np.maximum(1 - exact @ exact.T, 0), atol=1e-6, rtol=1e-6)
    else:
        squared = ((exact[:, None] - exact[None]) ** 2).sum(-1)
        expected = squared if metric == "sqeuclidean" else np.sqrt(squared)
        np.testing.assert_allclose(kept, expected.astype(float), rtol=1e-6)


@pytest.mark.parametrize("metric", PRODUCTS)
@pytest.mark.parametrize("offset", [0, 1000])
def test_near_duplicates_are_exact(metric, offset):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20, 3000)) + offset
    values[1] = values[0]
    values[2] = values[0] + 1e-6 * rng.normal(size=3000)
    exact = values.astype(np.longdouble)
    if metric == "correlation":
        exact = exact - exact.mean(1, keepdims=True)
    if metric in ("correlation", "cosine"):
        exact = exact / np.sqrt((exact**2).sum(1, keepdims=True))
    squared = float(((exact[0] - exact[2]) ** 2).sum())
    expected = {"euclidean": squared**0.5, "sqeuclidean": squared}.get(metric, squared / 2)
    found = dissimilarities(values, metric).values
    assert found[0, 1] == 0
    assert found[0, 2] == found[2, 0] == pytest.approx(expected, rel=1e-4 if offset else 1e-6)


def test_all_patterns_alike_but_for_little():
    """As in late layers of an untrained network: the common part must not hide the rest."""
    rng = np.random.default_rng(2)
    common = rng.normal(size=500) * 100
    values = (common + 1e-3 * rng.normal(size=(40, 500))).astype(np.float64)
    exact = values.astype(np.longdouble)
    exact = exact - exact.mean(1, keepdims=True)
    exact = exact / np.sqrt((exact**2).sum(1, keepdims=True))
    expected = ((exact[:, None] - exact[None]) ** 2).sum(-1).astype(float) / 2
    np.testing.assert_allclose(dissimilarities(values).values, expected, rtol=1e-4, atol=0)


def test_equal_patterns_and_no_features():
    rng = np.random.default_rng(0)
    alike = np.tile(rng.normal(size=300), (40, 1))
    for metric in PRODUCTS:
        np.testing.assert_array_equal(dissimilarities(alike, metric).values, 0)
    assert np.isnan(dissimilarities(np.zeros((3, 0)), "correlation").values).all()
    assert (dissimilarities(np.zeros((3, 0)), "euclidean").values == 0).all()
    assert dissimilarities(np.zeros((0, 3)), "euclidean").values.shape == (0, 0)


def test_blocks_of_rows():
    values = np.random.default_rng(0).normal(size=(2 * distances._BLOCK + 100, 7))
    for metric in ("correlation", "euclidean"):
        np.testing.assert_allclose(
            dissimilarities(values, metric).values, oracle(values, metric), atol=1e-7
        )


def test_constant_patterns_are_named():
    values = np.array([[0.1, 0.1, 0.1], [1, 2, 3], [3, 1, 2], [0, 0, 0]], np.float32)
    ds = dataset(values, ids=["flat", "a", "b", "dark"])
    with pytest.warns(lf.LensWarning, match="constant patterns in a_1.*: 'flat', 'dark'"):
        found = rdm(ds)[0]
    assert np.isnan(found.sel(stimulus="flat")).all()
    assert np.isnan(found.sel(stimulus_="dark")).all()
    expected = oracle(values[1:3], "correlation")
    np.testing.assert_allclose(found[1:3, 1:3], expected)
    with pytest.warns(lf.LensWarning, match=r"constant patterns in a_1.*: 'dark'$"):
        rdm(ds, metric="cosine")
    np.testing.assert_allclose(rdm(ds, metric="euclidean")[0], oracle(values, "euclidean"))


def test_not_finite_patterns_are_named_and_spoil_nothing():
    values = np.random.default_rng(0).normal(size=(5, 8))
    values[1, 3], values[4, 0] = np.nan, np.inf
    for metric in ("correlation", "euclidean", "cityblock"):
        with pytest.warns(lf.LensWarning, match=r"with NaN or infinity in a_1.*: 11, 14"):
            found = rdm(dataset(values, ids=range(10, 15)), metric=metric)[0].values
        keep = [0, 2, 3]
        np.testing.assert_allclose(found[np.ix_(keep, keep)], oracle(values[keep], metric))
        assert np.isnan(found[[1, 4]]).all()


def test_dimensions_ids_and_passes():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            for _ in range(2):
                x = torch.tanh(self.fc(x))
            return x.sum()

    table = pd.DataFrame({"category": ["x", "y", "x"]}, index=["c", "a", "b"])
    ds = lf.trace(Loop().eval(), torch.randn(3, 6), stimulus=table).activations
    found = rdm(ds)
    assert found.dims == ("layer", "stimulus", "stimulus_")
    assert list(found["layer"].values) == [
        "input_1", "linear_1:1", "tanh_1:1", "linear_1:2", "tanh_1:2",
    ]  # fmt: skip
    assert list(found["stimulus"].values) == list(found["stimulus_"].values) == ["c", "a", "b"]
    assert list(found["category"].values) == ["x", "y", "x"]
    named = rdm(ds, ["tanh_1", "input_1"], "euclidean")
    assert list(named["layer"].values) == ["tanh_1:1", "tanh_1:2", "input_1"]
    second = oracle(ds["tanh_1:2"].values, "euclidean")
    np.testing.assert_allclose(named.sel(layer="tanh_1:2"), second)
    assert float(named.sel(layer="tanh_1:2", stimulus="a", stimulus_="b")) == named[1, 1, 2]


def test_pooling():
    values = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)
    ds = xr.Dataset(
        {
            "conv2d_1": (("stimulus", "channel_3", "y_5", "x_5"), values),
            "linear_1": (("stimulus", "feature_3"), values[..., 0, 0]),
        }
    )
    found = rdm(ds, pool={"space": "mean"})
    pooled = values.astype(float).mean((2, 3))
    np.testing.assert_allclose(found[0], oracle(pooled, "correlation"), atol=1e-6)
    np.testing.assert_allclose(found[1], oracle(values[..., 0, 0], "correlation"), atol=1e-12)
    with pytest.raises(lf.LensValueError, match="cannot pool 'token': none of these layers"):
        rdm(ds, pool={"token": "mean"})


def test_complex_patterns_count_both_parts():
    values = np.random.default_rng(0).normal(size=(4, 6))
    ds = dataset(np.ascontiguousarray(values).view(np.complex128))
    np.testing.assert_allclose(rdm(ds, metric="euclidean")[0], oracle(values, "euclidean"))


def test_lazy_arrays(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    ds = dataset(values).chunk(stimulus=2)
    np.testing.assert_allclose(rdm(ds)[0], oracle(values, "correlation"), atol=1e-12)
    monkeypatch.setattr("lensframe_pd.rsa.features._IN_MEMORY", 10)
    np.testing.assert_allclose(rdm(ds)[0], oracle(values, "correlation"), atol=1e-12)


def test_errors():
    ds = dataset(np.ones((2, 3)))
    with pytest.raises(lf.LensValueError, match="no metric 'correlatoin'; there are correlation"):
        rdm(ds, metric="correlatoin")
    with pytest.raises(lf.LensKeyError, match="b_1"):
        rdm(ds, ["b_1"])
    with pytest.raises(lf.LensValueError, match="without a stimulus axis: 's_1'"):
        rdm(xr.Dataset({"s_1": ((), 1.0)}), ["s_1"])


def test_equals_rsatoolbox():
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    values = np.random.default_rng(0).normal(size=(20, 300))
    theirs = calc_rdm(Dataset(values), method="correlation").get_matrices()[0]
    np.testing.assert_allclose(rdm(dataset(values))[0], theirs, atol=1e-12)


@pytest.mark.parametrize("metric", ["mahalanobis", "Mahalanobis", "mahal", "mah"])
def test_mahalanobis_needs_noise(metric):
    with pytest.raises(lf.LensValueError, match="covariance of the noise"):
        rdm(dataset(np.random.default_rng(0).normal(size=(9, 4))), metric=metric)

"""CKA beside the formulas of the papers, written out with centring matrices."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import pdist, squareform
from torch import nn

import lensframe_pd as lf
from lensframe_pd.rsa.cka import cka

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 30)), RNG.normal(size=(12, 7)) ** 2


def dataset(ids=None, **variables):
    data = {
        k: (("stimulus", *(f"dim{i}_{n}" for i, n in enumerate(v.shape[1:], 1))), v)
        for k, v in variables.items()
    }
    ds = xr.Dataset(data)
    return ds if ids is None else ds.assign_coords(stimulus=ids)


def hsic(k, l):
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ l @ h) / (n - 1) ** 2


def unbiased_hsic(k, l):
    """Song et al. 2012, equation 5, term by term."""
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    first = np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2))
    return (first - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def by_formula(a, b, of=hsic):
    return of(a, b) / np.sqrt(of(a, a) * of(b, b))


def gaussian(values, bandwidth):
    distance = pdist(values)
    sigma = bandwidth * np.sqrt(np.median(distance**2))
    return np.exp(-(squareform(distance) ** 2) / (2 * sigma**2))


def test_linear():
    found = cka(dataset(a_1=X, b_1=Y))
    assert found.dims == ("layer", "layer_")
    expected = by_formula(X @ X.T, Y @ Y.T)
    np.testing.assert_allclose(found, [[1, expected], [expected, 1]], rtol=1e-10)
    centred = X - X.mean(0), Y - Y.mean(0)
    norms = [np.linalg.norm(a.T @ a) for a in centred]
    other = np.linalg.norm(centred[1].T @ centred[0]) ** 2 / (norms[0] * norms[1])
    assert float(found[0, 1]) == pytest.approx(other)


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 2.0])
def test_rbf(bandwidth):
    found = cka(dataset(a_1=X, b_1=Y), kernel="rbf", bandwidth=bandwidth)
    expected = by_formula(gaussian(X, bandwidth), gaussian(Y, bandwidth))
    np.testing.assert_allclose(found, [[1, expected], [expected, 1]], rtol=1e-10)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_debiased(kernel):
    found = cka(dataset(a_1=X, b_1=Y), kernel=kernel, debiased=True)
    of = (lambda v: v @ v.T) if kernel == "linear" else (lambda v: gaussian(v, 1.0))
    expected = by_formula(of(X), of(Y), unbiased_hsic)
    np.testing.assert_allclose(found, [[1, expected], [expected, 1]], rtol=1e-8)
    with pytest.raises(lf.LensValueError, match="at least 4 stimuli, not 3"):
        cka(dataset(a_1=X[:3]), debiased=True)


def test_invariances():
    turn = np.linalg.qr(RNG.normal(size=(30, 30)))[0]
    ds = dataset(a_1=X, b_1=3 * X @ turn + 1000)
    np.testing.assert_allclose(cka(ds), 1, rtol=1e-9)
    np.testing.assert_allclose(cka(ds, kernel="rbf"), 1, rtol=1e-9)


def test_across_models_joined_by_id():
    ids = [f"s{i}" for i in range(12)]
    order = RNG.permutation(12)
    first = dataset(ids, a_1=X)
    second = dataset([ids[i] for i in order], b_1=Y[order])
    expected = by_formula(X @ X.T, Y @ Y.T)
    assert float(cka(first, second).squeeze()) == pytest.approx(expected)
    with pytest.raises(lf.LensValueError, match="only in the first Dataset: 's0'"):
        cka(first, second.sel(stimulus=ids[1:]))
    with pytest.raises(lf.LensValueError, match="the other Dataset has no stimulus ids"):
        cka(first, second.drop_vars("stimulus"))
    twice = second.assign_coords(stimulus=["s0"] * 12)
    with pytest.raises(lf.LensValueError, match="the other Dataset has ids more than once: 's0'"):
        cka(first, twice)


def test_choice_of_layers_and_pooling():
    images = RNG.normal(size=(12, 3, 2, 2))
    ds = xr.Dataset({"conv2d_1": (("stimulus", "channel_3", "y_2", "x_2"), images)})
    ds["linear_1"] = (("stimulus", "feature_7"), Y)
    found = cka(ds, layers="conv2d_1", other_layers=["linear_1"], pool={"space": "mean"})
    pooled = images.mean((2, 3))
    assert float(found.squeeze()) == pytest.approx(by_formula(pooled @ pooled.T, Y @ Y.T))
    assert found.coords["layer_"].values.tolist() == ["linear_1"]


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_layers_that_do_not_vary_are_named(kernel):
    bad = X.copy()
    bad[0, 0] = np.nan
    ds = dataset(a_1=X, b_1=np.full((12, 4), 0.1, np.float32), c_1=bad)
    with pytest.warns(lf.LensWarning, match="no CKA .*: 'b_1', 'c_1'"):
        found = cka(ds, kernel=kernel)
    assert float(found[0, 0]) == pytest.approx(1)
    assert np.isnan(found.values).sum() == 8


def test_kernels_that_do_not_fit_are_made_again(monkeypatch):
    whole = cka(dataset(a_1=X, b_1=Y))
    monkeypatch.setattr("lensframe_pd.rsa.cka._BYTES_KEPT", 0)
    np.testing.assert_array_equal(cka(dataset(a_1=X, b_1=Y)), whole)


def test_passes_of_a_recurrent_model():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(self.fc(x))
            return x

    with torch.no_grad():
        ds = lf.trace(Loop().eval(), torch.randn(8, 4)).activations
    found = cka(ds, layers="tanh_1")
    assert found["layer"].values.tolist() == ["tanh_1:1", "tanh_1:2", "tanh_1:3"]
    first, last = (ds[f"tanh_1:{k}"].values.astype(float) for k in (1, 3))
    assert float(found[0, 2]) == pytest.approx(by_formula(first @ first.T, last @ last.T))


def test_unknown_kernel():
    with pytest.raises(lf.LensValueError, match="no kernel 'poly'"):
        cka(dataset(a_1=X), kernel="poly")


def test_what_is_missing_is_counted():
    bad = X.copy()
    bad[[0, 4], 1] = np.nan, np.inf
    with pytest.warns(lf.LensWarning, match="2 of 12 stimuli have NaN or infinity in 'b_1': 0, 4"):
        cka(dataset(a_1=X, b_1=bad))

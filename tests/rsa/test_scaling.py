"""Means, deviations and kernels within training sets, by blocks, as of all at once."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from lensframe_pd.rsa.scaling import kernels, scales
from lensframe_pd.rsa.stores import RowBlocks

da = pytest.importorskip("dask.array")


@pytest.mark.parametrize(
    ("chunk", "memory"), [(None, 3000), (1, 3000), (4, 3000), (4, 10**6), (30, 10**6)]
)
def test_kernels_of_weighted_sets(chunk, memory):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 8)) * 100 + 1000
    values[:, 2] = 0.1  # constant
    values[:, 3] = np.where(np.arange(30) == 4, 7, 0.1)  # in the second set only
    data = values if chunk is None else da.from_array(values, chunks=(chunk, 8))
    layer = RowBlocks(data, "'relu_1'", memory, 64)
    weights = [rng.integers(0, 4, 30).astype(float), np.ones(30)]
    weights[0][4] = 0
    of_sets, broken = scales(layer, weights)
    assert not broken.any()
    found = kernels(layer, of_sets)
    assert found.shape == (2, 30, 30)
    for weight, kernel in zip(weights, found, strict=True):
        rows = np.repeat(values, weight.astype(int), axis=0)
        scaled = StandardScaler().fit(rows).transform(values)
        scaled[:, rows.std(axis=0) < 1e-9] = 0
        np.testing.assert_allclose(kernel, scaled @ scaled.T, rtol=1e-9, atol=1e-9)


def test_rows_that_are_not_finite_are_told_and_left_out():
    values = np.arange(12.0).reshape(6, 2)
    values[1, 0], values[4, 1] = np.nan, np.inf
    layer = RowBlocks(values, "'relu_1'", 10**6, 16)
    of_sets, broken = scales(layer, [np.ones(6)])
    assert broken.tolist() == [False, True, False, False, True, False]
    np.testing.assert_allclose(of_sets[0].mean, values[[0, 2, 3, 5]].mean(axis=0))


def test_nothing_finite():
    layer = RowBlocks(np.full((3, 2), np.nan), "'relu_1'", 10**6, 16)
    of_sets, broken = scales(layer, [np.ones(3)])
    assert broken.all()
    assert of_sets[0].deviation.tolist() == [np.inf, np.inf]

"""A layer as stimulus x feature; expectations by hand in NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf
from lensframe_pd.rsa.features import executions, features


@pytest.fixture(scope="module")
def convolved():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)).eval()
    with torch.no_grad():
        return lf.trace(net, torch.randn(3, 3, 5, 5), stimulus=["c", "a", "b"]).activations


@pytest.fixture(scope="module")
def tokens():
    torch.manual_seed(0)
    embed = nn.Embedding(10, 6)
    with torch.no_grad():
        return lf.trace(lambda ids: embed(ids) * 2, torch.arange(8).reshape(2, 4)).activations


def test_all_features_in_order(convolved):
    found = features(convolved, "relu_1")
    values = convolved["relu_1"].values
    assert found.dims == ("stimulus", "feature")
    np.testing.assert_array_equal(found, values.reshape(3, -1))
    assert list(found["stimulus"].values) == ["c", "a", "b"]
    place = found.isel(feature=17)
    at = tuple(int(place[axis]) for axis in ("channel", "y", "x"))
    np.testing.assert_array_equal(place, values[(slice(None), *at)])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooling_over_space(convolved, how):
    values = convolved["relu_1"].values
    expected = getattr(values.astype(np.float64), how)(axis=(2, 3))
    for pool in (how, {"space": how}, {"y": how, "x": how}):
        found = features(convolved, "relu_1", pool)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32
    np.testing.assert_array_equal(features(convolved, "linear_1", how), convolved["linear_1"])


def test_pooling_over_tokens_and_one_token(tokens):
    values = tokens["mul_1"].values
    np.testing.assert_allclose(
        features(tokens, "mul_1", {"token": "mean"}), values.mean(1), rtol=1e-6
    )
    for pool, k in (({"token": 0}, 0), ("first", 0), ("last", 3), ({"token": -2}, 2)):
        np.testing.assert_array_equal(features(tokens, "mul_1", pool), values[:, k])
    named = tokens.assign_coords(token_4=["cls", "a", "b", "sep"])
    np.testing.assert_array_equal(features(named, "mul_1", "cls"), values[:, 0])
    np.testing.assert_array_equal(features(named, "mul_1", {"token": "sep"}), values[:, 3])


def test_mean_over_real_tokens_only(tokens):
    mask = xr.DataArray([[1, 1, 0, 0], [1, 0, 0, 0]], dims=("stimulus", "dim1_4"))
    values = tokens["mul_1"].values
    expected = np.stack([values[0, :2].mean(0), values[1, 0]])
    np.testing.assert_allclose(features(tokens, "mul_1", {"token": mask}), expected, rtol=1e-6)
    ids = tokens.assign_coords(stimulus=["a", "b"])
    swapped = mask.assign_coords(stimulus=["a", "b"])[::-1]
    np.testing.assert_allclose(features(ids, "mul_1", {"token": swapped}), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("cls", r"no token 'cls' in 'mul_1': its 4 positions have no names; .*\(token_4="),
        ({"token": 4}, "no token 4 in 'mul_1': it has 4 positions"),
        ({"space": "mean"}, "cannot pool 'space' of 'mul_1': its axes are stimulus, token, feat"),
        ({"patch": "mean"}, "cannot pool 'patch'"),
    ],
)  # fmt: skip
def test_what_a_layer_has_not_is_an_error(tokens, pool, message):
    with pytest.raises(lf.LensValueError, match=message):
        features(tokens, "mul_1", pool)


def test_a_convolutional_network_has_no_tokens(convolved):
    with pytest.raises(lf.LensValueError, match="cannot pool 'token' of 'relu_1'"):
        features(convolved, "relu_1", "cls")
    named = convolved.rename({"x_3": "token_3"}).assign_coords(token_3=["cls", "p", "q"])
    with pytest.raises(lf.LensValueError, match=r"no token 'mask' .* names are 'cls', 'p', 'q'"):
        features(named, "relu_1", "mask")


def test_an_unnamed_axis_is_never_pooled_by_guess():
    ds = lf.trace(lambda x: x * 2, torch.ones(2, 7, 3)).activations
    with pytest.raises(lf.LensValueError, match=r"dim1 \(7\), dim2 \(3\) of 'mul_1'"):
        features(ds, "mul_1", "mean")
    assert features(ds, "mul_1", {"dim1": "mean"}).shape == (2, 3)


def test_a_value_without_stimuli():
    ds = lf.trace(lambda x: x.sum(), torch.ones(2, 7)).activations
    with pytest.raises(lf.LensValueError, match="'sum_1' has no stimulus axis"):
        features(ds, "sum_1")
    with pytest.raises(lf.LensKeyError, match="sum_2"):
        features(ds, "sum_2")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("bool", "float32"),
        ("int8", "float32"), ("int64", "float64"), ("uint8", "float32"),
    ],
)  # fmt: skip
def test_dtypes(dtype, expected):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    ds = xr.Dataset({"a_1": (("stimulus", "token_3"), values)})
    assert features(ds, "a_1").dtype == expected
    np.testing.assert_array_equal(features(ds, "a_1"), values.astype(expected))
    np.testing.assert_allclose(features(ds, "a_1", "mean")[:, 0], [2 / 3, 2 / 3], rtol=1e-6)


def test_float16_means_do_not_overflow():
    ds = xr.Dataset({"a_1": (("stimulus", "token_4"), np.full((1, 4), 60000, np.float16))})
    assert float(features(ds, "a_1", "mean").squeeze()) == np.float32(np.float16(60000))


def test_complex_values_are_two_features_each():
    ds = xr.Dataset({"a_1": (("stimulus", "feature_2"), np.array([[1 + 2j, 3 - 4j]]))})
    found = features(ds, "a_1")
    np.testing.assert_array_equal(found, [[1, 2, 3, -4]])
    assert list(found["part"].values) == ["real", "imag", "real", "imag"]


def test_passes():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            for _ in range(4):
                x = torch.tanh(self.fc(x))
            return x

    ds = lf.trace(Loop().eval(), torch.ones(2, 3)).activations
    assert features(ds, "tanh_1").shape == (2, 12)
    np.testing.assert_array_equal(features(ds, "tanh_1", {"pass_num": 3}), ds["tanh_1:3"])
    np.testing.assert_array_equal(features(ds, "tanh_1", {"pass_num": "last"}), ds["tanh_1:4"])
    np.testing.assert_array_equal(features(ds, "tanh_1:2"), ds["tanh_1:2"])
    assert list(executions(ds, ["tanh_1"])) == [f"tanh_1:{k}" for k in (1, 2, 3, 4)]
    assert list(executions(ds, "fc")) == [f"fc:{k}" for k in (1, 2, 3, 4)]


def test_stimulus_need_not_come_first():
    values = np.arange(12.0).reshape(2, 3, 2)
    ds = xr.Dataset({"a_1": (("time_2", "stimulus", "feature_2"), values)})
    np.testing.assert_array_equal(features(ds, "a_1"), values.transpose(1, 0, 2).reshape(3, 4))
    assert set(features(ds, "a_1").coords) == {"time", "feature_"}


def test_nan_is_not_skipped():
    ds = xr.Dataset({"a_1": (("stimulus", "token_2"), [[1.0, np.nan]])})
    assert np.isnan(features(ds, "a_1", "mean")).all()
    assert np.isnan(features(ds, "a_1", "max")).all()


def test_dask_stays_lazy(convolved):
    found = features(convolved.chunk(stimulus=1), "relu_1", "mean")
    assert found.chunks is not None
    np.testing.assert_allclose(found, features(convolved, "relu_1", "mean"))


# ------------------------------------------------------------------ axes that are no features

VERBS = {
    "features": lambda ds: ds.lens.features("relu_1"),
    "rdm": lambda ds: ds.lens.rdm(["relu_1"]),
    "rdm of all": lambda ds: ds.lens.rdm(),
    "cka": lambda ds: ds.lens.cka(),
    "cka of one": lambda ds: ds.lens.cka(layers="relu_1"),
    "stacked": lambda ds: ds.lens.to_stacked("relu_1"),
    "assembly": lambda ds: ds.lens.to_assembly(["relu_1"]),
    "of a module": lambda ds: ds.lens.features("1"),
    "of rsatoolbox": lambda ds: ds.lens.to_rsatoolbox("relu_1"),
    "score": lambda ds: ds.lens.score(
        {"it": pd.DataFrame(np.random.default_rng(0).random((4, 6)), list("abcd"))}
    ),
}


@pytest.mark.parametrize("verb", [*VERBS])
@pytest.mark.parametrize("dim", ["checkpoint", "subject", "run", "model", "epoch", "seed", "a"])
def test_joined_datasets_have_an_axis_that_is_no_feature(verb, dim):
    parts = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(5, 6), nn.ReLU()).eval()
        with torch.no_grad():
            parts.append(lf.trace(net, torch.rand(4, 5), stimulus=list("abcd")).activations)
    joined = xr.concat(parts, dim=dim)
    if verb in ("stacked", "assembly", "of rsatoolbox"):  # these formats have no place for it
        with pytest.raises(lf.LensValueError, match=rf"has {dim} \(3\), which is not taken"):
            VERBS[verb](joined)
        VERBS[verb](joined.isel({dim: 1}))
        return
    whole, expected = VERBS[verb](joined), [VERBS[verb](part) for part in parts]
    if verb == "score":
        for k, part in enumerate(expected):
            own = whole[whole[dim] == k].drop(columns=dim).reset_index(drop=True)
            part = part.drop(columns=dim, errors="ignore")
            pd.testing.assert_frame_equal(own, part, rtol=1e-12)
        return
    assert {*whole.dims} == {dim, *expected[0].dims}
    for k, part in enumerate(expected):
        own = whole.isel({dim: k}).transpose(*part.dims)
        np.testing.assert_array_equal(own, part)


def test_axes_that_operations_made_are_features():
    dims = ("stimulus", "stimulus_", "head_2", "token_3", "token_3_", "dim5_2")
    shape = (4, 4, 2, 3, 3, 2)
    ds = xr.Dataset({"a_1": (dims, np.random.default_rng(0).normal(size=shape))})
    assert features(ds, "a_1").shape == (4, 4 * 2 * 3 * 3 * 2)
    assert features(ds.isel(token_3=slice(2)), "a_1").shape == (4, 4 * 2 * 2 * 3 * 2)


def test_axes_of_ones_own():
    values = np.random.default_rng(0).normal(size=(4, 3, 2))
    brain = xr.Dataset({"it": (("stimulus", "voxel"), values[..., 0])})
    np.testing.assert_array_equal(features(brain, "it"), values[..., 0])
    for dims, named in (
        (("stimulus", "voxel", "window"), r"voxel \(3\), window \(2\)"),
        (("stimulus", "channel", "window"), r"window \(2\)"),
        (("stimulus", "run", "checkpoint"), r"run \(3\), checkpoint \(2\)"),
    ):
        with pytest.raises(lf.LensValueError, match=f"'it' has {named}, which is not"):
            features(xr.Dataset({"it": (dims, values)}), "it")
    runs = xr.Dataset({"it": (("stimulus", "run"), values[..., 0])})
    with pytest.raises(lf.LensValueError, match=r"'it' has run \(3\)"):
        features(runs, "it")
    layer = brain.assign(a=(("stimulus", "channel", "y"), values))  # as lens[...] gives them
    assert features(layer, "a").shape == (4, 6)

"""What the columns of rows make of values, against plain torch and `features` of a whole trace."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import zarr
from torch import nn

import lensframe_pd as lf

from .nets import hooked, images, net

N = 10


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def rows(model):
    return lf.trace(model, images(2), save=None).layers.loc[["conv2d_2", "relu_2"]]


def extracted(model, rows, to, x=None, **more):
    return lf.extract(model, images(N) if x is None else x, to=to, save=rows, batch_size=4, **more)


@pytest.mark.parametrize(
    "dtype", ["float16", "float64", "bfloat16", np.dtype("float16"), torch.float16]
)
def test_dtype_is_a_cast(tmp_path, model, rows, dtype):
    found = extracted(model, rows.assign(dtype=dtype), tmp_path / "a")
    expected = torch.from_numpy(hooked(model, ["body.0"], images(N).split(4))["body.0"])
    name = str(dtype).removeprefix("torch.")
    cast = expected.to(getattr(torch, name))
    cast = cast.float() if name == "bfloat16" else cast
    assert found["conv2d_2"].dtype == cast.numpy().dtype
    np.testing.assert_array_equal(found["conv2d_2"].values, cast.numpy())


def test_the_traced_dtype_is_no_cast(tmp_path):
    model = nn.Linear(3, 2).eval().bfloat16()
    x = torch.randn(5, 3).bfloat16()
    rows = lf.trace(model, x, save=None).layers.loc[["linear_1"]]
    assert rows["dtype"].tolist() == ["bfloat16"]
    found = lf.extract(model, x, to=tmp_path / "a", save=rows, batch_size=2)
    assert found["linear_1"].dtype == np.float32
    with torch.no_grad():
        expected = torch.cat([model(part) for part in x.split(2)]).float()
    np.testing.assert_array_equal(found["linear_1"].values, expected.numpy())


POOLS = [
    "mean",
    "max",
    {"space": "mean"},
    {"y": "max", "x": "mean"},
    {"x": 0},
    {"y": "last"},
    {"channel": "mean"},
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pool_is_that_of_features(tmp_path, model, rows, pool):
    found = extracted(model, rows.assign(pool=[pool] * len(rows)), tmp_path / "a")
    _, whole = lf.trace(model, images(N), save=rows)
    for name in rows.index:
        expected = whole.lens.features(name, pool=pool)
        here = found[name].values.reshape(N, -1)
        np.testing.assert_allclose(here, expected.values, rtol=1e-5, atol=1e-6)
        assert found[name].dtype == np.float32


def test_rows_may_ask_for_different_things(tmp_path, model, rows):
    asked = rows.assign(pool=["mean", None], dtype=["float16", "float32"], chunk=[2, 1])
    found = extracted(model, asked, tmp_path / "a")
    assert found["conv2d_2"].dims == ("stimulus", "channel_6")
    assert found["conv2d_2"].dtype == np.float16
    assert found["relu_2"].dims == ("stimulus", "channel_6", "y_4", "x_4")
    assert found["conv2d_2"].encoding["chunks"] == (8, 6)
    assert found["relu_2"].encoding["chunks"] == (4, 6, 4, 4)


def test_projection_is_scikit_learns(tmp_path, model, rows):
    from sklearn.random_projection import SparseRandomProjection

    asked = rows.assign(project=[7, None])
    found = extracted(model, asked, tmp_path / "a", seed=3)
    values = hooked(model, ["body.0"], images(N).split(4))["body.0"].reshape(N, -1)
    made = SparseRandomProjection(7, random_state=3).fit(values)
    assert found["conv2d_2"].dims == ("stimulus", "feature_7")
    np.testing.assert_allclose(found["conv2d_2"].values, made.transform(values), rtol=1e-5)
    kept = zarr.open_group(tmp_path / "a", mode="r")["lensframe/project/conv2d_2"]
    matrix = scipy.sparse.csr_array(
        (kept["data"][:], kept["indices"][:], kept["indptr"][:]), shape=kept.attrs["shape"]
    )
    np.testing.assert_array_equal(matrix.toarray(), made.components_.toarray())
    assert kept.attrs["scikit_learn"]


def test_complex_values_are_projected_as_two_parts(tmp_path):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    rows = lf.trace(torch.fft.fft, x, save=None).layers
    asked = rows[rows["dtype"] == "complex64"].iloc[:1].assign(project=3)
    found = lf.extract(torch.fft.fft, x, to=tmp_path / "a", save=asked, batch_size=4)
    kept = zarr.open_group(tmp_path / "a", mode="r")[f"lensframe/project/{asked.index[0]}"]
    matrix = scipy.sparse.csr_array(
        (kept["data"][:], kept["indices"][:], kept["indptr"][:]), shape=kept.attrs["shape"]
    )
    parts = torch.view_as_real(torch.fft.fft(x)).flatten(1).numpy()
    np.testing.assert_allclose(found[asked.index[0]].values, parts @ matrix.T, rtol=1e-4, atol=1e-5)


def test_overflow_is_stored_counted_and_named(tmp_path):
    def model(x):
        return x * 1e5

    x = torch.zeros(6, 3)
    x[1, 0] = x[4, 2] = x[4, 1] = 1
    x[2, 0] = torch.inf  # it was infinite before
    ids = list("abcdef")
    rows = lf.trace(model, x, save=None).layers.loc[["mul_1"]].assign(dtype="float16")
    settings = {"to": tmp_path / "a", "save": rows, "batch_size": 2, "stimulus": ids}
    with pytest.warns(lf.LensWarning, match=r"'mul_1': 3 values of stimuli 'b', 'e'$"):
        found = lf.extract(model, x, **settings)
    assert np.isinf(found["mul_1"].values).sum() == 4
    with pytest.warns(lf.LensWarning, match=r"'mul_1': 3 values"):
        lf.extract(model, x, **settings)


def test_no_overflow_says_nothing(tmp_path, model, rows):
    extracted(model, rows.assign(dtype="float16"), tmp_path / "a")


INTEGERS = [
    ("int64", "float32", 2**24 + 1, False),
    ("int64", "float64", 2**53 + 1, False),
    ("int64", "float64", 2**62, True),
    ("int64", "float64", 2**63 - 1, False),
    ("int64", "float32", 2**24, True),
    ("int64", "int8", 128, False),
    ("int64", "int8", -128, True),
    ("int32", "uint8", -1, False),
    ("bool", "int8", True, True),
    ("bool", "float16", True, True),
    ("int64", "float16", 2049, False),
    ("uint8", "bfloat16", 255, True),
    ("int16", "bfloat16", 257, False),
]


@pytest.mark.parametrize(("traced", "stored", "value", "fits"), INTEGERS)
def test_integers_are_held_or_refused(tmp_path, traced, stored, value, fits):
    def model(x):
        return x.flip(1)

    x = torch.zeros(4, 3, dtype=getattr(torch, traced))
    x[3, 1] = value
    rows = lf.trace(model, x[:2], save=None).layers.loc[["flip_1"]].assign(dtype=stored)
    settings = {"to": tmp_path / "a", "save": rows, "batch_size": 2}
    if fits:
        found = lf.extract(model, x, **settings)["flip_1"].values
        assert found[3].tolist() == [0, value, 0]
    else:
        with pytest.raises(lf.LensValueError, match=rf"'flip_1' holds integers such as {value}"):
            lf.extract(model, x, **settings)


@pytest.mark.parametrize("stored", ["int32", "bool"])
def test_floats_are_not_cut_to_integers(tmp_path, model, rows, stored):
    with pytest.raises(lf.LensValueError, match="would lose"):
        extracted(model, rows.assign(dtype=stored), tmp_path / "a")


BAD = {
    "pool by a dict": (lambda rows: rows.assign(pool=pd.Series({"y": "mean"})), "nothing but miss"),
    "pool a number": (lambda rows: rows.assign(pool=3), "has pool 3"),
    "no such axis": (lambda rows: rows.assign(pool=[{"token": "mean"}] * 2), "cannot pool 'token'"),
    "no such place": (lambda rows: rows.assign(pool=[{"x": 9}] * 2), "it has 4 positions"),
    "no such type": (lambda rows: rows.assign(dtype="flaot16"), "dtype 'flaot16'"),
    "text type": (lambda rows: rows.assign(dtype="str"), "dtype 'str'"),
    "chunk 0": (lambda rows: rows.assign(chunk=0), "chunk 0"),
    "chunk half": (lambda rows: rows.assign(chunk=1.5), "chunk 1.5"),
    "project 0": (lambda rows: rows.assign(project=0), "project 0"),
    "all project missing": (lambda rows: rows.assign(project=np.nan), "nothing but missing"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_rows_cannot_ask_for(tmp_path, model, rows, what):
    make, message = BAD[what]
    with pytest.raises((lf.LensValueError, lf.LensTypeError), match=message):
        extracted(model, make(rows), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_mask_of_the_whole_set_is_joined_by_id(tmp_path):
    import xarray as xr

    embed = nn.Embedding(9, 3).eval()
    ids, names = torch.randint(0, 9, (6, 5)), list("fedcba")
    lengths = np.array([1, 2, 3, 4, 5, 5])
    mask = np.arange(5) < lengths[:, None]
    order = [3, 1, 0, 5, 4, 2]
    given = xr.DataArray(
        mask[order], {"stimulus": [names[k] for k in order]}, ("stimulus", "token")
    )
    rows = lf.trace(embed, ids, save=None).layers.loc[["embedding_1"]]
    found = lf.extract(
        embed, ids, to=tmp_path / "a", save=rows.assign(pool=[{"token": given}]), batch_size=4,
        stimulus=names,
    )  # fmt: skip
    values = embed(ids).detach().numpy()
    expected = [values[k, : lengths[k]].mean(0) for k in range(6)]
    np.testing.assert_allclose(found["embedding_1"].values, expected, rtol=1e-6)

"""Files: what is written comes back, and what is no file of ours is said to be none."""

import io
import json
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import BY_PANDAS, DTYPES, FORMATS, SOME, big_enough, everything, part_of, same
from torch import nn

import lensframe_pd as lf
from lensframe_pd.files.files import read, write
from lensframe_pd.rsa.cka import cka
from lensframe_pd.rsa.features import features
from lensframe_pd.rsa.handoff import to_stacked
from lensframe_pd.rsa.rdm import rdm

IDS = {
    "text": ["a", "bb", "é:/"],
    "int": [3, 1, 2],
    "float": [0.5, 1.5, np.nan],
    "bool": [True, False, True],
    "datetime": np.array(["2020-01-01", "NaT", "2021-01-01T00:00:01.000000001"], "M8[ns]"),
    "seconds": np.array(["2020-01-01", "1960-01-01", "2021-06-01"], "M8[s]"),
    "timedelta": np.array([1, 2, 3], "m8[ms]"),
    "none": None,
}


path = st.sampled_from(list(FORMATS.values()))


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_dtype_and_kind_of_id(format, ids, tmp_path):
    # a variable is stored alike with ids of any kind, and otherwise only without
    expected = everything(IDS[ids], DTYPES if ids in ("text", "none") else SOME)
    target = write(expected, tmp_path / f"all{FORMATS[format]}")
    with read(target) as found:
        same(found.load(), expected)
    with read(target, chunks={"stimulus": 2}) as lazy:
        assert lazy["a.b_3:1"].chunks is not None
        same(lazy.load(), expected)


@pytest.mark.parametrize("format", FORMATS)
def test_a_trace(format, trace, tmp_path):
    folder = write(trace, tmp_path / "trace", format)
    layers, activations = read(folder)
    pd.testing.assert_frame_equal(layers, trace.layers)
    with activations:
        same(activations.load(), trace.activations)
    assert list(layers.loc["cat_1:2", "shape"]) == [2, 3, 3]
    assert activations["bfloat16_1"].attrs["torch_dtype"] == "bfloat16"
    assert layers.lens.draw().source == trace.layers.lens.draw().source
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "layers.parquet")[["step"]], layers[["step"]], **BY_PANDAS
    )


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_layers_alone(suffix, trace, tmp_path):
    layers = trace.layers
    target = write(layers, tmp_path / f"layers{suffix}")
    found = read(target)
    pd.testing.assert_frame_equal(found, layers, check_names=True)
    some = layers.loc[layers["func"] == "cat", ["func", "parents"]]
    pd.testing.assert_frame_equal(read(write(some, target)), some)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    suffix=path,
    ids=st.sampled_from(["text", "int", "datetime", "none"]),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4),
)
def test_property_ragged_passes_come_back(data, suffix, ids, dtypes):
    n = data.draw(st.integers(1, 4), label="stimuli")
    rng = np.random.default_rng(0)
    variables = {}
    for k, dtype in enumerate(dtypes, start=1):
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3), label="shape")
        at = data.draw(st.one_of(st.none(), st.integers(0, len(shape))), label="stimulus axis")
        dims = [f"dim{i}_{size}" + "_" * i for i, size in enumerate(shape)]
        if at is not None:
            dims.insert(at, "stimulus")
            shape.insert(at, n)
        values = (np.asarray(rng.normal(size=shape)) * 5).astype(dtype)
        variables[f"linear_1:{k}"] = (dims, values, {"layer": "linear_1", "pass_num": k})
    expected = xr.Dataset(variables)
    if ids != "none" and "stimulus" in expected.dims:
        made = {"text": [f"s{i}" for i in range(n)], "int": range(n, 0, -1)}
        days = np.array("2020-01-01", "M8[ns]") + np.arange(n).astype("m8[h]")
        expected = expected.assign_coords(stimulus=np.asarray(made.get(ids, days)))
    with (
        tempfile.TemporaryDirectory() as folder,
        read(write(expected, Path(folder, f"x{suffix}"))) as found,
    ):
        same(found.load(), expected)


def test_polars_duckdb_and_pandas_read_layers(trace, tmp_path):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    parquet = write(trace.layers, tmp_path / "layers.parquet")
    feather = write(trace.layers, tmp_path / "layers.feather")
    expected = list(trace.layers["func"])
    assert polars.read_parquet(parquet)["func"].to_list() == expected
    assert polars.read_ipc(feather)["func"].to_list() == expected
    ((count,),) = duckdb.sql(f"select count(*) from '{parquet}' where func = 'cat'").fetchall()
    assert count == expected.count("cat")
    assert list(pd.read_feather(feather)["func"]) == expected
    parents = polars.read_parquet(parquet)["parents"].to_list()
    assert list(map(tuple, parents)) == list(trace.layers["parents"])


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_reading_and_writing_to_the_same_place(suffix, tmp_path):
    expected = everything([1, 2, 3], SOME)
    target = write(expected, tmp_path / f"x{suffix}")
    opened = read(target)
    write(opened, target)
    same(opened.load(), expected)
    with read(target) as again:
        same(again.load(), expected)


def truncate(file, part=0.5):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])


@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(
    "name", ["x.nc", "x.arrows", "x.zarr", "l.parquet", "l.feather", "l.arrow"]
)
def test_truncated_files(name, part, trace, tmp_path):
    what = trace.layers if name.startswith("l") else big_enough()
    target = write(what, tmp_path / name)
    file = target if target.is_file() else max(target.rglob("*"), key=lambda f: f.stat().st_size)
    truncate(file, part)
    with pytest.raises(lf.LensValueError, match=r"truncated|not whole|damaged"):
        read(target)


@pytest.mark.parametrize("name", ["x.arrows", "x.zarr"])
def test_missing_and_damaged_parts(name, tmp_path):
    for damage in ("gone", "mark"):
        target = write(big_enough(), tmp_path / name)
        file = max(target.rglob("*"), key=lambda f: f.stat().st_size)
        if damage == "gone":
            file.unlink()
        else:
            truncate(target / ("lensframe.json" if name == "x.arrows" else "zarr.json"))
        with pytest.raises(lf.LensValueError, match=r"missing|damaged"):
            read(target)
        if damage == "gone":
            write(big_enough(), target)


def test_foreign_files(tmp_path):
    plain = xr.Dataset({"a": ("x", [1.0])})
    plain.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    plain.to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    frame = pd.DataFrame({"x": [1]})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_feather(tmp_path / "a.arrow", compression="uncompressed")
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "lensframe.json").write_text('{"kind": "cake"}')
    (tmp_path / "new").mkdir()
    content = {"kind": "trace", "version": 2}
    (tmp_path / "new" / "lensframe.json").write_text(json.dumps(content))
    messages = {
        "a.nc": "open it with xarray", "a.zarr": "open it with xarray|damaged",
        "a.parquet": "read it with pandas",
        "a.arrow": "no activation", "a.txt": "no Arrow file", "folder": "it has no lensframe.json",
        "odd": "not from lensframe_pd", "new": "format version 2", "absent": "there is nothing at",
    }  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(lf.LensValueError, match=message):
            read(tmp_path / name)


def test_wrong_arguments(trace, tmp_path):
    with pytest.raises(lf.LensValueError, match=r"activations are written as .nc, .zarr, .arrows"):
        write(trace.activations, tmp_path / "x.h5")
    with pytest.raises(lf.LensValueError, match=r"layers are written as .parquet"):
        write(trace.layers, tmp_path / "x.csv")
    with pytest.raises(lf.LensValueError, match="no format 'hdf5'; there are arrow, zarr, netcdf"):
        write(trace, tmp_path / "x", "hdf5")
    with pytest.raises(lf.LensTypeError, match="not Linear"):
        write(nn.Linear(1, 1), tmp_path / "x")
    stacked = to_stacked(big_enough(), "relu_1").to_dataset(name="all_1")
    with pytest.raises(lf.LensTypeError, match="MultiIndex"):
        write(stacked, tmp_path / "x.nc")


def test_nothing_is_unpickled(trace, tmp_path, monkeypatch):
    written = [write(trace, tmp_path / format, format) for format in FORMATS]
    written += [write(trace.layers, tmp_path / f"l{s}") for s in (".parquet", ".feather")]

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    class Refused(pickle.Unpickler):
        def __init__(self, *args, **kwargs):
            refuse()

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refused)
    for target in written:
        part_of(read(target))


@pytest.mark.parametrize("package", ["h5netcdf", "zarr", "dask"])
def test_what_is_not_installed_is_named(package, trace, tmp_path, monkeypatch):
    target = write(trace.activations, tmp_path / "x.arrows")
    monkeypatch.setitem(sys.modules, package, None)
    attempt = {
        "dask": lambda: read(target, chunks="auto"),
        "h5netcdf": lambda: write(trace.activations, tmp_path / "x.nc"),
        "zarr": lambda: write(trace.activations, tmp_path / "x.zarr"),
    }
    with pytest.raises(lf.LensRuntimeError, match=f"pip install {package}"):
        attempt[package]()


@pytest.mark.parametrize("chunks", [None, "auto", {"stimulus": 2}])
@pytest.mark.parametrize("suffix", FORMATS.values())
def test_verbs_work_on_what_is_read(suffix, chunks, tmp_path):
    table = pd.DataFrame({"category": list("uvuvu")}, index=list("abcde"))
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()).eval().half()
    with torch.no_grad():
        ds = lf.trace(net, torch.randn(5, 1, 6, 6).half(), stimulus=table).activations
    with read(write(ds, tmp_path / f"x{suffix}"), chunks=chunks) as found:
        np.testing.assert_allclose(rdm(found), rdm(ds), atol=1e-15)
        np.testing.assert_allclose(cka(found, ds), cka(ds, ds))
        np.testing.assert_array_equal(
            features(found, "relu_1", "mean"), features(ds, "relu_1", "mean")
        )
        one = found[["relu_1"]].sel(stimulus=["b", "d"])
        same(one.load(), ds[["relu_1"]].sel(stimulus=["b", "d"]))
        again = write(found.sel(stimulus="c"), tmp_path / f"again{suffix}")
    with read(again) as single:
        same(single.load(), ds.sel(stimulus="c"))


def test_an_open_file_object_is_no_path():
    with pytest.raises(TypeError):
        read(io.BytesIO())


def test_a_trace_that_was_read_shows_itself_in_a_line(tmp_path):
    trace = lf.trace(nn.Sequential(nn.Linear(3, 2)).eval(), torch.ones(4, 3))
    shown = "<Saved trace of Sequential: 3 rows, 3 values; layers, activations = it>"
    assert repr(lf.read(lf.write(trace, tmp_path / "t"))) == shown
    function = lf.trace(torch.exp, torch.ones(2))
    assert repr(lf.read(lf.write(function, tmp_path / "f"))).startswith("<Saved trace: 3 rows")

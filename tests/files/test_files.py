"""Files: what is written comes back, other tools read it, and nothing half-written is left."""

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import lensframe_pd as lf
from lensframe_pd.extract.concat import concat
from lensframe_pd.files.atomic import new_folder
from lensframe_pd.files.files import read, write
from lensframe_pd.files.names import stored_names
from lensframe_pd.rsa.cka import cka
from lensframe_pd.rsa.features import features
from lensframe_pd.rsa.handoff import to_stacked
from lensframe_pd.rsa.rdm import rdm

FORMATS = {"arrow": ".arrows", "netcdf": ".nc", "zarr": ".zarr"}
DTYPES = [
    "float16", "float32", "float64", "bool", "complex64", "complex128", "int8", "int16", "int32",
    "int64", "uint8", "uint16", "uint32", "uint64",
]  # fmt: skip
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


class Loop(nn.Module):
    """Ragged passes (a growing cache), a bool, a scalar, bfloat16 and complex values."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        cache = x[:, :1]
        for _ in range(3):
            cache = torch.cat([cache, self.fc(cache[:, -1:])], dim=1)
        half = cache.bfloat16()
        return (cache > 0, half.float().mean(), torch.fft.fft(cache), cache.half())


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    table = pd.DataFrame({"category": ["u", "v"], "n: /": [1, 2]}, index=["a", "bb"])
    with torch.no_grad():
        return lf.trace(Loop().eval(), torch.randn(2, 4, 3), stimulus=table)


def same(found, expected):
    xr.testing.assert_identical(found, expected)
    assert list(found.data_vars) == list(expected.data_vars)
    for name in expected.variables:
        assert found[name].dtype == expected[name].dtype, name


def everything(ids):
    rng = np.random.default_rng(0)
    data = {}
    attrs = {"layer": "x", "module": "", "pass_num": 1, "flag": True, "none": None}
    for i, dtype in enumerate(DTYPES):
        data[f"a.b_{i}:1"] = (
            ("stimulus", f"channel_{i + 1}"),
            (rng.normal(size=(3, i + 1)) * 9).astype(dtype),
            attrs,
        )
        data[f"a.b_{i}:2"] = (("time_2", "stimulus"), (rng.normal(size=(2, 3)) * 9).astype(dtype))
        data[f"item_{i}"] = ((), np.asarray(rng.normal() * 9).astype(dtype))
    data |= {
        "T_1": (("dim0_2",), np.ones(2)),
        "t_1": (("dim0_2",), np.zeros(2)),
        "a/b": ((), np.float32(np.nan)),
        "nothing_1": (("stimulus", "y_0"), np.zeros((3, 0), np.float32)),
        "con": ("stimulus", np.array([1.0, np.nan, np.inf])),
        "x" * 300: ((), 1),
    }
    coords = {}
    if ids is not None:
        coords = {
            "stimulus": np.asarray(ids), "cat: x/y": ("stimulus", ["u", "v", "w"]), "run": 5,
            "when": np.datetime64("2020-01-01", "ns"), "dim0_2": ["p", "q"],
        }  # fmt: skip
    attrs = {"model": "M", "stopped": True, "seconds": 0.5, "seed": 2**63 + 1}
    return xr.Dataset(data, coords, attrs)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_dtype_and_kind_of_id(format, ids, tmp_path):
    expected = everything(IDS[ids])
    target = write(expected, tmp_path / f"all{FORMATS[format]}")
    with read(target) as found:
        same(found.load(), expected)
    with read(target, chunks={"stimulus": 2}) as lazy:
        assert lazy["a.b_5:1"].chunks is not None
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
        pd.read_parquet(folder / "layers.parquet")[["step"]], layers[["step"]]
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


def big_enough():
    values = np.random.default_rng(0).normal(size=(50, 4, 500)).astype(np.float32)
    return xr.Dataset(
        {
            "relu_1": (("stimulus", "channel_4", "x_500"), values),
            "gt_1": ("stimulus", values[:, 0, 0] > 0),
        },
        {"stimulus": np.arange(50)},
    )


def mapped_files():
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_arrow_arrays_are_the_file(tmp_path):
    ds = big_enough()
    ds["fft_1"] = ds["relu_1"].astype(np.complex64)
    ds["last_1"] = ds["relu_1"].transpose("channel_4", "x_500", "stimulus")
    folder = write(ds, tmp_path / "x.arrows")
    before = pa.total_allocated_bytes()
    found = read(folder)
    assert pa.total_allocated_bytes() - before < 10_000  # ids only
    ranges = [
        tuple(int(a, 16) for a in line.split()[0].split("-"))
        for line in mapped_files().splitlines()
        if str(folder) in line
    ]
    for name, array in found.items():
        address = array.values.__array_interface__["data"][0]
        assert any(low <= address < high for low, high in ranges), name
        assert not array.values.flags.writeable
        np.testing.assert_array_equal(array, ds[name])
    names = os.listdir(f"/proc/{os.getpid()}/fd")
    opened = [os.path.realpath(f"/proc/self/fd/{n}") for n in names]
    assert not [f for f in opened if str(folder) in f], "no file stays open"


def test_one_arrow_file(tmp_path):
    ds = big_enough()
    write(ds, tmp_path / "x.arrows")
    array = read(tmp_path / "x.arrows" / "relu_1.arrow")
    xr.testing.assert_identical(array, ds["relu_1"])
    kind = pa.ipc.open_file(tmp_path / "x.arrows" / "relu_1.arrow").schema.field("value").type
    assert isinstance(kind, pa.FixedShapeTensorType)
    assert (kind.shape, kind.dim_names) == ([4, 500], ["channel_4", "x_500"])


def test_polars_and_duckdb_read_activations(tmp_path):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    ds = big_enough().assign_coords(stimulus=[f"s{i}" for i in range(50)])
    write(ds, tmp_path / "x.arrows")
    file = tmp_path / "x.arrows" / "relu_1.arrow"
    expected = ds["relu_1"].values.reshape(50, -1)
    frame = polars.read_ipc(file)
    assert frame["stimulus"].to_list() == list(ds["stimulus"].values)
    np.testing.assert_array_equal(frame["value"].ext.storage().to_numpy(), expected)
    stored = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    assert len(stored) == 50
    rows = duckdb.sql("select stimulus, value[3] as third from stored").df()
    np.testing.assert_array_equal(rows["third"], expected[:, 2])
    assert list(rows["stimulus"]) == list(ds["stimulus"].values)
    flags = polars.read_ipc(tmp_path / "x.arrows" / "gt_1.arrow")["value"].ext.storage()
    assert flags.to_numpy().ravel().tolist() == ds["gt_1"].values.astype(int).tolist()


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


def test_plain_xarray_reads_netcdf_and_zarr(trace, tmp_path):
    expected = trace.activations
    write(expected, tmp_path / "x.nc")
    write(expected, tmp_path / "x.zarr")
    for opened in (
        xr.open_dataset(tmp_path / "x.nc", engine="netcdf4"),  # another library than the writer's
        xr.open_zarr(tmp_path / "x.zarr"),
    ):
        with opened:
            np.testing.assert_array_equal(opened["cat_1-2"], expected["cat_1:2"])
            np.testing.assert_array_equal(opened["half_1"], expected["half_1"])
            assert opened["cat_1-2"].dims == expected["cat_1:2"].dims
            assert opened["cat_1-2"].attrs["layer"] == "cat_1"
            assert list(opened["stimulus"].values) == ["a", "bb"]
    dated = xr.Dataset(
        {"a_1": ("stimulus", [1.0])}, {"stimulus": [np.datetime64("2020-01-02", "ns")]}
    )
    with xr.open_dataset(write(dated, tmp_path / "d.nc"), engine="netcdf4") as opened:
        assert opened["stimulus"].values[0] == np.datetime64("2020-01-02")


def test_names_are_fit_for_any_file_system():
    names = ["a:1", "a/1", "A:1", "CON", "nul", "x.y", "", "é", "1", "T_1", "t_1", "z" * 400]
    stored = list(stored_names(names).values())
    assert len({s.lower() for s in stored}) == len(names)
    for name in stored:
        assert name.isascii()
        assert not set(name) & set('<>:"/\\|?*. ')
        assert name.lower() not in {"con", "nul", "aux", "prn"}
        assert name[0].isalpha()
        assert len(name) < 120


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_reading_and_writing_to_the_same_place(suffix, tmp_path):
    target = write(everything([1, 2, 3]), tmp_path / f"x{suffix}")
    opened = read(target)
    write(opened, target)
    same(opened.load(), everything([1, 2, 3]))
    with read(target) as again:
        same(again.load(), everything([1, 2, 3]))


class Cut(Exception):
    """Stands for a crash."""


CRASHES = [("os.replace", 1), ("os.rename", 1), ("os.rename", 2), ("shutil.rmtree", 1)] + [
    ("os.fsync", n) for n in range(1, 6)
]
CRASHING = """
import os, shutil, sys, pickle, lensframe_pd
from lensframe_pd.files.files import write
what, targets = pickle.load(sys.stdin.buffer)
for (call, n), target in targets.items():
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 9)
        continue
    module, name = call.split(".")
    module, left = sys.modules[module], [n]
    def cut(*args, real=getattr(module, name), left=left, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)  # as a crash: no `finally` runs
        return real(*args, **kwargs)
    setattr(module, name, cut)
    write(what, target)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes child processes")
@pytest.mark.parametrize("what", ["trace", ".arrows", ".zarr", ".nc", ".parquet"])
def test_a_crash_leaves_the_old_or_the_new(what, trace, tmp_path):
    """The process ends at each rename, removal and flush; then the place is written again."""
    new = (trace.layers.assign(mark=1), trace.activations.assign_attrs(mark=1))
    old, new = {"trace": (trace, new), ".parquet": (trace.layers, new[0])}.get(
        what, (trace.activations, new[1])
    )
    targets = {}
    for k, crash in enumerate(CRASHES):
        (tmp_path / str(k)).mkdir()
        targets[crash] = write(old, tmp_path / str(k) / ("t" if what == "trace" else f"x{what}"))
    subprocess.run([sys.executable, "-c", CRASHING], input=pickle.dumps((new, targets)), check=True)
    marks = []
    for target in targets.values():
        found = part_of(read(target))
        marks.append("mark" in (found.attrs if isinstance(found, xr.Dataset) else found))
        write(new, target)
        found = part_of(read(target))
        assert "mark" in (found.attrs if isinstance(found, xr.Dataset) else found)
        assert [p.name for p in target.parent.iterdir() if "lensframe-old" in p.name] == []
    assert False in marks, "no crash came before the new was in place"


def part_of(read_back):
    return read_back.activations.load() if isinstance(read_back, tuple) else read_back


def test_an_error_while_writing_leaves_the_old(trace, tmp_path):
    for suffix in FORMATS.values():
        target = write(trace.activations, tmp_path / f"x{suffix}")
        bad = trace.activations.assign_coords(bad=("stimulus", np.array([{1}, {2}], object)))
        with pytest.raises(lf.LensTypeError, match=r"coordinate 'bad' holds objects \(set\)"):
            write(bad, target)
        with read(target) as found:
            same(found.load(), trace.activations)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_other_peoples_folders_are_not_replaced(trace, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("all of it")
    with pytest.raises(
        lf.LensValueError, match=r"did not write \(chapter.txt\); give another path"
    ):
        write(trace, tmp_path / "thesis")
    for format in FORMATS:
        folder = write(trace, tmp_path / format, format)
        (folder / "notes.txt").write_text("mine")
        with pytest.raises(lf.LensValueError, match=r"not write \(notes.txt\)"):
            write(trace, folder)
        (folder / "notes.txt").unlink()
        write(trace, folder)
    store = write(trace.activations, tmp_path / "mine.zarr")
    (store / "notes").mkdir()
    with pytest.raises(lf.LensValueError, match=r"not write \(notes\)"):
        write(trace.activations, store)
    (tmp_path / "x.arrows").write_text("a file")
    with pytest.raises(lf.LensValueError, match="not replaced"):
        write(trace.activations, tmp_path / "x.arrows")
    (tmp_path / "theirs.zarr").mkdir()
    (tmp_path / "theirs.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(lf.LensValueError, match="exists and is not replaced"):
        write(trace.activations, tmp_path / "theirs.zarr")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "all of it"


def test_a_folder_put_aside_is_found(tmp_path):
    write(big_enough(), tmp_path / "x.arrows")
    os.rename(tmp_path / "x.arrows", tmp_path / ".x.arrows.lensframe-old")
    same(read(tmp_path / "x.arrows"), big_enough())
    with pytest.raises(Cut), new_folder(tmp_path / "x.arrows"):
        raise Cut
    same(read(tmp_path / "x.arrows"), big_enough())


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


def test_lazy_values_are_read_by_part(tmp_path, monkeypatch):
    ds = everything([1, 2, 3])
    for suffix in (".nc", ".zarr"):
        with read(write(ds, tmp_path / f"x{suffix}")) as found:
            assert not any(v._in_memory for v in found.data_vars.values() if v.ndim)
            some = found["a.b_4:1"].isel(stimulus=slice(1, 3))
            np.testing.assert_array_equal(some, ds["a.b_4:1"][1:3])
            np.testing.assert_array_equal(found["a.b_0:1"][[2, 0]], ds["a.b_0:1"][[2, 0]])


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


def batches(n, lengths=(4, 4)):
    torch.manual_seed(0)
    embed = nn.Embedding(9, 3)
    model = lambda ids: embed(ids) * embed.weight.new_ones(3)  # noqa: E731
    parts = []
    for k, length in enumerate(lengths):
        ids = torch.randint(0, 9, (n + k, length))
        names = [f"{k}{i}" for i in range(n + k)]
        table = pd.DataFrame({"length": length}, index=names)
        parts.append(lf.trace(model, ids, stimulus=table).activations)
    return parts


def test_concat_joins_batches():
    parts = batches(2)
    joined = concat(parts)
    assert joined["mul_1"].sizes == {"stimulus": 5, "token_4": 4, "feature_3": 3}
    expected = np.concatenate([p["mul_1"].values for p in parts])
    np.testing.assert_array_equal(joined["mul_1"], expected)
    assert list(joined["stimulus"].values) == ["00", "01", "10", "11", "12"]
    assert list(joined["length"].values) == [4] * 5
    assert list(joined) == list(parts[0])
    assert joined["mul_1"].attrs == parts[0]["mul_1"].attrs
    np.testing.assert_array_equal(joined["new_ones_1"], [1, 1, 1])
    assert joined["new_ones_1"].dims == parts[0]["new_ones_1"].dims


def test_concat_refuses_unequal_extents():
    with pytest.raises(lf.LensValueError) as error:
        concat(batches(2, (7, 9)))
    assert (
        "mul_1: batch 0 has stimulus, token_7, feature_3, batch 1 has stimulus, token_9, feature_3"
        in str(error.value)
    )
    assert "embedding_1: batch 0 has stimulus, token_7" in str(error.value)


def test_concat_refuses_what_is_no_one_dataset():
    first, second = batches(2)
    with pytest.raises(lf.LensValueError, match="batch 1 has no 'mul_1', which batch 0 has"):
        concat([first, second.drop_vars("mul_1")])
    with pytest.raises(lf.LensValueError, match="do not both have coordinates 'stimulus'"):
        concat([first, second.drop_vars("stimulus")])
    with pytest.raises(lf.LensValueError, match="different in each batch: 'new_ones_1'"):
        concat([first, second.assign(new_ones_1=second["new_ones_1"] * 2)])
    with pytest.raises(lf.LensValueError, match="no datasets"):
        concat([])
    with pytest.raises(lf.LensTypeError, match="not DataFrame"):
        concat([first, pd.DataFrame()])
    assert concat([first]) is first


def test_concat_of_lazy_datasets(tmp_path):
    parts = batches(2)
    paths = [write(p, tmp_path / f"{k}.arrows") for k, p in enumerate(parts)]
    same(concat([read(p) for p in paths]).load(), concat(parts))


def test_an_open_file_object_is_no_path():
    with pytest.raises(TypeError):
        read(io.BytesIO())

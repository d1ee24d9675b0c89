"""netCDF and zarr: what plain xarray reads, and only as much as is asked for."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import zarr
from stored import everything

import lensframe_pd as lf
from lensframe_pd.files import gathered
from lensframe_pd.files.files import read, write
from lensframe_pd.files.stores import as_it_is, as_stored


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


def test_lazy_values_are_read_by_part(tmp_path, monkeypatch):
    ds = everything([1, 2, 3])
    for suffix in (".nc", ".zarr"):
        with read(write(ds, tmp_path / f"x{suffix}")) as found:
            assert not any(v._in_memory for v in found.data_vars.values() if v.ndim)
            some = found["a.b_4:1"].isel(stimulus=slice(1, 3))
            np.testing.assert_array_equal(some, ds["a.b_4:1"][1:3])
            np.testing.assert_array_equal(found["a.b_0:1"][[2, 0]], ds["a.b_0:1"][[2, 0]])


def test_a_store_has_the_files_that_zarr_writes_each_written_once(tmp_path, monkeypatch):
    ds = everything([1, 2, 3])
    ds["big_1"] = ("stimulus", "unit"), np.random.default_rng(0).random((3, 2**18))
    written = []
    put = gathered.put
    monkeypatch.setattr(
        gathered, "put", lambda path, value: written.append(path) or put(path, value)
    )
    write(ds, tmp_path / "x.zarr")
    packed = as_stored(ds, narrow=False)
    encoding = as_it_is(packed) | {"big_1": {"_FillValue": None, "chunks": (3, 2**18)}}
    with zarr.config.set({"array.write_empty_chunks": True}):
        packed.to_zarr(tmp_path / "plain", zarr_format=3, consolidated=False, encoding=encoding)
    files = {
        name: {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()}
        for name in ("x.zarr", "plain")
        for to in [tmp_path / name]
    }
    root = Path("zarr.json")  # has what is said of all
    assert files["x.zarr"].pop(root) != files["plain"].pop(root)
    assert files["x.zarr"] == files["plain"]
    small = [path for path, content in files["plain"].items() if len(content) < 2**20]
    inside = [Path(*path.parts[path.parts.index("x.zarr") + 1 :]) for path in written]
    assert sorted(inside) == sorted([root, *small])


def test_a_trace_in_one_store_as_extract_makes_them(tmp_path):
    model = torch.nn.Linear(3, 2).eval()
    trace = lf.trace(model, torch.ones(4, 3), stimulus=list("abcd"))
    to = lf.write(trace, tmp_path / "x.zarr")
    layers, activations = lf.read(to)
    pd.testing.assert_frame_equal(layers, trace.layers)
    xr.testing.assert_identical(activations.load(), trace.activations)
    pd.testing.assert_frame_equal(lf.read(to / "lensframe"), trace.layers)
    plain = xr.open_zarr(to)
    np.testing.assert_array_equal(plain["linear_1"].values, trace.activations["linear_1"].values)
    lf.write(trace, to)  # replaced
    stored = to / "lensframe" / "layers" / "c" / "0"
    stored.write_bytes(stored.read_bytes()[:-9] + bytes(9))
    with pytest.raises(lf.LensValueError, match="lensframe"):
        lf.read(to)


def test_the_layers_of_an_extraction(tmp_path):
    model, x = torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)
    lf.extract(model, x, to=tmp_path / "a.zarr", save="linear_1", batch_size=2)
    layers = lf.read(tmp_path / "a.zarr" / "lensframe")
    assert list(layers.index) == ["input_1", "linear_1", "output_1"]
    assert layers.loc["linear_1", "shape"] == (2, 2)


def dimensions_of_all_kinds(n):
    """Variables that share dimensions, have their own, or none; a dimension with a coordinate."""
    values = {f"a_{k}": (("stimulus", "channel_3"), np.ones((2, 3), "f4") * k) for k in range(n)}
    values |= {f"b_{k}": (f"dim1_{k + 4}", np.arange(k + 4)) for k in range(5)}
    values |= {"none_1": ((), 2.0), "square_1": (("token_4", "token_4_"), np.eye(4))}
    values["complex_1"] = ("channel_3", np.array([1j, 2, 3]))
    coords = {"stimulus": ["a", "bb"], "weight": ("stimulus", [0.5, 1.5])}
    return xr.Dataset(values, coords)


def test_a_netcdf_file_is_not_searched_for_the_name_of_each_dimension(tmp_path, monkeypatch):
    """HDF5 searches the whole file: thousands of variables would take minutes."""
    base = h5py._hl.base
    name, asked = base.HLObject.name, []
    monkeypatch.setattr(
        base.HLObject, "name", property(lambda self: asked.append(self) or name.fget(self))
    )
    counts = []
    for n in (10, 60):
        given = dimensions_of_all_kinds(n)
        path = write(given, tmp_path / f"{n}.nc")
        asked.clear()
        with read(path) as found:
            xr.testing.assert_identical(found.load(), given)
        counts.append(len(asked))
    assert counts[1] - counts[0] <= 60 - 10  # its own, by which it was opened


@pytest.mark.parametrize("n", [1, 40])
def test_dimensions_of_netcdf_are_as_h5netcdf_finds_them(tmp_path, n):
    given = dimensions_of_all_kinds(n)
    path = write(given, tmp_path / "x.nc")
    with read(path) as found, xr.open_dataset(path, engine="h5netcdf") as plain:
        for name in given.data_vars:
            stored = plain[name.replace(":", "-")].dims
            assert found[name].dims == tuple(d for d in stored if d != "real_imag"), name
        xr.testing.assert_identical(found.load(), given)

"""netCDF and zarr: what plain xarray reads, and only as much as is asked for."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from stored import everything

import lensframe_pd as lf
from lensframe_pd.files.files import read, write


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

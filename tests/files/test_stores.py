"""netCDF and zarr: what plain xarray reads, and only as much as is asked for."""

import numpy as np
import xarray as xr
from stored import everything

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

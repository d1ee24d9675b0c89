"""Arrow files: mapped, not read, and open to other tools."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
from stored import big_enough

from lensframe_pd.files.files import read, write


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

"""A disk that is full: an error that says so, the old file as it was, and no process ended."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from stored import FORMATS, part_of, same

from lensframe_pd.files.files import read, write
from lensframe_pd.files.steady import Steady

WRITING = """
import json, resource, signal, sys
import pandas as pd, xarray as xr
import h5netcdf, zarr, lensframe_pd as lf
targets, limits = json.loads(sys.argv[1])
errors = []
for target in targets:
    new = xr.load_dataset(sys.argv[2], engine="h5netcdf")
    what = new if not target.endswith("quet") else pd.DataFrame({"layer": map(str, range(90_000))})
    for limit in limits:
        # What a file may grow to: the system then refuses as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            pair = pd.DataFrame({"layer": ["a"]}), what
            lf.write(pair if "trace" in target else what, target)
        except lf.LensValueError as error:
            assert isinstance(error, OSError)
            errors.append(str(error))
        else:
            errors.append("written")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(json.dumps(errors))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of resources are POSIX")
def test_a_full_disk(trace, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 2500)).astype(np.float32)
    new = xr.Dataset(
        {f"relu_{k}": (("stimulus", "feature_2500"), values) for k in range(3)},
        {"stimulus": [f"s{k}" for k in range(40)]},
    )
    new.to_netcdf(tmp_path / "given.nc", engine="h5netcdf")
    targets = [tmp_path / f"x{suffix}" for suffix in FORMATS.values()]
    targets += [tmp_path / "l.parquet", tmp_path / "trace"]
    old = [trace.activations] * len(FORMATS) + [trace.layers, trace]
    for what, target in zip(old, targets, strict=True):
        write(what, target)
    before = sorted(os.listdir(tmp_path))
    limits = [100, 5_000, 200_000, 399_000]  # at the first byte, in metadata, in and between arrays
    done = subprocess.run(
        [sys.executable, "-c", WRITING, json.dumps([list(map(str, targets)), limits]),
         str(tmp_path / "given.nc")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    errors = json.loads(done.stdout)
    assert len(errors) == len(targets) * len(limits)
    for k, error in enumerate(errors):
        target = targets[k // len(limits)]
        if error == "written":  # each of its files is smaller than the limit
            assert limits[k % len(limits)] >= 200_000
        else:
            assert error.startswith(f"{target} was not written"), error
            assert "is full" in error
    refused = {targets[k // len(limits)].name for k, e in enumerate(errors) if e != "written"}
    assert refused == {target.name for target in targets}
    assert sorted(os.listdir(tmp_path)) == before
    for k, (what, target) in enumerate(zip(old, targets, strict=True)):
        if "written" in errors[k * len(limits) : (k + 1) * len(limits)]:
            continue
        found = part_of(read(target))
        if isinstance(found, xr.Dataset):
            same(found.load(), trace.activations)
        else:
            assert found.equals(what)


def test_a_steady_file_is_a_file(tmp_path):
    with Steady(tmp_path / "a") as file:
        assert file.write(b"abc") == 3
        assert file.write(memoryview(np.arange(3, dtype=np.int64))) == 24
    assert (tmp_path / "a").read_bytes() == b"abc" + np.arange(3).astype("<i8").tobytes()
    with Steady(tmp_path / "a") as file:  # what is there is kept
        file.seek(1)
        file.write(b"X")
    assert (tmp_path / "a").read_bytes()[:3] == b"aXc"
    with pytest.raises(ZeroDivisionError), Steady(tmp_path / "a"):
        raise ZeroDivisionError

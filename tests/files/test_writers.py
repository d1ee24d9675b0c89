"""Writers and readers of one place at one time: every read is of one write, or says why not."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.files import arrow, atomic, checked, files, frames, netcdf, stores
from lensframe_pd.files.files import read, write

KINDS = ["x.nc", "x.zarr", "x.arrows", "l.parquet", "trace_arrow", "trace_zarr", "trace_netcdf"]


@pytest.fixture(scope="module")
def layers():
    return lf.trace(torch.nn.Linear(2, 2).eval(), torch.ones(1, 2)).layers


@pytest.fixture
def put(layers, tmp_path):
    """Write the n-th content of a kind: every part of it says n."""

    def of(name, n, folder=tmp_path):
        values = np.full((3, 4), n, np.float32)
        dataset = xr.Dataset(
            {f"relu_{k}": (("stimulus", "feature_4"), values) for k in range(3)},
            {"stimulus": [f"{n}_{k}" for k in range(3)]},
            {"n": n},
        )
        frame = layers.assign(n=n)
        if name.startswith("trace"):
            return write((frame, dataset), folder / name, name.removeprefix("trace_"))
        return write(frame if name.startswith("l.") else dataset, folder / name)

    return of


def said(found):
    """The one number that all parts of what was read say."""
    frame, dataset = found if isinstance(found, tuple) else (found, found)
    numbers = set()
    if not isinstance(frame, xr.Dataset):
        numbers |= {*map(int, frame["n"])}
    if isinstance(dataset, xr.Dataset):
        with dataset:
            numbers |= {int(n) for v in dataset.values() for n in np.unique(v.values)}
            numbers |= {int(s.split("_")[0]) for s in dataset["stimulus"].values}
            numbers.add(dataset.attrs["n"])
    (number,) = numbers
    return number


def between(monkeypatch, place, name, action, at):
    """Have `action` happen before the `at`-th call of a function, once."""
    real, calls = getattr(place, name), []

    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(place, name, called)
    return calls


def reached(steps, action):
    """The steps that an action comes to; at any other there is nothing to see."""
    with pytest.MonkeyPatch.context() as patch:
        calls = {step: between(patch, *step[:2], None, at=0) for step in steps}
        action()
    return [step for step in steps if len(calls[step]) >= step[2]]


READING = [
    (files, "_read", 1), (files, "_content", 1), (files, "check_inside", 1),
    (frames, "read_frame", 1), (arrow, "read_arrow", 1), (arrow, "_table", 1), (arrow, "_table", 2),
    (arrow, "_table", 5), (netcdf, "read_netcdf", 1), (netcdf, "_check_holds_all", 1),
    (netcdf, "_opened_netcdf", 1), (stores, "read_zarr", 1), (stores, "check_inside", 1),
    (stores, "_chunk_files", 1), (stores, "unpacked", 1), (netcdf, "unpacked", 1),
    (stores, "_unpacked_coordinate", 1),
    (stores, "check_small", 1), (arrow, "check_small", 1),
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_write_in_the_middle_of_a_read(name, put, tmp_path):
    """Another write is completed at each step of a read: the read gives one of the two, whole."""
    put(name, 1)
    steps = reached(READING, lambda: said(read(tmp_path / name)))
    assert len(steps) >= (2 if name == "l.parquet" else 4)
    for place, function, at in steps:
        put(name, 1)
        with pytest.MonkeyPatch.context() as patch:
            calls = between(patch, place, function, lambda: put(name, 2), at)
            found = said(read(tmp_path / name))
        assert found in (1, 2), function
        assert len(calls) >= at
        assert said(read(tmp_path / name)) == 2


@pytest.mark.parametrize("name", KINDS)
def test_many_writes_in_the_middle_of_a_read(name, put, tmp_path):
    """Overwritten at each attempt: the reader has the writers wait, or says that it gave up."""
    put(name, 0)
    n = [0]
    real = files._read

    def overtaken(*args):
        n[0] += 1
        if n[0] < 3:
            put(name, n[0])
            raise lf.LensValueError("torn")
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_read", overtaken)
        assert said(read(tmp_path / name)) == 2


STEPS = [(os, "rename", 1), (os, "rename", 2), (os, "rename", 3), (os, "replace", 1),
         (os, "fsync", 1), (os, "fsync", 2), (os, "fsync", 5)]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_write_in_the_middle_of_a_write(name, put, tmp_path):
    """Another process writes, wholly, at each step of a write outside the swap."""
    put(name, 0)
    for place, step, at in reached(STEPS, lambda: put(name, 0)):
        inside = []  # a swap has the other wait: that would be for ever, in one process
        with pytest.MonkeyPatch.context() as patch:
            real = atomic._swap

            def swapped(*args, real=real, inside=inside):
                inside.append(1)
                return real(*args)

            patch.setattr(atomic, "_swap", swapped)
            between(patch, place, step, lambda inside=inside: inside or put(name, 1), at)
            put(name, 2)
        assert said(read(tmp_path / name)) in (1, 2), (step, at)  # whichever was in place last
        assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_between_the_renames(name, put, tmp_path):
    """While a folder is replaced, or after a crash there, a read finds one of the two."""
    put(name, 1)
    steps = reached(STEPS, lambda: put(name, 2))
    assert len(steps) > 2
    for place, step, at in steps:
        put(name, 1)
        seen = []

        def look(seen=seen):
            seen.append(said(read(tmp_path / name)))

        with pytest.MonkeyPatch.context() as patch:
            between(patch, place, step, look, at)
            put(name, 2)
        assert {*seen} in ({1}, {2})


def test_values_read_after_another_write_are_refused(put, tmp_path, monkeypatch):
    """A zarr store is opened; its files are replaced; values of the other write are not given."""
    for at_once in (2**28, 0):
        monkeypatch.setattr(checked, "AT_ONCE_BYTES", at_once)
        put("x.zarr", 1)
        opened = read(tmp_path / "x.zarr")
        put("x.zarr", 2)
        with pytest.raises(lf.LensValueError, match="was replaced after it was opened"):
            opened["relu_1"].load()
        put("x.zarr", 1)
        assert float(opened["relu_1"][0, 0]) == 1  # the same values again
        for name in ("x.nc", "x.arrows"):  # these are held
            put(name, 1)
            opened = read(tmp_path / name)
            put(name, 2)
            assert said(opened) == 1


WRITING = """
import sys, time
import numpy as np, xarray as xr, h5netcdf, zarr, lensframe_pd as lf
paths, n, end = sys.argv[3:], int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
print("ready", flush=True)
while time.monotonic() < end:
    n += 2
    values = np.full((3, 4), n, np.float32)
    names = [f"relu_{k}" for k in range(3)]
    dataset = xr.Dataset(
        {name: (("stimulus", "feature_4"), values) for name in names},
        {"stimulus": [f"{n}_{k}" for k in range(3)]}, {"n": n},
    )
    for path in paths:
        lf.write(dataset, path)
"""


def test_two_writers_and_a_reader(put, tmp_path):
    names = ["x.arrows", "x.nc", "x.zarr"]
    for name in names:
        put(name, 0)
    paths = [str(tmp_path / name) for name in names]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, str(k), "2", *paths],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for k in (1, 2)
    ]  # fmt: skip
    for writer in writers:
        writer.stdout.readline()
    reads = 0
    while any(writer.poll() is None for writer in writers):
        for name in names:
            found = read(tmp_path / name)
            try:
                said(found)
            except lf.LensValueError:  # a zarr store replaced after it was opened
                assert name == "x.zarr"
            reads += 1
    assert reads > 3
    assert [(w.returncode, w.communicate()[1]) for w in writers] == [(0, b"")] * 2
    assert sorted(os.listdir(tmp_path)) == names
    assert all(said(read(tmp_path / name)) > 2 for name in names)


KILLED = """
import os, sys, time
import torch, lensframe_pd as lf
from lensframe_pd.files import atomic
trace = lf.trace(torch.nn.Linear(2, 2).eval(), torch.ones(1, 2))
def stopped(path):
    print("writing", flush=True)
    time.sleep(600)
atomic._flush = stopped
lf.write(trace if "trace" in sys.argv[1] else trace.layers, sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX")
@pytest.mark.parametrize("name", ["l.parquet", "trace_arrow"])
def test_what_a_killed_writer_left_is_removed_by_the_next(name, put, tmp_path):
    (tmp_path / f".{name}.mine").mkdir()  # only what is known to be a writer's goes
    (tmp_path / f".{name}.x.0123456789ab.lensframe-new").mkdir()
    put(name, 1)
    kept = sorted(os.listdir(tmp_path))
    target = str(tmp_path / name)
    writer = subprocess.Popen([sys.executable, "-c", KILLED, target], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        (left,) = {*os.listdir(tmp_path)} - {*kept}
        put(name, 2)
        assert left in os.listdir(tmp_path), "its writer lives"
        assert said(read(tmp_path / name)) == 2
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert left in os.listdir(tmp_path)
    put(name, 3)
    assert sorted(os.listdir(tmp_path)) == kept
    old = tmp_path / f".{name}.0123456789ab.lensframe-new"
    old.mkdir()  # of a system without locks: known by its age alone
    put(name, 4)
    assert old.exists()
    day = time.time() - 100_000
    os.utime(old, (day, day))
    put(name, 5)
    assert sorted(os.listdir(tmp_path)) == kept

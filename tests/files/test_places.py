"""Targets: links stay links, and what cannot be written or read is said by an error of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stored import part_of

import lensframe_pd as lf
from lensframe_pd.files.files import read, write

NAMES = ["x.nc", "x.zarr", "x.arrows", "l.parquet", "l.feather", "l.arrow", "trace"]


@pytest.fixture
def what(trace):
    """What is written under a name."""

    def of(name):
        if name.startswith("trace"):
            return trace
        return trace.layers if name.startswith("l.") else trace.activations

    return of


def check(target, what):
    found = part_of(read(target))
    wanted = what.activations if isinstance(what, lf.Trace) else what
    assert found.equals(wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("link", ["to what is there", "to a place", "relative", "of a link"])
def test_a_link_is_written_through(name, link, what, tmp_path):
    (tmp_path / "data").mkdir()
    real = tmp_path / "data" / "1a2b"  # a store's own names need no suffix
    if link == "to what is there":
        write(what(name), tmp_path / name)
        os.rename(tmp_path / name, real)
    at = tmp_path / name
    if link == "relative":
        at.symlink_to(Path("data", "1a2b"))
    elif link == "of a link":
        (tmp_path / "between").symlink_to(real)
        at.symlink_to(tmp_path / "between")
    else:
        at.symlink_to(real)
    for _ in range(2):
        assert write(what(name), at) == at
        assert at.is_symlink()
        assert not real.is_symlink()
        check(at, what(name))
    assert sorted(os.listdir(tmp_path / "data")) == ["1a2b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_place_behind_a_linked_folder(name, what, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check(write(what(name), tmp_path / "link" / name), what(name))
    assert os.listdir(tmp_path / "real") == [name]


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "/", "a\0b", "./", "nowhere/..", "../.."])
def test_what_is_no_name(name, trace, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for given in (name, Path(name)):
        with pytest.raises(lf.LensValueError, match="names no file or folder"):
            write(trace, given)
    for suffix in (".zarr", ".parquet"):
        with pytest.raises(lf.LensValueError):
            write(trace.layers if suffix == ".parquet" else trace.activations, f"{name}\0{suffix}")
    assert [p for p in tmp_path.rglob("*") if p.name != "a"] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_such_folder(name, what, tmp_path):
    (tmp_path / "file").write_text("x")
    for parent in ("absent", "absent/deep", "file"):
        with pytest.raises(lf.LensValueError, match=rf"there is no folder .*{parent}.*mkdir"):
            write(what(name), tmp_path / parent / name)
        with pytest.raises(lf.LensValueError, match="there is nothing at"):
            read(tmp_path / parent / name)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_in_the_way(name, what, tmp_path):
    target = tmp_path / name
    is_folder = name in ("x.zarr", "x.arrows", "trace")
    for made in ("folder", "link to a folder", "pipe", "file", "link to itself"):
        if made == "folder":
            target.mkdir()
            (target / "mine.txt").write_text("x")
        elif made == "link to a folder":
            (tmp_path / "there").mkdir()
            (tmp_path / "there" / "mine.txt").write_text("x")
            target.symlink_to(tmp_path / "there")
        elif made == "pipe":
            os.mkfifo(target)
        elif made == "file":
            target.write_text("mine")
        else:
            target.symlink_to(target)
        before = sorted(map(str, tmp_path.rglob("*")))
        if made != "file" or is_folder:
            with pytest.raises(lf.LensValueError, match=r"not replaced|leads back to itself"):
                write(what(name), target)
            assert sorted(map(str, tmp_path.rglob("*"))) == before
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()


def test_the_folder_one_is_in_is_not_replaced(trace, tmp_path, monkeypatch):
    folder = write(trace, tmp_path / "trace")
    (folder / "activations.arrows").is_dir()
    for inside in (folder, folder / "activations.arrows"):
        monkeypatch.chdir(inside)
        with pytest.raises(lf.LensValueError, match="the folder you are in"):
            write(trace, folder)
    monkeypatch.chdir(tmp_path)
    write(trace, "trace")
    check("trace", trace)


NOBODY = """
import os, sys, tempfile
import h5netcdf, zarr, torch, lensframe_pd as lf
trace = lf.trace(torch.nn.Linear(2, 2).eval(), torch.ones(1, 2), stimulus=["a"])
with tempfile.TemporaryDirectory() as folder:  # what is imported only when it is used
    for name in ("x.nc", "x.zarr", "x.arrows"):
        lf.read(lf.write(trace.activations, os.path.join(folder, name))).close()
    lf.read(lf.write(trace.layers, os.path.join(folder, "l.parquet")))
if os.getuid() == 0:
    os.setuid(65534)
for target in sys.argv[1:]:
    what = trace.layers if "parquet" in target else trace.activations
    for attempt in (lambda: lf.write(what, target), lambda: lf.write(trace, target + "_trace")):
        try:
            attempt()
        except lf.LensValueError as error:
            assert isinstance(error, OSError) and "you may not write there" in str(error), error
            assert target in str(error)
        else:
            raise SystemExit("written")
    try:
        lf.read(target)
    except lf.LensValueError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_no_permission(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "x.nc").write_bytes(b"")
    folder.chmod(0o500)
    targets = [str(folder / n) for n in ("x.nc", "x.zarr", "x.arrows", "l.parquet")]
    try:
        done = subprocess.run(
            [sys.executable, "-c", NOBODY, *targets], check=True, capture_output=True, text=True
        )
    finally:
        folder.chmod(0o700)
    assert len(done.stdout.splitlines()) == len(targets)
    assert os.listdir(folder) == ["x.nc"]

"""Nothing half-written is left, and nothing of others is replaced."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from stored import FORMATS, big_enough, part_of, same

import lensframe_pd as lf
from lensframe_pd.files.atomic import new_folder
from lensframe_pd.files.files import read, write


class Cut(Exception):
    """Stands for a crash."""


# The n-th of these calls is where the process ends: every rename, removal and flush of a write.
FLUSHES = [("os.fsync", n) for n in range(1, 6)]
FOLDER = [("os.rename", 1), ("os.rename", 2), ("shutil.rmtree", 1), *FLUSHES]
FILE = [("os.replace", 1), *FLUSHES[:2]]
CRASHES = {"trace": FOLDER, ".arrows": FOLDER, ".zarr": FOLDER, ".nc": FILE, ".parquet": FILE}
CRASHING = """
import os, shutil, sys, pickle
import dask.array, h5netcdf, zarr, lensframe_pd  # the children need not import them
from lensframe_pd.files.files import write
for call, n, target, what in pickle.load(sys.stdin.buffer):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, (call, n, target)
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


@pytest.fixture(scope="module")
def crashed(trace, tmp_path_factory):
    """Each kind of file with what is new of it, and the places where a write of that was cut off.

    Two variables will do: what is cut is between files and folders. One process crashes its
    children for all kinds, as its imports take longer than they do.
    """
    layers, few = trace.layers, trace.activations[["cat_1:2", "float_1"]]
    new = {"trace": (layers.assign(mark=1), few.assign_attrs(mark=1))}
    old = {"trace": (layers, few), ".parquet": layers} | dict.fromkeys(FORMATS.values(), few)
    new |= {".parquet": new["trace"][0]} | dict.fromkeys(FORMATS.values(), new["trace"][1])
    cuts = {what: [] for what in CRASHES}
    for what, crashes in CRASHES.items():
        for call, n in crashes:
            folder = tmp_path_factory.mktemp("crashed")
            target = write(old[what], folder / ("t" if what == "trace" else f"x{what}"))
            cuts[what].append((call, n, target, new[what]))
    every = [cut for of_one in cuts.values() for cut in of_one]
    subprocess.run([sys.executable, "-c", CRASHING], input=pickle.dumps(every), check=True)
    return {what: (new[what], [target for _, _, target, _ in cuts[what]]) for what in cuts}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes child processes")
@pytest.mark.parametrize("what", CRASHES)
def test_a_crash_leaves_the_old_or_the_new(what, crashed):
    """The process ends at each rename, removal and flush; then the place is written again."""
    new, targets = crashed[what]
    marks = []
    for target in targets:
        found = part_of(read(target))
        marks.append("mark" in (found.attrs if isinstance(found, xr.Dataset) else found))
        write(new, target)
        found = part_of(read(target))
        assert "mark" in (found.attrs if isinstance(found, xr.Dataset) else found)
        assert [p.name for p in target.parent.iterdir() if "lensframe-old" in p.name] == []
    assert False in marks, "no crash came before the new was in place"


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

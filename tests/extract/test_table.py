"""`plan=True`: what a store will hold and take, held against what is then written."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lensframe_pd as lf

from .nets import images, net

ASKED = {
    "plain": {},
    "half": {"dtype": "float16"},
    "mean": {"pool": "mean"},
    "projected": {"project": 5},
    "three batches a chunk": {"chunk": 3},
    "unlike chunks": {"chunk": [2, 3]},
}


def chunks_of(to, name):
    return [f.stat().st_size for f in (to / name / "c").rglob("*") if f.is_file()]


@pytest.mark.parametrize("n", [12, 13, 2])
@pytest.mark.parametrize("what", ASKED)
def test_what_is_planned_is_what_is_written(tmp_path, what, n):
    model, x, to = net(), images(n), tmp_path / "a.zarr"
    rows = lf.trace(model, x[:2], save=None).layers.loc[["relu_2", "conv2d_2"]]
    settings = {"to": to, "save": rows.assign(**ASKED[what]), "batch_size": 3}
    table = lf.extract(model, x, plan=True, **settings)
    assert not to.exists()
    assert list(table.columns) == ["shape", "dims", "dtype", "bytes", "chunk", "files"]
    found = lf.extract(model, x, **settings)
    assert list(table.index) == list(found.data_vars)
    for name, row in table.iterrows():
        array = found[name]
        assert row["shape"] == array.shape[1:]
        assert row["dims"] == array.dims
        assert row["dtype"] == str(array.dtype)
        assert row["chunk"] == array.encoding["chunks"]
        assert row["files"] == len(chunks_of(to, name))
        assert row["bytes"] == sum(chunks_of(to, name))
    assert table.attrs["bytes"] == table["bytes"].sum()
    assert lf.extract(model, x, plan=True, **settings).equals(table)


def test_a_model_is_run_once_for_a_plan(tmp_path):
    calls = []

    class Counted(nn.Linear):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    lf.extract(
        Counted(3, 2).eval(), torch.ones(50, 3), to=tmp_path / "a", save="linear_1", batch_size=4,
        plan=True,
    )  # fmt: skip
    assert calls == [4]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("plan", [True, False])
def test_too_little_room_is_said_first(tmp_path, monkeypatch, plan):
    model, x, to = net(), images(12), tmp_path / "a"
    rows = lf.trace(model, x[:2], save=None).layers.loc[["relu_2"]]
    needed = 4 * (3 * 6 * 4 * 4 * 4 + 4)
    usage = SimpleNamespace(free=needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(lf.LensError, match=r"needs 4\.\d+ kB more, and there is 4\.\d+ kB free"):
        lf.extract(model, x, to=to, save=rows, batch_size=3, plan=plan)
    assert not to.exists()
    usage.free = needed + 1000
    lf.extract(model, x, to=to, save=rows, batch_size=3, plan=plan)


def test_room_is_needed_only_for_what_is_missing(tmp_path, monkeypatch):
    model, x, to = net(), images(12), tmp_path / "a"
    settings = {"to": to, "save": ["relu_2"], "batch_size": 3}
    lf.extract(model, x, **settings)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    lf.extract(model, x, **settings)
    (to / "lensframe/ledger/c/1").unlink()
    with pytest.raises(OSError, match="free"):
        lf.extract(model, x, **settings)

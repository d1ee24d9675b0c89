"""`plan=True`: what a store will hold and take, held against what is then written."""

import shutil
from types import SimpleNamespace

import pandas as pd
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


def files_of(to):
    return [f.stat().st_size for f in to.rglob("*") if f.is_file()]


class Words(nn.Embedding):
    def forward(self, x):
        return super().forward(x).relu()


class Fixed(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("grid", torch.arange(4.0))

    def forward(self, x):
        return super().forward(x) * (self.grid * 2).sum()


class Repeated(nn.Linear):
    def forward(self, x):
        for _ in range(3):
            x = super().forward(x)
        return x


TABLE = pd.DataFrame(
    {"kind": ["é", "bb", None] * 4 + ["x"], "size": 2.5}, [f"i{k}" for k in range(13)]
)
WHOLE = {
    "plain": (lambda: net(), images(13), {"save": ["relu_2", "conv2d_2"], "batch_size": 3}),
    "a table of stimuli": (
        lambda: net(), images(13), {"save": ["relu_2"], "batch_size": 3, "stimulus": TABLE}
    ),
    "ids of batches": (
        lambda: net(), images(13),
        {"save": ["relu_2"], "batch_size": 3, "stimulus": lambda b: b.sum((1, 2, 3)), "n": 13},
    ),
    "padded": (
        lambda: Words(9, 3).eval(), [torch.zeros(2, n, dtype=torch.int64) for n in (3, 5, 2, 5)],
        {"save": ["relu_1"], "ragged": {"token": 6}, "n": 8},
    ),
    "no stimuli": (
        lambda: Fixed().eval(), torch.ones(13, 3), {"save": "all", "batch_size": 4}
    ),
    "passes": (
        lambda: Repeated(3, 3).eval(), torch.ones(13, 3), {"save": ["linear_1"], "batch_size": 13}
    ),
    "synced": (
        lambda: net(), images(13), {"save": ["relu_2"], "batch_size": 3, "sync": True}
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WHOLE)
def test_the_whole_store_is_planned_to_the_byte(tmp_path, what):
    make, data, settings = WHOLE[what]
    model, to = make(), tmp_path / "a.zarr"
    table = lf.extract(model, data, to=to, plan=True, **settings)
    lf.extract(model, data, to=to, **settings)
    assert table.attrs["store_files"] == len(files_of(to))
    assert table.attrs["store_bytes"] == sum(files_of(to))
    assert table.attrs["store_bytes"] > table.attrs["bytes"] > 0


@pytest.mark.parametrize("what", ASKED)
def test_the_whole_store_of_rows_is_planned_to_the_byte(tmp_path, what):
    model, x, to = net(), images(13), tmp_path / "a.zarr"
    rows = lf.trace(model, x[:2], save=None).layers.loc[["relu_2", "conv2d_2"]]
    settings = {"to": to, "save": rows.assign(**ASKED[what]), "batch_size": 3}
    table = lf.extract(model, x, plan=True, **settings)
    lf.extract(model, x, **settings)
    assert table.attrs["store_files"] == len(files_of(to))
    assert table.attrs["store_bytes"] == sum(files_of(to))


def test_compressed_files_are_counted_and_their_bytes_are_at_most_those(tmp_path):
    model, to = net(), tmp_path / "a.zarr"
    settings = {"to": to, "save": ["relu_2"], "batch_size": 3, "compress": "zstd"}
    table = lf.extract(model, torch.zeros(13, 3, 8, 8), plan=True, **settings)
    lf.extract(model, torch.zeros(13, 3, 8, 8), **settings)
    assert table.attrs["store_files"] == len(files_of(to))
    assert table.attrs["store_bytes"] > sum(files_of(to))


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

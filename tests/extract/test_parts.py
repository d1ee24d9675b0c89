"""One store by many processes, and what goes wrong while it is written."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf
from lensframe_pd.extract import chunks, fill

from .nets import hooked, images, net

TESTS = str(Path(__file__).parent.parent)
SAVE = ["conv2d_2", "linear_1"]


def check(found, x, batch=3):
    expected = hooked(net(), ["body.0", "head"], x.split(batch))
    np.testing.assert_array_equal(found["conv2d_2"].values, expected["body.0"])
    np.testing.assert_array_equal(found["linear_1"].values, expected["head"])
    assert found.attrs["missing_stimuli"] == 0


@pytest.mark.parametrize(("parts", "order"), [(3, [1, 2, 0]), (2, [1, 0]), (9, [*range(9)])])
def test_parts_in_any_order_make_the_whole(tmp_path, parts, order):
    x = images(16)
    left = []
    for i in order:
        found = lf.extract(
            net(), x, to=tmp_path / "a", save=SAVE, batch_size=3, part=(i, parts),
        )  # fmt: skip
        left.append(found.attrs["missing_stimuli"])
    assert left == sorted(left, reverse=True)
    check(found, x)


def test_a_batch_across_the_border_of_parts(tmp_path):
    x = images(16)
    batches = [x[:3], x[3:8], x[8:10], x[10:]]
    for i in (1, 0):
        found = lf.extract(net(), batches, to=tmp_path / "a", save=SAVE, part=(i, 2))
    expected = hooked(net(), ["body.0", "head"], batches)
    np.testing.assert_array_equal(found["linear_1"].values, expected["head"])


CHILD = """
import sys
sys.path.insert(0, sys.argv[3])
from extract.nets import images, net
import lensframe_pd as lf
part, save = (int(sys.argv[2]), 2), ["conv2d_2", "linear_1"]
lf.extract(net(), images(16), to=sys.argv[1], save=save, batch_size=3, part=part)
"""


def test_two_processes_at_once(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, tmp_path / "a", str(i), TESTS], env=environment
        )
        for i in range(2)
    ]
    assert [child.wait() for child in children] == [0, 0]
    check(lf.read(tmp_path / "a"), images(16))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_workers_of_a_client_one_of_which_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    x, to, killed = images(16), tmp_path / "a", tmp_path / "killed"

    def model():
        sys.path.insert(0, TESTS)
        from extract.nets import net

        whole, forward = net(), type(net()).forward

        def dies(self, batch):
            written = to.exists() and lf.read(to).attrs["missing_stimuli"] < 16
            if written and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(self, batch)

        type(whole).forward = dies
        return whole

    tried = tmp_path / "tried"

    class Fails(nn.Linear):
        def forward(self, batch):
            tried.open("a").write("x")
            raise ArithmeticError("no such luck")

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = lf.extract(model, lambda: x, to=to, save=SAVE, batch_size=3, client=client)
        settings = {"to": tmp_path / "b", "save": "linear_1", "batch_size": 3, "client": client}
        with pytest.raises(ArithmeticError, match="no such luck"):
            lf.extract(Fails(3, 2).eval(), torch.ones(6, 3), **settings)
        assert len(tried.read_text()) <= 4  # by each part at most once
    assert killed.exists()
    check(found, x)


class Full(OSError):
    pass


@pytest.mark.parametrize("threaded", [True, False])
def test_a_full_disk_stops_at_once_and_loses_nothing(tmp_path, monkeypatch, threaded):
    x, calls = images(30), []
    write = chunks._write_all

    def full(file, content):
        if "/c/2" in str(file.name):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(fill, "_a_core_is_free", lambda: threaded)
    monkeypatch.setattr(chunks, "_write_all", full)
    model = net()
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(lf.LensError, match=r"block 2 \(stimuli 6 to 8\).*No space left") as caught:
        lf.extract(model, x, to=tmp_path / "a", save="linear_1", batch_size=3)
    assert isinstance(caught.value, OSError)
    assert len(calls) <= 3 + 4  # not all ten: it was noticed
    assert lf.read(tmp_path / "a").attrs["missing_stimuli"] == 24
    assert not [*tmp_path.rglob("*.partial")]
    monkeypatch.undo()
    check_head(lf.extract(net(), x, to=tmp_path / "a", save="linear_1", batch_size=3), x)


def check_head(found, x):
    np.testing.assert_array_equal(
        found["linear_1"].values, hooked(net(), ["head"], x.split(3))["head"]
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no"), SystemExit(3)])
def test_whatever_ends_the_loop_leaves_what_was_computed(tmp_path, error):
    x, model, calls = images(15), net(), []

    def stops(module, args):
        calls.append(1)
        if len(calls) == 4:
            raise error

    handle = model.register_forward_pre_hook(stops)
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind, match=r"in batch 3 \(stimuli 9 to 11\)"):
        lf.extract(model, x, to=tmp_path / "a", save="linear_1", batch_size=3)
    handle.remove()
    assert lf.read(tmp_path / "a").attrs["missing_stimuli"] == 6
    check_head(lf.extract(model, x, to=tmp_path / "a", save="linear_1", batch_size=3), x)


@pytest.mark.parametrize("compress", [None, "zstd", "gzip"])
@pytest.mark.parametrize("sync", [True, False])
def test_compressed_and_flushed(tmp_path, compress, sync):
    x = images(16)
    found = lf.extract(
        net(), x, to=tmp_path / "a", save=SAVE, batch_size=3, compress=compress, sync=sync
    )
    check(found, x)
    names = [
        type(codec).__name__
        for codec in xr.open_zarr(tmp_path / "a")["conv2d_2"].encoding["compressors"]
    ]
    assert names == {None: [], "zstd": ["ZstdCodec"], "gzip": ["GzipCodec"]}[compress] + [
        "Crc32cCodec"
    ]


def test_chunks_are_those_that_zarr_would_write(tmp_path):
    import zarr
    from zarr.codecs import Crc32cCodec

    x = images(8)
    conv = nn.Conv2d(3, 4, 3).eval()
    rows = lf.trace(conv, x[:2], save=None).layers.loc[["conv2d_1"]]
    found = lf.extract(conv, x, to=tmp_path / "a", save=rows, batch_size=3)
    own = zarr.create_array(
        tmp_path / "b", shape=found["conv2d_1"].shape, chunks=(3, 4, 6, 6), dtype="float32",
        compressors=[Crc32cCodec()], fill_value=np.nan,
    )  # fmt: skip
    own[:] = found["conv2d_1"].values
    for k in range(3):
        chunk = f"c/{k}/0/0/0"
        assert (tmp_path / "a/conv2d_1" / chunk).read_bytes() == (
            tmp_path / "b" / chunk
        ).read_bytes()
    with torch.no_grad():
        expected = torch.cat([conv(part) for part in x.split(3)]).numpy()
    np.testing.assert_array_equal(found["conv2d_1"].values, expected)

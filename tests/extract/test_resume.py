"""A store that is there already: gone on with if it is of this call, refused if not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf

from .nets import PATHS, Net, hooked, images, net

HERE = Path(__file__).parent


def files(path):
    found = {str(f.relative_to(path)): f.read_bytes() for f in Path(path).rglob("*") if f.is_file()}
    return {name: content for name, content in found.items() if not name.endswith(".partial")}


def chunks(path):
    """All but the frame, which has times in it."""
    return {k: v for k, v in files(path).items() if "/c/" in k and "/layers/" not in k}


class Ends(Exception):
    pass


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("call", range(1, 5))
def test_a_run_that_was_broken_off_goes_on(tmp_path, call, chunk):
    model, x = net(), images(14)
    layers, _ = lf.trace(model, x[:2], save=None)
    rows = layers.loc[[*PATHS]].assign(chunk=chunk)
    settings = {"save": rows, "batch_size": 3, "stimulus": [f"s{k}" for k in range(14)]}
    whole = lf.extract(model, x, to=tmp_path / "whole", **settings)

    class Broken(Net):
        left = call

        def forward(self, x):
            self.left -= 1
            if self.left < 0:
                raise Ends("out of luck")
            return super().forward(x)

    Broken.__name__ = Net.__name__
    broken = Broken().eval()
    broken.load_state_dict(model.state_dict())
    with pytest.raises(Ends, match=rf"in batch {call} \(stimuli {3 * call} to") as caught:
        lf.extract(broken, x, to=tmp_path / "part", **settings)
    assert caught.value.args == ("out of luck",)
    part = lf.read(tmp_path / "part")
    there = (call // chunk) * chunk * 3
    assert part.attrs["missing_stimuli"] == 14 - there
    np.testing.assert_array_equal(part["relu_2"][:there], whole["relu_2"][:there])
    assert np.isnan(part["relu_2"][there:]).all()
    again = lf.extract(model, x, to=tmp_path / "part", **settings)
    xr.testing.assert_identical(again, whole)
    assert chunks(tmp_path / "part") == chunks(tmp_path / "whole")


CHILD = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
from extract.nets import PATHS, images, net
import lensframe_pd as lf
from lensframe_pd.extract import fill

kill_at, before_ledger = int(sys.argv[2]), sys.argv[3] == "before"
write, entry = fill.Writer._write, []

def dies(self, k, parts):
    if k == kill_at and not before_ledger:
        write(self, k, parts)
    if k == kill_at:
        if before_ledger:  # half of the block is written
            name = "conv2d_2"
            self._opened.chunks[name].write(3 * k, parts[0].arrays[name], True)
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, k, parts)

fill.Writer._write = dies
model, x = net(), images(12)
lf.extract(model, x, to=sys.argv[1], save=["conv2d_2", "linear_1"], batch_size=3, sync=True)
"""


@pytest.mark.parametrize(("block", "when"), [(1, "before"), (2, "after")])
def test_a_killed_process_loses_no_block_that_the_ledger_has(tmp_path, block, when):
    to = tmp_path / "a.zarr"
    code = CHILD.format(tests=str(HERE.parent))
    done = subprocess.run(
        [sys.executable, "-c", code, to, str(block), when],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    model, x = net(), images(12)
    blocks = block + (when == "after")
    assert lf.read(to).attrs["missing_stimuli"] == 12 - 3 * blocks
    found = lf.extract(model, x, to=to, save=["conv2d_2", "linear_1"], batch_size=3)
    expected = hooked(model, ["body.0", "head"], x.split(3))
    np.testing.assert_array_equal(found["conv2d_2"].values, expected["body.0"])
    np.testing.assert_array_equal(found["linear_1"].values, expected["head"])
    assert found.attrs["missing_stimuli"] == 0


class Kept(nn.Module):
    """A model with a buffer that no state_dict has."""

    def __init__(self, cls=nn.Linear, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.fc = cls(3, 4)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x):
        return torch.relu(self.fc(x) * self.scale)


class OtherLinear(nn.Linear):
    pass


def moved(model):
    with torch.no_grad():
        model.fc.weight[0, 0] += 1e-3
    return model


IDS = list("abcdefgh")
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
TABLE = pd.DataFrame({"size": range(8)}, IDS)
ROWS = lf.trace(Kept().eval(), X, save=None).layers.loc[["linear_1", "relu_1"]]
BASE = {"save": ROWS, "batch_size": 2, "stimulus": TABLE}
OTHER = {
    "weights": ({"model": moved(Kept())}, r"fc\.weight has other values"),
    "buffers": ({"model": Kept(scale=2.0)}, r"scale has other values"),
    "class": ({"model": Kept(OtherLinear)}, r"fc is 'OtherLinear', and was 'Linear'"),
    "train": ({"model": Kept().train()}, "train mode"),
    "rows": ({"save": ROWS.loc[["relu_1"]]}, r"rows: linear_1 is missing, and was there"),
    "more rows": ({"save": ["linear_1", "mul_1", "relu_1"]}, r"rows: mul_1 is new"),
    "dtype": ({"save": ROWS.assign(dtype="float16")}, r"float16"),
    "pool": ({"save": ROWS.assign(project=2)}, "project"),
    "chunk": ({"save": ROWS.assign(chunk=2)}, "chunk"),
    "ids": ({"stimulus": TABLE.set_axis(list("abcdefgx"))}, "ids: stimulus"),
    "table": ({"stimulus": TABLE.assign(size=7)}, "ids: size"),
    "no table": ({"stimulus": IDS}, "ids: size"),
    "batch": ({"batch_size": 4}, "batch is 4, and was 2"),
    "seed": ({"seed": 3}, "seed is 3, and was None"),
    "data": ({"data": X.flip(0)}, "does not come out as it is stored"),
    "fewer": ({"data": X[:6], "stimulus": TABLE[:6]}, "n is 6, and was 8"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("what", OTHER)
def test_a_store_of_another_call_is_refused(tmp_path, what, finished):
    to = tmp_path / "a"
    model = Kept().eval()
    lf.extract(model, X, to=to, **BASE)
    if not finished:
        (to / "lensframe" / "ledger" / "c" / "2").unlink()
    before = files(to)
    change, message = OTHER[what]
    other = change.get("model", Kept())
    if what != "train":
        other.eval()
    with pytest.raises(lf.LensValueError, match=message):
        lf.extract(other, change.get("data", X), to=to, **{**BASE, **_less(change)})
    assert files(to) == before


def _less(change):
    return {k: v for k, v in change.items() if k not in ("model", "data")}


def test_grad_and_autocast_are_compared(tmp_path):
    model = Kept().eval()
    with torch.no_grad():
        lf.extract(model, X, to=tmp_path / "a", **BASE)
    with pytest.raises(lf.LensValueError, match="grad is True, and was False"):
        lf.extract(model, X, to=tmp_path / "a", **BASE)
    message = "autocast is"
    with pytest.raises(lf.LensValueError, match=message), torch.autocast("cpu"), torch.no_grad():
        lf.extract(model, X, to=tmp_path / "a", **BASE)


class Stashes(nn.Linear):
    """Keeps what it computed last, as many do for later looks."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_what_a_model_kept_of_its_last_run_is_no_weight(tmp_path):
    model = Stashes(3, 2).eval().requires_grad_(False)
    settings = {"to": tmp_path / "a", "save": "linear_1", "batch_size": 3}
    first = lf.extract(model, X, **settings).load()
    (tmp_path / "a/lensframe/ledger/c/1").unlink()
    xr.testing.assert_identical(lf.extract(model, X, **settings).load(), first)


def test_a_lazy_model_is_to_be_run_before(tmp_path):
    model = nn.LazyLinear(2).eval()
    with pytest.raises(lf.LensValueError, match=r"weight gets its shape.*run the model once"):
        lf.extract(model, X, to=tmp_path / "a", save="linear_1", batch_size=3)
    model(X)
    lf.extract(model, X, to=tmp_path / "a", save="linear_1", batch_size=3)


class Counts(nn.Linear):
    """Adds to a tensor of its own, which is no buffer, at each run."""

    def __init__(self):
        super().__init__(3, 2)
        self.seen = torch.zeros(())

    def forward(self, x):
        self.seen += 1
        return super().forward(x) * self.seen


def test_a_model_that_counts_its_runs_is_refused(tmp_path):
    with pytest.raises(lf.LensValueError, match="each batch changes 'seen'"):
        lf.extract(Counts().eval(), X, to=tmp_path / "a", save="mul_1", batch_size=3)


def test_versions_are_compared(tmp_path, monkeypatch):
    lf.extract(Kept().eval(), X, to=tmp_path / "a", **BASE)
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(lf.LensValueError, match=r"versions: torch is '9\.9'"):
        lf.extract(Kept().eval(), X, to=tmp_path / "a", **BASE)


def test_batches_with_other_borders_are_refused(tmp_path):
    model = Kept().eval()
    settings = {"to": tmp_path / "a", "save": ROWS, "stimulus": IDS}
    lf.extract(model, [X[:2], X[2:5], X[5:]], **settings)
    (tmp_path / "a" / "lensframe" / "ledger" / "c" / "3").unlink()
    with pytest.raises(lf.LensValueError, match="block 1 has other borders"):
        lf.extract(model, [X[:2], X[2:4], X[4:]], **settings)


def test_a_damaged_block_is_named_and_computed_again(tmp_path):
    model, to = Kept().eval(), tmp_path / "a"
    expected = lf.extract(model, X, to=to, **BASE).load()
    chunk = to / "relu_1" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    opened = lf.read(to)
    np.testing.assert_array_equal(opened["relu_1"][:2], expected["relu_1"][:2])
    with pytest.raises(lf.LensValueError, match=r"'relu_1' is damaged.*stimuli 2 to 3") as caught:
        opened["relu_1"].load()
    assert "lensframe/ledger/c/1" in str(caught.value)
    (to / "lensframe/ledger/c/1").unlink()
    xr.testing.assert_identical(lf.extract(model, X, to=to, **BASE).load(), expected)


def test_a_chunk_that_is_gone_is_named_and_computed_again(tmp_path):
    model, to = Kept().eval(), tmp_path / "a"
    expected = lf.extract(model, X, to=to, **BASE).load()
    (to / "relu_1" / "c" / "2" / "0").unlink()
    with pytest.raises(lf.LensValueError, match="'relu_1' lacks blocks 2"):
        lf.read(to)
    xr.testing.assert_identical(lf.extract(model, X, to=to, **BASE).load(), expected)


@pytest.mark.parametrize("content", ["file", "folder", "zarr"])
def test_what_is_no_store_of_ours_is_left_alone(tmp_path, content):
    to = tmp_path / "a.zarr"
    if content == "file":
        to.write_text("mine")
    elif content == "folder":
        to.mkdir()
        (to / "mine").write_text("mine")
    else:
        xr.Dataset({"mine": ("x", [1, 2])}).to_zarr(to, zarr_format=3, consolidated=False)
    with pytest.raises(lf.LensValueError, match=r"no store that lf\.extract made"):
        lf.extract(Kept().eval(), X, to=to, **BASE)
    assert to.exists()


def test_an_empty_folder_becomes_the_store(tmp_path):
    found = lf.extract(Kept().eval(), X, to=tmp_path, **BASE)
    assert found.attrs["missing_stimuli"] == 0


def test_left_overs_of_a_killed_writer_are_passed_over(tmp_path):
    model, to = Kept().eval(), tmp_path / "a"
    expected = lf.extract(model, X, to=to, **BASE).load()
    (to / "relu_1" / "c" / "1" / "0.deadbeef.partial").write_bytes(b"half")
    xr.testing.assert_identical(lf.read(to).load(), expected)
    xr.testing.assert_identical(lf.extract(model, X, to=to, **BASE).load(), expected)

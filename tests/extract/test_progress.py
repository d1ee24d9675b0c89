"""The bar of an extraction: stimuli a second, time left, bytes written; and where it goes on."""

import io
import re
import sys

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd import bars
from lensframe_pd.extract import fill

N, WIDTH, BATCH = 14, 5, 4
LINE = re.compile(
    r"(?P<of>.*): +\d+%\|.*\| (?P<done>[\d.]+)/(?P<n>[\d.]+) "
    r"\[(?P<spent>[\d:]+)<(?P<left>[\d:?]+), (?P<rate>.*)stimuli/s(, (?P<bytes>.*) written)?\]"
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def looked_at(monkeypatch):
    """A terminal, and what gives the lines that it shows, one after the other."""
    monkeypatch.setattr(bars, "DELAY", 0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return lambda: [m for m in map(LINE.search, re.split(r"[\r\n]", terminal.getvalue())) if m]


class Net(nn.Module):
    def __init__(self, fails_at=None):
        super().__init__()
        self.linear, self.fails_at, self.calls = nn.Linear(3, WIDTH), fails_at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("no more")
        return self.linear(x)


def run(folder, model):
    data = torch.arange(3.0 * N).reshape(N, 3)
    return lf.extract(model, data, to=folder / "acts.zarr", save="linear_1", batch_size=BATCH)


@pytest.mark.parametrize("thread", [True, False])
def test_a_whole_run(tmp_path, monkeypatch, thread):
    shown = looked_at(monkeypatch)
    monkeypatch.setattr(fill, "_a_core_is_free", lambda: thread)
    run(tmp_path, Net().eval())
    last = shown()[-1]
    assert last["of"].endswith("acts.zarr")
    assert (float(last["done"]), float(last["n"])) == (N, N)
    assert last["left"] == "00:00"
    assert last["rate"].strip()[0].isdigit()
    assert last["bytes"] == f"{N * WIDTH * 4} B"  # also of what was queued


def test_one_that_goes_on(tmp_path, monkeypatch):
    shown = looked_at(monkeypatch)
    torch.manual_seed(1)
    model = Net(fails_at=3).eval()
    with pytest.raises(RuntimeError, match="no more"):
        run(tmp_path, model)
    failed = shown()
    assert float(failed[-1]["done"]) == 2 * BATCH
    model.fails_at = None
    run(tmp_path, model)
    again = shown()[len(failed) :]
    assert float(again[0]["done"]) == 2 * BATCH  # those that were there
    assert float(again[-1]["done"]) == N
    assert again[-1]["bytes"] == f"{(N - 2 * BATCH) * WIDTH * 4} B"
    seen = len(shown())
    run(tmp_path, model)  # nothing is left to do
    assert len(shown()) == seen


def test_parts_have_a_bar_each(tmp_path, monkeypatch):
    shown = looked_at(monkeypatch)
    data, model = torch.arange(3.0 * N).reshape(N, 3), Net().eval()
    for i in range(2):
        lf.extract(
            model, data, to=tmp_path / "acts.zarr", save="linear_1", batch_size=BATCH, part=(i, 2)
        )
        assert shown()
    assert float(shown()[-1]["done"]) == N

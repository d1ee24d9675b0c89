"""The file of a run for Perfetto: what is in it."""

import json

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.profile.chrome import chrome_trace, trace_events

from .layer_files import from_disk


def deep(n):
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(n))).eval()


@pytest.fixture
def layers():
    return lf.trace(deep(3), torch.rand(5, 4), save=None).layers


def test_chrome_events_nest_as_modules_do(layers, tmp_path):
    path = chrome_trace(layers, tmp_path / "trace.json")
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    ops = {e["name"]: e for e in events if e["cat"] == "op"}
    assert list(ops) == layers.index[layers["kind"] == "op"].tolist()
    spent = layers.loc[list(ops), "seconds"] * 1e6
    assert [e["dur"] for e in ops.values()] == pytest.approx(spent.tolist())
    assert events[0]["dur"] == pytest.approx(spent.sum())
    for name, event in ops.items():
        around = {
            m["name"] for m in events if m["cat"] == "module"
            and m["ts"] <= event["ts"] and event["ts"] + event["dur"] <= m["ts"] + m["dur"]
        }  # fmt: skip
        stack = {entry.rpartition(":")[0] for entry in layers.loc[name, "module_stack"]}
        assert around == {"model"} | stack
    inside = []
    for event in events:  # each lies within all that are still open
        while inside and event["ts"] >= inside[-1] - 1e-9:
            inside.pop()
        assert not inside or event["ts"] + event["dur"] <= inside[-1] + 1e-6
        inside.append(event["ts"] + event["dur"])


def test_chrome_calls_of_one_module_are_apart():
    model = nn.Linear(4, 4).eval()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = model

        def forward(self, x):
            return self.fc(self.fc(x))

    layers = lf.trace(Twice().eval(), torch.rand(2, 4)).layers
    calls = [e for e in trace_events(layers)["traceEvents"] if e["name"] == "fc"]
    assert [e["args"]["call"] for e in calls] == [1, 2]
    assert calls[1]["ts"] == pytest.approx(calls[0]["dur"])


def test_chrome_errors(layers):
    with pytest.raises(lf.LensKeyError, match="chrome_trace needs column 'seconds'"):
        trace_events(layers.drop(columns="seconds"))
    with pytest.raises(lf.LensValueError, match="no rows of kind 'op'"):
        trace_events(layers[layers["kind"] == "input"])


@pytest.mark.parametrize("how", ["cleared", "parquet"])
def test_the_trace_file_does_not_read_attrs(how, layers, tmp_path):
    assert layers.attrs["model"] == "Sequential"
    expected = chrome_trace(layers, tmp_path / "expected.json").read_bytes()
    bare = layers.copy() if how == "cleared" else from_disk(layers, tmp_path)
    bare.attrs.clear()
    assert chrome_trace(bare, tmp_path / "bare.json").read_bytes() == expected
    assert b'"name": "Sequential"' in expected

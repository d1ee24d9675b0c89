"""Pictures of a profile and the trace file: what is in them."""

import json
import os
import subprocess
import sys

import matplotlib as mpl
import pytest
import torch
from torch import nn

mpl.use("Agg")

import matplotlib.pyplot as plt

import lensframe_pd as lf
from lensframe_pd.profile.chrome import chrome_trace, trace_events
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.memory import memory
from lensframe_pd.profile.plots import plot_memory, plot_params, plot_time
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.roofline import plot_flops, plot_roofline

PLOTS = (plot_time, plot_params, plot_flops, plot_roofline, plot_memory)


def deep(n):
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(n))).eval()


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def layers():
    return lf.trace(deep(3), torch.rand(5, 4), save=None).layers


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("n", [1, 500])
def test_few_and_many_operations(plot, n):
    ax = plot(lf.trace(deep(n), torch.rand(5, 4), save=None).layers)
    ax.figure.canvas.draw()
    assert isinstance(ax, plt.Axes)
    assert ax.get_xlabel()
    assert len(ax.get_yticklabels()) <= 26


@pytest.mark.parametrize("plot", PLOTS)
def test_into_given_axes(plot, layers):
    _, (left, right) = plt.subplots(1, 2)
    assert plot(layers, ax=right) is right
    assert not left.has_data()


def test_bars_are_the_profile(layers):
    table = profile(layers, "module", 2).drop(index="")
    ax = plot_time(layers)
    assert [text.get_text() for text in ax.get_yticklabels()] == table.index.tolist()
    pale, dark = ax.containers[0], ax.containers[1]
    assert [bar.get_width() for bar in pale] == pytest.approx((table["seconds"] * 1e3).tolist())
    own = [0 if "." not in path else 1e3 * s for path, s in table["seconds"].items()]
    assert [bar.get_width() for bar in dark] == pytest.approx(own)


def test_the_longest_of_many():
    ax = plot_params(lf.trace(deep(50), torch.rand(5, 4), save=None).layers)
    assert "largest 25 of 100" in ax.get_title()


def test_points_are_operations_with_flops(layers):
    ax = plot_flops(layers)
    assert len(ax.collections[0].get_offsets()) == 3
    assert ax.collections[0].get_offsets()[:, 1].tolist() == [2 * 5 * 4 * 4] * 3


def test_memory_is_the_column(layers):
    ax = plot_memory(layers)
    drawn = ax.lines[0].get_ydata() * 1e6
    assert drawn.tolist() == pytest.approx(memory(layers)["live_bytes"].tolist())
    few = memory(layers)[2:5]
    assert len(plot_memory(few).lines[0].get_ydata()) == 3


def test_nothing_to_show():
    layers = lf.trace(nn.ReLU().eval(), torch.rand(3)).layers
    for plot, message in [
        (plot_params, "reads a parameter"), (plot_flops, "has FLOPs"), (plot_roofline, "has FLOPs"),
    ]:  # fmt: skip
        with pytest.raises(lf.LensValueError, match=message):
            plot(layers)


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


def test_plotting_is_imported_when_it_is_used():
    code = "import sys, lensframe_pd;assert not {'seaborn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_costs_are_used_where_they_are_there(layers):
    kept = costs(layers).query("func == 'linear'")
    assert len(plot_flops(kept).collections[0].get_offsets()) == 3

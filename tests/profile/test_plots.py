"""Pictures of a profile: what is in them."""

import os
import subprocess
import sys
from collections import OrderedDict

import matplotlib as mpl
import pytest
import torch
from torch import nn

mpl.use("Agg")

import matplotlib.pyplot as plt

import lensframe_pd as lf
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.memory import memory
from lensframe_pd.profile.plots import (
    plot_flops,
    plot_memory,
    plot_params,
    plot_roofline,
    plot_time,
)
from lensframe_pd.profile.profile import profile

from .layer_files import from_disk

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


def test_plotting_is_imported_when_it_is_used():
    code = "import sys, lensframe_pd;assert not {'seaborn', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_costs_are_used_where_they_are_there(layers):
    kept = costs(layers).query("func == 'linear'")
    assert len(plot_flops(kept).collections[0].get_offsets()) == 3


def test_long_paths_that_end_alike_have_bars_of_their_own():
    def tower():
        names = ["encoder", "layers", "attention", "projections", "output"]
        inner = nn.Linear(4, 4)
        for name in reversed(names):
            inner = nn.Sequential(OrderedDict([(name, inner)]))
        return inner

    towers = nn.Sequential(OrderedDict(text_model=tower(), vision_model=tower())).eval()
    ax = plot_params(lf.trace(towers, torch.rand(2, 4), save=None).layers, depth=None)
    pale = ax.containers[0]
    assert len(pale) == len(ax.get_yticklabels()) == 12
    assert [bar.get_width() for bar in pale] == [20] * 12


def test_axes_have_units(layers):
    ax = plot_memory(layers)
    ax.figure.canvas.draw()
    assert {text.get_text().split(" ")[1] for text in ax.get_yticklabels()} == {"B"}
    assert layers["nbytes"].max() == 80


def test_no_plot_reads_attrs(layers, tmp_path):
    bare = from_disk(layers, tmp_path)
    bare.attrs = {"model": "not the model", "seconds": -1, "stopped": True}
    for plot in PLOTS:
        assert drawn(plot(bare)) == drawn(plot(layers))


def drawn(ax):
    """Its pixels."""
    ax.figure.canvas.draw()
    return bytes(ax.figure.canvas.buffer_rgba())

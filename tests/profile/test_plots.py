"""Pictures of a profile: what is in them."""

import os
import re
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
from lensframe_pd.profile.plots import plot_memory, plot_params, plot_time
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.scatter import plot_flops, plot_roofline

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


@pytest.mark.parametrize("plot", [plot_flops, plot_roofline])
def test_the_legend_covers_nothing(plot, layers):
    ax = plot(layers)
    ax.figure.canvas.draw()
    legend, inside = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert legend.x0 >= inside.x1
    assert legend.x1 <= ax.figure.bbox.x1
    sizes = [text.get_text() for text in ax.get_legend().get_texts()]
    if plot is plot_roofline:
        assert sizes[sizes.index("time") + 1 :]
        assert all(text.endswith("s") for text in sizes[sizes.index("time") + 1 :])


@pytest.mark.parametrize(
    ("plot", "axis", "unit"),
    [
        (plot_time, "x", "s"), (plot_flops, "x", "s"), (plot_roofline, "y", "FLOP/s"),
        (plot_memory, "y", "B"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
def test_numbers_of_an_axis_have_a_unit(plot, axis, unit, factor, layers):
    ax = plot(layers.assign(seconds=layers["seconds"].clip(lower=1e-6) * factor))
    ax.figure.canvas.draw()
    texts = [t.get_text() for t in getattr(ax, f"get_{axis}ticklabels")() if t.get_text()]
    assert texts
    assert all(re.fullmatch(rf"[\d.]+ [EPTGMkmµnp]?{unit}", text) for text in texts), texts


def test_time_goes_down_to_where_it_is_divided():
    def slow(layers):
        """All the time in the blocks, which are three names deep."""
        return layers.assign(seconds=[1e-6 + ("layer." in m) for m in layers["module"]])

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in "123"])

        def forward(self, x):
            for block in self.layer:
                x = block(x)
            return x

    model = nn.ModuleDict({"encoder": Encoder(), "head": nn.Linear(4, 2)})
    model.forward = lambda x: model["head"](model["encoder"](x))
    layers = slow(lf.trace(model.eval(), torch.rand(2, 4), save=None).layers)
    shown = [text.get_text() for text in plot_time(layers).get_yticklabels()]
    assert shown == ["encoder", "encoder.layer", *(f"encoder.layer.{i}" for i in range(3)), "head"]
    even = layers.assign(seconds=1e-3)
    assert len(plot_time(even).get_yticklabels()) == 3
    assert len(plot_time(layers, depth=1).get_yticklabels()) == 2
    with pytest.raises(lf.LensValueError, match="depth='all'"):
        plot_time(layers, depth="all")


def test_long_paths_are_whole():
    inner = nn.Sequential(nn.Linear(4, 4))
    for name in ("a_rather_long_name", "another_long_name", "and_one_more_of_these"):
        inner = nn.Sequential(OrderedDict([(name, inner)]))
    ax = plot_params(lf.trace(inner.eval(), torch.rand(2, 4), save=None).layers, depth=None)
    texts = [text.get_text().replace("\n", "") for text in ax.get_yticklabels()]
    assert texts[-1] == "and_one_more_of_these.another_long_name.a_rather_long_name.0"
    ax.figure.canvas.draw()
    assert min(t.get_window_extent().x0 for t in ax.get_yticklabels()) >= 0


def drawn(ax):
    """Its pixels."""
    ax.figure.canvas.draw()
    return bytes(ax.figure.canvas.buffer_rgba())


def luminance(color):
    red, green, blue, _ = mpl.colors.to_rgba(color)
    parts = [
        v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("style", ["default", "dark_background", "Solarize_Light2", "ggplot"])
def test_all_text_is_read_on_the_background_of_the_style(plot, style, layers):
    with plt.style.context(style):
        ax = plot(layers)
    ax.figure.canvas.draw()
    ground = ax.get_facecolor()
    assert ground == mpl.colors.to_rgba(plt.style.library.get(style, {}).get("axes.facecolor", "w"))
    shown = [t for t in ax.figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
    assert len(shown) > 5
    faint = {t.get_text(): contrast(t.get_color(), ground) for t in shown}
    assert {text: c for text, c in faint.items() if c < 3} == {}

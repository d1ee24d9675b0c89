"""What `lens` and a trace show of themselves: in a terminal and in a notebook."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf
from lensframe_pd import glance
from lensframe_pd.accessor import ActivationsAccessor, LayersAccessor


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    return lf.trace(model, torch.rand(2, 3, 8, 8), stimulus=["a", "b"])


class Tags(HTMLParser):
    """Raises where what is opened is not shut."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize(
    ("table", "accessor"), [("layers", LayersAccessor), ("activations", ActivationsAccessor)]
)
def test_every_verb_is_shown_once_by_purpose(trace, table, accessor):
    verbs = [
        "lens[name]" if name == "__getitem__" else name
        for name, method in vars(accessor).items()
        if hasattr(method, "__wrapped__")
    ]
    lens = getattr(trace, table).lens
    shown = [
        name
        for line in repr(lens).splitlines()
        if (purpose := line.partition("  ")[0]) in glance.purposes(accessor)
        for name in line.removeprefix(purpose).strip().split(", ")
    ]
    assert sorted(shown) == sorted(verbs)
    html = lens._repr_html_()
    assert [name for name in verbs if html.count(f">{name}</code>") != 1] == []


def test_layers_show_what_is_looked_for_first(trace):
    lines = repr(trace.layers.lens).splitlines()
    assert lines[0].startswith("Sequential: 6 rows, 6 layers")
    assert lines[2].split() == ["func", "module", "shape_str", "parents", "n_params", "seconds"]
    assert lines[5].split()[:6] == ["conv2d_1", "conv2d", "0", "2x4x6x6", "(input_1,)", "112"]


def test_activations_show_axes_and_read_no_value(trace):
    lines = repr(trace.activations.lens).splitlines()
    assert lines[0].startswith("6 values, 2 stimuli, ")
    assert "stimulus, channel_4, y_6, x_6" in lines[5]
    assert lines[5].split()[-2:] == ["2x4x6x6", "float32"]

    class Unread(xr.backends.BackendArray):
        shape, dtype = (2, 3), np.dtype("float32")

        def __getitem__(self, key):
            raise AssertionError("read")

    lazy = xr.Variable(("stimulus", "feature_3"), xr.core.indexing.LazilyIndexedArray(Unread()))
    assert "2x3" in repr(xr.Dataset({"linear_1": lazy}).lens)


def test_a_long_table_is_short():
    layers, activations = lf.trace(lambda x: [x := x + 1 for _ in range(500)][-1], torch.ones(2))
    for table in (layers, activations):
        assert len(repr(table.lens).splitlines()) < 30
        assert len(table.lens._repr_html_()) < 20_000
    assert "..." in repr(layers.lens)


FRAMES = {
    "none": pd.DataFrame(),
    "rows only": pd.DataFrame(index=[1, 2]),
    "other columns": pd.DataFrame({"a": [1], "b": ["x"]}),
    "twice": pd.DataFrame([[1, "a"]], columns=["seconds", "seconds"]),
    "other cells": pd.DataFrame({"seconds": ["x"], "layer": [[1]], "module": [2], "func": [None]}),
    "missing": pd.DataFrame({"seconds": [np.nan, 1.0], "func": ["a", None]}),
    "numbers": pd.DataFrame({0: [1], 1: [2]}),
    "levels": pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_any_frame_has_something_to_show(frame):
    assert "select rows" in repr(frame.lens)
    Tags(frame.lens._repr_html_())


@pytest.mark.parametrize(
    "call", ["roll()", "collapse('auto')", "collapse(1)", "edges()", "profile()", "summary()"]
)
def test_frames_of_verbs_show_themselves(trace, call):
    frame = eval(f"lens.{call}", {"lens": trace.layers.lens})
    assert f"{len(frame)} rows" in repr(frame.lens)
    Tags(frame.lens._repr_html_())


def test_an_empty_dataset():
    for dataset in (xr.Dataset(), xr.Dataset({"x": 1.0})):
        assert "analyse" in repr(dataset.lens)
        Tags(dataset.lens._repr_html_())


def test_a_trace_in_a_notebook(trace):
    text = " ".join(Tags(trace._repr_html_()).text)
    assert "Trace of Sequential: Sequential: 6 rows" not in text
    for word in ("Trace of Sequential", "6 rows", "layers, activations = trace", "Tensor 2x5"):
        assert word in text
    empty = lf.trace(nn.Identity().eval(), {"input": torch.ones(2)}, save=None)
    Tags(empty._repr_html_())


def test_labels_and_names_are_text_in_html():
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(2, 2))
    trace = lf.trace(model.eval(), torch.ones(1, 2))
    for html in (trace._repr_html_(), trace.layers.lens._repr_html_()):
        assert "<b>" not in html.replace("<p><b>", "")
        assert "&lt;b&gt;" in html

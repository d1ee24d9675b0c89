"""Colours, legend, caption, and the columns that set them."""

import re

import numpy as np
import pandas as pd
import pytest

import lensframe_pd as lf
from lensframe_pd.draw import render, style
from lensframe_pd.draw.dot import dot

from .drawn import read_back


def test_kinds_and_parameters_have_their_colours(recurrent):
    recurrent.loc["zeros_1", "kind"] = "constant"
    recurrent.loc["add_1:2", "kind"] = "alias"
    nodes, _, _ = read_back(dot(recurrent))
    colours = {label: node.get("fillcolor", "plain") for label, node in nodes.items()}
    alike = [
        {"input_1"}, {"output_1"}, {"zeros_1"}, {"add_1:2"},
        {"linear_1:1", "linear_1:2", "mul_1"}, {"add_1:1", "relu_1", "sum_1"},
    ]  # fmt: skip
    groups = pd.Series(colours).groupby(pd.Series(colours)).apply(lambda g: frozenset(g.index))
    assert set(groups) == {frozenset(group) for group in alike}


def test_a_colour_of_the_user_goes_before_that_of_the_kind(recurrent):
    own, _, _ = read_back(dot(recurrent))
    shown = recurrent.assign(color=pd.Series({"input_1": "#ff0000", "add_1:1": "tomato"}))
    nodes, _, _ = read_back(dot(shown))
    colours = {label: node.get("fillcolor", "plain") for label, node in nodes.items()}
    expected = {label: node.get("fillcolor", "plain") for label, node in own.items()}
    assert colours == expected | {"input_1": "#ff0000", "add_1:1": "tomato"}


def test_frozen_parameters_have_another_colour(traced):
    frozen = traced.assign(n_trainable=0)
    nodes, _, _ = read_back(dot(frozen))
    usual, _, _ = read_back(dot(traced))
    assert nodes["linear_1:1"]["fillcolor"] != usual["linear_1:1"]["fillcolor"]
    assert "has frozen parameters" in dot(frozen)


def test_caption_and_legend(traced):
    source = dot(traced)
    assert f"Recurrent, {len(traced)} rows, 46 parameters" in source
    for words in ("input", "output", "has trainable parameters", "steers the control flow"):
        assert words in source
    assert "constant" not in source.split("legend [")[1]


@pytest.mark.parametrize("shown", ["all", "rolled", "collapsed"])
def test_a_picture_does_not_read_attrs(traced, shown, tmp_path):
    show = {
        "all": lambda frame: frame,
        "rolled": lambda frame: frame.lens.roll(),
        "collapsed": lambda frame: frame.lens.collapse(depth=1),
    }[shown]
    expected = dot(show(traced))
    traced.to_parquet(tmp_path / "layers.parquet")
    read = pd.read_parquet(tmp_path / "layers.parquet")
    cleared = traced.copy()
    for frame in (read, cleared):
        frame.attrs = {}
        assert dot(show(frame)) == expected
        frame.attrs = {"model": "another"}
        assert dot(show(frame)) == expected
    assert "<Recurrent, " in expected


def test_the_caption_has_units(traced):
    source = dot(traced.assign(seconds=4.75 / len(traced)))
    assert "4.75 s>" in source
    source = dot(traced.assign(seconds=25e-6 / len(traced)))
    assert "25 µs>" in source


def test_a_scale_has_units(traced):
    timed = traced.assign(seconds=np.linspace(25e-6, 4.75, len(traced)))
    assert "25 µs to 4.75 s" in dot(timed, color="seconds")
    sized = traced.assign(nbytes=np.linspace(0, 1814073344, len(traced)).astype(int))
    assert "0 B to 1.81 GB" in dot(sized, color="nbytes")


def test_numbers_colour_on_a_scale_with_a_bar(traced):
    nodes, _, _ = read_back(dot(traced, color="numel"))
    colours = pd.Series({op: node["fillcolor"] for op, node in nodes.items()})
    assert colours.nunique() == traced["numel"].nunique()
    source = dot(traced, color="numel")
    assert f"{traced['numel'].min():.3g} to {traced['numel'].max():.3g}" in source
    light = nodes[traced["numel"].idxmax()]["fontcolor"]
    dark = nodes[traced["numel"].idxmin()]["fontcolor"]
    assert light != dark


def test_values_colour_one_each(traced):
    nodes, _, _ = read_back(dot(traced, color="func"))
    colours = pd.Series({op: node["fillcolor"] for op, node in nodes.items()})
    few = traced["func"].isin(["linear", "tanh", "sub"])
    assert colours[few].groupby(traced["func"][few]).nunique().eq(1).all()
    assert colours[few].nunique() == 3


def test_columns_give_any_attribute(traced):
    styled = traced.assign(
        width_=np.where(traced["func"] == "tanh", 3.0, np.nan), name=traced.index
    )
    nodes, _, _ = read_back(dot(styled, penwidth="width_", label="name"))
    assert nodes["tanh_1:2"]["penwidth"] == "3.0"
    assert nodes["linear_1:1"]["label"] == "linear_1:1"
    with pytest.raises(lf.LensKeyError, match="no node attribute 'penwidht'; did you mean"):
        styled.lens.draw(penwidht="width_")
    for other, ours in {"time": "seconds", "Type": "module_type", "parameters": "n_params"}.items():
        with pytest.raises(lf.LensKeyError, match=f"draw by '{other}'; it is '{ours}' here"):
            traced.lens.draw(color=other)
    with pytest.raises(lf.LensKeyError, match=r"layers\.lens\.costs\(\) adds them"):
        traced.lens.draw(color="flops")
    with pytest.raises(lf.LensKeyError, match=r"is a colour: .*layers\.assign\(color='red'\)"):
        traced.lens.draw(color="red")
    for option, words in {
        "depth": r"layers\.lens\.collapse\(depth\)", "rankdir": 'direction="right"',
        "format": "the suffix of the path", "figsize": "scale= sizes the picture",
    }.items():  # fmt: skip
        with pytest.raises(lf.LensKeyError, match=f"no node attribute '{option}'(?s:.)*{words}"):
            traced.lens.draw(**{option: "1"})
    with pytest.raises(lf.LensKeyError, match="no column to draw by 'second'; did you mean"):
        styled.lens.draw(color="second")


def test_the_dark_look_restyles_what_has_the_colours_of_edges():
    """The rules for dark pages name colours; what is drawn must have them, loops others."""
    assert {style.EDGE["color"], style.FAINT} <= {*re.findall(r"#[0-9a-f]{6}", render._DARK)}
    assert style.CARRIED["color"] not in render._DARK

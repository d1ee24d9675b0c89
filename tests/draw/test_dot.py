"""A drawing has the frame's rows as nodes and the frame's parents as edges, and nothing else.

The DOT text is read back by Graphviz itself (its JSON output), not by us.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sysconfig
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lensframe_pd as lf
from lensframe_pd.draw.dot import dot
from lensframe_pd.draw.render import Drawing

PURE = shutil.which("graphviz-pure", path=sysconfig.get_path("scripts"))
PNG = b"\x89PNG\r\n\x1a\n"


def rows(*cells):
    """(op, kind, shape_str, module, module_stack, parents, params) as a frame."""
    names = ["op", "kind", "shape_str", "module", "module_stack", "parents", "params"]
    return pd.DataFrame(list(cells), columns=names).set_index("op")


@pytest.fixture
def recurrent():
    """Two steps of `h = tanh(read(x[t]) + h)`, then a block of two ops called once."""
    read = ("read.weight", "read.bias")
    return rows(
        ("input_1", "input", "2x2x3", "", (), (), ()),
        ("zeros_1", "op", "2x4", "", (), (), ()),
        ("linear_1:1", "op", "2x4", "read", ("read:1",), ("input_1",), read),
        ("add_1:1", "op", "2x4", "", (), ("linear_1:1", "zeros_1"), ()),
        ("linear_1:2", "op", "2x4", "read", ("read:2",), ("input_1",), read),
        ("add_1:2", "op", "2x4", "", (), ("linear_1:2", "add_1:1"), ()),
        ("mul_1", "op", "2x4", "head", ("head:1",), ("add_1:2", "add_1:2"), ("scale",)),
        ("relu_1", "op", "2x4", "head.act", ("head:1", "head.act:1"), ("mul_1",), ()),
        ("sum_1", "op", "", "", (), ("relu_1",), ()),
        ("output_1", "output", "", "", (), ("sum_1",), ()),
    )


EDGES = [
    ("input_1", "linear_1:1"),
    ("linear_1:1", "add_1:1"),
    ("zeros_1", "add_1:1"),
    ("input_1", "linear_1:2"),
    ("linear_1:2", "add_1:2"),
    ("add_1:1", "add_1:2"),
    ("add_1:2", "mul_1"),
    ("add_1:2", "mul_1"),  # as both arguments
    ("mul_1", "relu_1"),
    ("relu_1", "sum_1"),
    ("sum_1", "output_1"),
]


def read_back(source):
    """Nodes (label to attributes), edges (pairs of labels, sorted) and boxes (text to labels)."""
    done = subprocess.run([PURE, "-Tdot_json"], input=source.encode(), capture_output=True)
    assert done.returncode == 0
    assert b"rror" not in done.stderr
    graph = json.loads(done.stdout)
    objects = graph.get("objects", [])
    labels = {o["_gvid"]: o["id"].replace("\\\\", "\\") for o in objects if "id" in o}
    nodes = {labels[o["_gvid"]]: o for o in objects if "id" in o}
    edges = [(labels[e["tail"]], labels[e["head"]]) for e in graph.get("edges", [])]
    boxes = {
        html.unescape(re.sub("<[^>]*>", "", o["label"])): {labels[k] for k in o["nodes"]}
        for o in objects
        if "nodes" in o
    }
    return nodes, sorted(edges), boxes


def text(node):
    """The lines of a node's label."""
    return [html.unescape(re.sub("<[^>]*>", "", line)) for line in node["label"].split("<BR/>")]


def test_nodes_and_edges_are_the_rows_and_their_parents(recurrent):
    nodes, edges, _ = read_back(dot(recurrent))
    assert set(nodes) == set(recurrent.index)
    assert edges == sorted(EDGES)


def test_a_label_with_a_pass_is_one_node_not_a_port(recurrent):
    picked = recurrent.loc[["linear_1:1", "linear_1:2", "add_1:2"]]
    nodes, edges, _ = read_back(dot(picked))
    assert list(nodes) == ["linear_1:1", "linear_1:2", "add_1:2"]
    assert edges == [("linear_1:2", "add_1:2")]


def test_edges_keep_both_ends_in_the_frame(recurrent):
    for n in range(1, len(recurrent)):
        head = recurrent.head(n)
        _, edges, _ = read_back(dot(head))
        inside = [(a, b) for a, b in EDGES if a in head.index and b in head.index]
        assert edges == sorted(inside)


def test_edges_may_lead_back_and_to_the_row_itself():
    loop = rows(
        ("tanh_1", "op", "4", "", (), ("add_1",), ()),
        ("add_1", "op", "4", "", (), ("tanh_1", "add_1"), ()),
    )
    assert read_back(dot(loop))[1] == [
        ("add_1", "add_1"),
        ("add_1", "tanh_1"),
        ("tanh_1", "add_1"),
    ]


def test_label_says_op_shape_module_and_parameters(recurrent):
    nodes, _, _ = read_back(dot(recurrent))
    assert text(nodes["input_1"]) == ["input_1", "2x2x3"]
    assert text(nodes["linear_1:2"]) == ["linear_1:2", "2x4", "read", "weight, bias"]
    assert text(nodes["sum_1"]) == ["sum_1", "scalar"]
    # The box around them says `head`; `scale` belongs to the model itself.
    assert text(nodes["mul_1"]) == ["mul_1", "2x4", "scale"]
    assert text(nodes["relu_1"]) == ["relu_1", "2x4", "act"]


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


def test_boxes_are_the_calls_that_hold_several_rows():
    nest = rows(
        ("a_1", "op", "1", "enc.0.fc", ("enc:1", "enc.0:1", "enc.0.fc:1"), (), ()),
        ("b_1", "op", "1", "enc.0", ("enc:1", "enc.0:1"), ("a_1",), ()),
        ("c_1", "op", "1", "enc.1", ("enc:1", "enc.1:1"), ("b_1",), ()),
        ("d_1", "op", "1", "wrap.0", ("wrap:1", "wrap.0:1"), ("c_1",), ()),
        ("e_1", "op", "1", "wrap.0", ("wrap:1", "wrap.0:1"), ("d_1",), ()),
    )
    nodes, _, boxes = read_back(dot(nest))
    assert boxes == {
        "enc": {"a_1", "b_1", "c_1"},
        "enc.0": {"a_1", "b_1"},
        "wrap.0": {"d_1", "e_1"},  # `wrap` holds nothing else
    }
    assert text(nodes["a_1"])[2:] == ["fc"]
    assert text(nodes["c_1"])[2:] == ["1"]


def test_each_call_of_a_module_is_a_box():
    twice = rows(
        ("a_1:1", "op", "1", "enc", ("enc:1",), (), ()),
        ("b_1:1", "op", "1", "enc", ("enc:1",), ("a_1:1",), ()),
        ("a_1:2", "op", "1", "enc", ("enc:2",), ("b_1:1",), ()),
        ("b_1:2", "op", "1", "enc", ("enc:2",), ("a_1:2",), ()),
    )
    assert read_back(dot(twice))[2] == {
        "enc, call 1": {"a_1:1", "b_1:1"},
        "enc, call 2": {"a_1:2", "b_1:2"},
    }
    for call in (slice(0, 2), slice(2, 4)):
        assert len(read_back(dot(twice.iloc[call]))[2]) == 1


@pytest.mark.parametrize("cell", [list, lambda t: np.array(t, dtype=object)], ids=["list", "array"])
def test_cells_read_from_a_file_draw_the_same(recurrent, cell):
    again = recurrent.copy()
    for column in ("parents", "params", "module_stack"):
        again[column] = [cell(c) for c in again[column]]
    assert dot(again) == dot(recurrent)


def without_tooltips(source):
    return re.sub(r'tooltip="[^"]*"', "", source)


def test_labels_are_found_after_the_index_was_lost(recurrent):
    expected = without_tooltips(dot(recurrent))
    assert without_tooltips(dot(recurrent.reset_index())) == expected
    parts = recurrent.index.str.split(":")
    merged = recurrent.assign(
        layer=parts.str[0],
        pass_num=parts.str[1].fillna("1").astype(int),
        n_passes=(parts.str.len() > 1) + 1,
    ).reset_index(drop=True)
    assert without_tooltips(dot(merged)) == expected


NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=6)


@st.composite
def graphs(draw_from):
    labels = draw_from(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    modules = draw_from(st.lists(NAMES.filter(lambda n: "." not in n), min_size=1, max_size=2))
    cells = []
    for i, label in enumerate(labels):
        depth = draw_from(st.integers(0, len(modules)))
        path = ".".join(modules[:depth])
        stack = tuple(f"{'.'.join(modules[: k + 1])}:1" for k in range(depth))
        parents = tuple(draw_from(st.lists(st.sampled_from(labels[: i + 1]), max_size=3)))
        cells.append((label, "op", "1", path, stack, parents, tuple(modules)))
    return rows(*cells)


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_any_text_may_be_a_name(frame):
    nodes, edges, _ = read_back(dot(frame))
    assert set(nodes) == set(frame.index)
    assert edges == sorted((p, label) for label, ps in frame["parents"].items() for p in ps)
    assert [text(nodes[label])[0] for label in frame.index] == list(frame.index)


@pytest.fixture
def no_dot(monkeypatch, tmp_path):
    """A PATH without Graphviz."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def some_dot(monkeypatch, tmp_path):
    """A `dot` on PATH that notes how it was called and hands over to graphviz-pure."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "dot"
    script.write_text(f'#!/bin/sh\necho "$@" > "{folder}/called"\nexec "{PURE}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "called"


def test_pictures_without_graphviz(recurrent, no_dot, tmp_path):
    drawing = recurrent.lens.draw(tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(PNG)
    svg = drawing.save(tmp_path / "net.svg").read_text()
    assert svg.count('class="node"') == 10 + 1  # the legend
    assert svg.count('class="edge"') == 11
    assert 'id="linear_1:2"' in svg
    assert drawing._repr_svg_() == svg


def test_graphviz_on_path_goes_first(recurrent, some_dot, tmp_path):
    recurrent.lens.draw(str(tmp_path / "net.svg"))
    assert some_dot.read_text() == "-Tsvg\n"
    assert (tmp_path / "net.svg").read_text().count('class="node"') == 10 + 1


def test_pdf_needs_graphviz(recurrent, no_dot, tmp_path):
    with pytest.raises(lf.LensRuntimeError, match="nothing here can draw pdf: install Graphviz"):
        recurrent.lens.draw(tmp_path / "net.pdf")


def test_nothing_to_draw_with(recurrent, no_dot, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(lf.LensRuntimeError, match="pip install graphviz-pure"):
        recurrent.lens.draw()._repr_svg_()


def test_a_failing_program_is_quoted(no_dot):
    with pytest.raises(lf.LensRuntimeError, match="syntax error"):
        Drawing("digraph {").render("svg")


def test_text_files(recurrent, no_dot, tmp_path):
    for name in ("net.gv", "net.DOT"):
        drawing = recurrent.lens.draw(tmp_path / name)
        assert (tmp_path / name).read_text() == drawing.source


@pytest.mark.parametrize("name", ["net.bmp", "net"])
def test_unknown_suffix(recurrent, tmp_path, name):
    with pytest.raises(lf.LensValueError, match=r"suffix must be one of \.svg, \.png, \.pdf"):
        recurrent.lens.draw(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_missing_columns_are_named_together(recurrent):
    with pytest.raises(lf.LensKeyError) as caught:
        recurrent.drop(columns=["parents", "kind"]).lens.draw()
    assert "draw needs column 'kind'" in str(caught.value)
    assert "draw needs column 'parents'" in str(caught.value)


def test_no_rows(recurrent):
    with pytest.raises(lf.LensValueError, match="no rows"):
        recurrent.head(0).lens.draw()


def test_two_traces_in_one_frame(recurrent):
    with pytest.raises(lf.LensValueError, match=r"'input_1', .* more than once"):
        pd.concat([recurrent, recurrent]).lens.draw()


def test_sequences_turned_to_text(recurrent):
    recurrent["parents"] = recurrent["parents"].astype(str)
    with pytest.raises(lf.LensTypeError, match=r"parents holds '\(\)'.*to_parquet"):
        recurrent.lens.draw()


def test_drawing_leaves_the_frame_alone(recurrent):
    before = recurrent.copy(deep=True)
    recurrent.lens.draw()
    pd.testing.assert_frame_equal(recurrent, before)


# --------------------------------------------------- of whole traces, with all columns


class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.read = torch.nn.Linear(3, 4)
        self.keep = torch.nn.Linear(4, 4)

    def forward(self, x, h):
        return torch.tanh(self.read(x) - self.keep(h))


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Cell()
        self.head = torch.nn.Conv1d(4, 2, 1, stride=1, padding=2)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if h.sum() > -100:
                h = h * 0.5
        return self.head(h[..., None])


@pytest.fixture(scope="module")
def traced():
    with torch.no_grad():
        return lf.trace(Recurrent().eval(), torch.rand(2, 3, 3)).layers


def edge_labels(source):
    """(source, target, label) of every edge, as Graphviz reads it."""
    done = subprocess.run([PURE, "-Tdot_json"], input=source.encode(), capture_output=True)
    graph = json.loads(done.stdout)
    labels = {o["_gvid"]: o.get("id", "") for o in graph["objects"]}
    return sorted(
        (labels[e["tail"]], labels[e["head"]], e.get("label", "").strip()) for e in graph["edges"]
    )


@pytest.mark.parametrize(
    "view",
    [
        lambda f: f,
        lambda f: f.lens.roll(),
        lambda f: f.lens.collapse(depth=1),
        lambda f: f.lens.roll().lens.collapse(depth=1),
        lambda f: f.lens.keep(f["func"].isin(["input", "linear", "output"])),
        lambda f: f.lens.find("cell:2"),
        lambda f: f.iloc[7:15],
    ],
)
def test_every_edge_of_the_frame_is_drawn_once(traced, view):
    frame = view(traced)
    nodes, drawn, _ = read_back(dot(frame))
    table = frame.lens.edges()
    inside = table[table["source"].isin(frame.index)]
    assert list(nodes) == list(frame.index) or set(nodes) == set(frame.index)
    assert drawn == sorted(zip(inside["source"], inside["target"], strict=True))


def test_arguments_are_named_where_order_matters(traced):
    labels = edge_labels(dot(traced))
    assert ("linear_1:1", "sub_1:1", "input") in labels
    assert ("linear_2:1", "sub_1:1", "other") in labels
    assert ("sub_1:1", "tanh_1:1", "") in labels


def test_loops_show_their_passes(traced):
    rolled = traced.lens.roll()
    labels = edge_labels(dot(rolled))
    assert ("mul_1", "linear_2", "1-2 to 2-3") in labels
    assert ("new_zeros_1", "linear_2", "pass 1") in labels
    assert ("mul_1", "getitem_2", "pass 3") in labels
    nodes, _, boxes = read_back(dot(rolled))
    assert text(nodes["tanh_1"])[0] == "tanh_1 (x3)"
    assert set(boxes) == {"cell (Cell)"}
    assert "carried round a loop" in dot(rolled)
    assert "carried round a loop" not in dot(traced)


def test_a_collapsed_loop_is_drawn_to_itself(traced):
    small = traced.lens.roll().lens.collapse(depth=1)
    assert ("mul_1", "cell", "1-2 to 2-3") in edge_labels(dot(small))
    nodes, _, _ = read_back(dot(small))
    assert text(nodes["cell"])[:2] == ["cell (x3)", "Cell"]
    assert text(nodes["cell"])[-1] == "36 parameters"


def test_nodes_say_bytes_parameters_settings_and_decisions(traced):
    nodes, _, _ = read_back(dot(traced))
    assert text(nodes["conv1d_1"]) == [
        "conv1d_1", "2x2x5, 80 B", "head", "weight 2x4x1, bias 2", "padding=2",
    ]  # fmt: skip
    line = traced.loc["gt_1:1", "read_by"][0]
    assert text(nodes["gt_1:1"])[-1] == f"read by {line}"
    assert nodes["gt_1:1"]["penwidth"] == "2"
    assert text(nodes["getitem_1:2"])[-1] == "idx=[:, 1]"


def test_own_operations_have_square_corners(traced):
    nodes, _, _ = read_back(dot(traced))
    assert nodes["tanh_1:1"]["style"] == nodes["linear_1:1"]["style"] == "filled"
    assert "style" not in nodes["sub_1:1"] or "rounded" in nodes["sub_1:1"]["style"]


def test_frozen_parameters_have_another_colour(traced):
    frozen = traced.assign(n_trainable=0)
    nodes, _, _ = read_back(dot(frozen))
    usual, _, _ = read_back(dot(traced))
    assert nodes["linear_1:1"]["fillcolor"] != usual["linear_1:1"]["fillcolor"]
    assert "has frozen parameters" in dot(frozen)


def test_tooltips_hold_the_row(traced):
    nodes, _, _ = read_back(dot(traced))
    tooltip = nodes["conv1d_1"]["tooltip"]
    for cell in ("target: torch.conv1d", "module: head", traced.loc["conv1d_1", "source"]):
        assert cell in tooltip


def test_caption_and_legend(traced):
    source = dot(traced)
    assert f"Recurrent, {len(traced)} rows, 46 parameters" in source
    for words in ("input", "output", "has trainable parameters", "steers the control flow"):
        assert words in source
    assert "constant" not in source.split("legend [")[1]


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
    with pytest.raises(lf.LensKeyError, match="no column to draw by 'second'; did you mean"):
        styled.lens.draw(color="second")


def test_pictures_can_be_read_on_a_dark_page(traced, tmp_path):
    svg = traced.lens.draw(tmp_path / "net.svg")._repr_svg_()
    assert "prefers-color-scheme: dark" in svg
    assert svg.count("<svg") == svg.count("</svg>") == 1


def chain(n):
    ops = [f"sin_{i}" for i in range(1, n + 1)]
    cells = [
        (op, "op", "1", f"b.{i // 50}", (f"b.{i // 50}:1",), (ops[i - 1],) if i else (), ())
        for i, op in enumerate(ops)
    ]
    return rows(*cells)


def test_too_many_rows_are_refused_at_once_with_advice(tmp_path):
    frame = chain(6000)
    drawing = frame.lens.draw()
    assert drawing.source.count("->") == 5999
    with pytest.raises(lf.LensValueError, match=r"collapse\(depth=1\) leaves 120"):
        drawing.save(tmp_path / "net.svg")


def test_three_thousand_rows_are_drawn(tmp_path):
    svg = chain(3000).lens.draw(tmp_path / "net.svg").render("svg")
    assert svg.count(b'class="node"') == 3000

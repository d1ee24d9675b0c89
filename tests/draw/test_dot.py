"""A drawing has the frame's rows as nodes and the frame's parents as edges, and nothing else."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lensframe_pd as lf
from lensframe_pd.draw.dot import dot

from .drawn import edge_labels, read_back, rows, text

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


def test_nodes_and_edges_are_the_rows_and_their_parents(recurrent):
    nodes, edges, _ = read_back(dot(recurrent))
    assert set(nodes) == set(recurrent.index)
    assert edges == sorted(EDGES)


@pytest.mark.parametrize(("n", "drawn"), [(2, 2), (16, 16), (17, 1), (5000, 1)])
def test_very_many_edges_between_two_nodes_are_one(n, drawn):
    parents = tuple(k for _ in range(n) for k in ("add_1", "mul_1"))[: 2 * n - 1]  # one less of mul
    frame = rows(
        ("add_1", "op", "4", "", (), (), ()),
        ("mul_1", "op", "4", "", (), (), ()),
        ("stack_1", "op", "4", "", (), parents, ()),
        ("sum_1", "op", "4", "", (), ("stack_1",), ()),
    )
    found = edge_labels(dot(frame))
    assert [edge[:2] for edge in found].count(("add_1", "stack_1")) == drawn
    assert [edge[:2] for edge in found].count(("sum_1", "stack_1")) == 0
    assert ("stack_1", "sum_1", "") in found
    said = {edge for edge in found if edge[2].endswith("edges")}
    expected = {("add_1", "stack_1", f"{n:,} edges"), ("mul_1", "stack_1", f"{n - 1:,} edges")}
    assert said == ({edge for edge in expected if edge[2] != "16 edges"} if n > 16 else set())


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

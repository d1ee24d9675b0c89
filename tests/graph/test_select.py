"""Frame verbs, each against an expectation written in plain pandas or by hand."""

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.fc(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(3, 4)
        self.keep = nn.Linear(4, 4)

    def forward(self, x, h):
        return torch.tanh(self.read(x) + self.keep(h))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = Cell()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if t == 2:
                h = h * 2
        return self.head(h)


@pytest.fixture(scope="module")
def net():
    return lf.trace(Net().eval(), torch.rand(5, 3)).layers


@pytest.fixture(scope="module")
def recurrent():
    return lf.trace(Recurrent().eval(), torch.rand(2, 5, 3)).layers


# --------------------------------------------------------------- edges and paths


def test_edges_are_the_exploded_parents(net):
    exploded = net[["parents", "parent_args"]].explode(["parents", "parent_args"]).dropna()
    edges = net.lens.edges()
    assert edges["target"].tolist() == exploded.index.tolist()
    assert edges["source"].tolist() == exploded["parents"].tolist()
    assert edges["arg"].tolist() == exploded["parent_args"].tolist()
    assert set(edges["passes"]) == {"1>1"}


def test_edges_name_the_passes(recurrent):
    edges = recurrent.lens.edges()
    loop = edges[(edges["source"] == "tanh_1:1") & edges["target"].str.startswith("linear_2")]
    assert loop[["target", "arg", "passes"]].values.tolist() == [["linear_2:2", "input", "1>2"]]


def test_ancestors_and_descendants_are_those_of_networkx(net, recurrent):
    for frame in (net, recurrent):
        graph = networkx.DiGraph()
        graph.add_nodes_from(frame.index)
        graph.add_edges_from((p, op) for op, parents in frame["parents"].items() for p in parents)
        for op in frame.index:
            assert set(frame.lens.ancestors(op).index) == networkx.ancestors(graph, op)
            assert set(frame.lens.descendants(op).index) == networkx.descendants(graph, op)


def test_between_is_what_lies_on_a_path(net):
    found = net.lens.between("linear_1", "add_1")
    assert found.index.tolist() == ["linear_1", "linear_2", "relu_1", "add_1"]
    with pytest.raises(lf.LensValueError, match="no path leads from 'add_1' to 'linear_1'"):
        net.lens.between("add_1", "linear_1")


def test_find_by_label_layer_and_module(net, recurrent):
    assert net.lens.find("relu_2").index.tolist() == ["relu_2"]
    inside = net[[any(c.startswith("blocks.1:") for c in s) for s in net["module_stack"]]]
    assert net.lens.find("blocks.1").index.tolist() == inside.index.tolist()
    assert len(inside) == 3
    assert len(recurrent.lens.find("tanh_1")) == 5
    assert recurrent.lens.find("cell:2").index.tolist() == [
        "linear_1:2", "linear_2:2", "add_1:2", "tanh_1:2",
    ]  # fmt: skip
    with pytest.raises(lf.LensKeyError, match=r"did you mean 'blocks\.1'"):
        net.lens.find("block.1")


def test_keep_connects_through_what_is_dropped(net):
    kept = net.lens.keep(net["func"].isin(["input", "linear", "output"]))
    assert kept["parents"].to_dict() == {
        "input_1": (),
        "linear_1": ("input_1",),
        "linear_2": ("linear_1",),
        "linear_3": ("linear_1", "linear_2"),
        "linear_4": ("linear_1", "linear_2", "linear_3"),
        "output_1": ("linear_4",),
    }
    assert kept["n_parents"].tolist() == [len(p) for p in kept["parents"]]
    assert net.lens.keep(lambda rows: rows["func"] == "relu")["parents"].tolist() == [
        (), ("relu_1",),
    ]  # fmt: skip
    pd.testing.assert_frame_equal(net.lens.keep(np.ones(len(net), bool)), net)


def test_keep_leaves_edges_to_rows_that_were_gone_before(net):
    part = net.loc["linear_2":"add_1"]
    kept = part.lens.keep(part["func"] == "add")
    assert kept.loc["add_1", "parents"] == ("linear_1", "linear_1")  # beside the block and into it
    assert kept.loc["add_1", "parent_args"] == ("input", "other")


def test_keep_on_a_rolled_loop_ends(recurrent):
    rolled = recurrent.lens.roll()
    kept = rolled.lens.keep(rolled["func"].isin(["input", "tanh"]))
    assert set(kept.loc["tanh_1", "parents"]) == {"input_1", "tanh_1"}


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True], "1 values for 10 rows"),
        (["yes"] * 10, "not boolean"),
        (pd.Series([True], index=["relu_1"]), "no value for 9 of 10"),
    ],
)
def test_wrong_masks(net, mask, error):
    assert len(net) == 10
    with pytest.raises(lf.LensError, match=error):
        net.lens.keep(mask)


def test_diff_of_two_ways_through_a_model():
    def model(x, deep):
        x = x.exp()
        return x.sin().cos() if deep else x.cos()

    deep = lf.trace(model, (torch.ones(2), True)).layers
    flat = lf.trace(model, (torch.ones(2), False)).layers
    found = deep.lens.diff(flat)
    assert list(zip(found.index, found["side"], found["differs"], strict=True)) == [
        ("sin_1", "this", ()),
        ("cos_1", "this", ("parents",)),
        ("cos_1", "other", ("parents",)),
    ]
    assert deep.lens.diff(deep).empty


def test_networkx_has_columns_and_arguments(net):
    graph = net.lens.to_networkx()
    assert list(graph) == net.index.tolist()
    assert graph.nodes["linear_1"]["params"] == ("stem.weight", "stem.bias")
    assert {d["arg"] for _, _, d in graph.in_edges("add_1", data=True)} == {"input", "other"}
    assert graph.number_of_edges() == net["n_parents"].sum()


# ------------------------------------------------------------------ roll, unroll


def test_roll_gives_a_row_per_layer(recurrent):
    rolled = recurrent.lens.roll()
    firsts = recurrent.drop_duplicates("layer")
    assert rolled.index.tolist() == firsts["layer"].tolist()
    grouped = recurrent.groupby("layer")
    for column in ("seconds", "nbytes", "numel"):
        pd.testing.assert_series_equal(
            rolled[column].sort_index(), grouped[column].sum(), check_names=False
        )
    assert rolled["n_passes"].to_dict() == grouped.size().to_dict()
    cell = rolled.loc["linear_2"]
    assert cell["parents"] == ("new_zeros_1", "tanh_1", "mul_1")
    assert cell["parent_passes"] == ("1>1", "1-2,4>2-3,5", "1>4")


def test_unroll_gives_the_frame_back(recurrent):
    rolled = recurrent.assign(note=range(len(recurrent))).lens.roll()
    pd.testing.assert_frame_equal(rolled.lens.unroll().drop(columns="note"), recurrent)
    part = rolled.loc[["tanh_1", "mul_1"]].lens.unroll()
    pd.testing.assert_frame_equal(part[recurrent.columns], recurrent.loc[part.index])


def test_a_frame_without_loops_is_not_changed(net):
    pd.testing.assert_frame_equal(net.lens.roll(), net)
    pd.testing.assert_frame_equal(net.lens.unroll(), net)


def test_rolling_survives_parquet(recurrent, tmp_path):
    recurrent.lens.roll().to_parquet(tmp_path / "rolled.parquet")
    back = pd.read_parquet(tmp_path / "rolled.parquet").lens.unroll()
    pd.testing.assert_frame_equal(back, recurrent)


def test_what_cannot_be_rolled(recurrent):
    rolled = recurrent.lens.roll()
    with pytest.raises(lf.LensValueError, match="rolled already"):
        rolled.lens.roll()
    with pytest.raises(lf.LensTypeError, match="column 'mine' holds object"):
        recurrent.assign(mine=[object() for _ in range(len(recurrent))]).lens.roll()
    with pytest.raises(lf.LensValueError, match=r"unroll\(\) first"):
        rolled.lens.collapse(depth=1).lens.unroll()


@st.composite
def graphs(draw):
    """A frame of random layers and passes with random earlier parents."""
    n = draw(st.integers(1, 14))
    funcs = draw(st.lists(st.sampled_from(["add", "mul", "tanh"]), min_size=n, max_size=n))
    numbers = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    layers = [f"{f}_{k}" for f, k in zip(funcs, numbers, strict=True)]
    pass_nums = [layers[: i + 1].count(layer) for i, layer in enumerate(layers)]
    n_passes = [layers.count(layer) for layer in layers]
    ops = [
        layer if total == 1 else f"{layer}:{p}"
        for layer, p, total in zip(layers, pass_nums, n_passes, strict=True)
    ]
    parents = [
        tuple(draw(st.lists(st.sampled_from(ops[:i]), max_size=3))) if i else () for i in range(n)
    ]
    return pd.DataFrame(
        {
            "layer": layers,
            "pass_num": pass_nums,
            "n_passes": n_passes,
            "step": range(n),
            "parents": parents,
            "parent_args": [tuple(map(str, range(len(p)))) for p in parents],
            "shape": [tuple(draw(st.lists(st.integers(1, 9), max_size=3))) for _ in range(n)],
            "seconds": draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)),
            "saved": draw(st.lists(st.booleans(), min_size=n, max_size=n)),
            "note": draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)),
        },
        index=pd.Index(ops, name="op"),
    )


@given(graphs())
@settings(deadline=None)
def test_rolling_random_graphs_loses_nothing(frame):
    rolled = frame.lens.roll()
    assert len(rolled) == frame["layer"].nunique()
    pd.testing.assert_frame_equal(rolled.lens.unroll(), frame)
    place = dict(zip(frame.index, frame["layer"], strict=True))
    expected = {
        (place[p], layer, arg)
        for layer, parents, args in zip(
            frame["layer"], frame["parents"], frame["parent_args"], strict=True
        )
        for p, arg in zip(parents, args, strict=True)
    }
    edges = rolled.lens.edges()
    assert set(zip(edges["source"], edges["target"], edges["arg"], strict=True)) == expected
    assert len(edges) == len(expected)


@given(graphs(), st.data())
@settings(deadline=None)
def test_keep_on_random_graphs_follows_every_path(frame, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))
    kept = frame.lens.keep(mask)
    chosen = set(frame.index[mask])

    def nearest(op):
        return {op} if op in chosen else set().union(*map(nearest, frame.at[op, "parents"]))

    for op, parents in kept["parents"].items():
        assert set(parents) == set().union(*map(nearest, frame.at[op, "parents"]))


# ---------------------------------------------------------------------- collapse


def test_collapse_by_depth(net):
    flat = net.lens.collapse(depth=1)
    assert flat[["kind", "func", "parents"]].values.tolist() == [
        ["input", "input", ()],
        ["module", "Linear", ("input_1",)],
        ["module", "Sequential", ("stem",)],
        ["module", "Linear", ("blocks",)],
        ["output", "output", ("head",)],
    ]
    inside = net[net["module"].str.startswith("blocks")]
    for column in ("seconds", "nbytes", "numel", "n_params"):
        assert flat.loc["blocks", column] == pytest.approx(inside[column].sum())
    assert flat.loc["blocks", "params"] == tuple(inside["params"].explode().dropna())
    assert flat.loc["blocks", "shape"] == (5, 4)
    assert list(flat.columns) == list(COLUMNS)


def test_collapse_by_path_keeps_the_rest(net):
    part = net.lens.collapse("blocks.0")
    assert part.index.tolist() == [
        "input_1", "linear_1", "blocks.0", "linear_3", "relu_2", "add_2", "linear_4", "output_1",
    ]  # fmt: skip
    assert part.loc["add_2", "parents"] == ("blocks.0", "relu_2")
    assert part.loc["blocks.0", "module_stack"] == ("blocks:1",)
    both = net.lens.collapse(["blocks.0", "blocks"])
    assert "blocks" in both.index
    assert "blocks.0" not in both.index


def test_collapse_gives_a_row_per_call(recurrent):
    cells = recurrent.lens.collapse("cell")
    assert [op for op in cells.index if op.startswith("cell")] == [f"cell:{i}" for i in range(1, 6)]
    assert cells.loc["cell:2", "parents"] == ("getitem_1:2", "cell:1")
    assert cells.loc["cell:3", "n_params"] == 3 * 4 + 4 + 4 * 4 + 4


def test_a_collapsed_loop_points_at_itself(recurrent):
    rolled = recurrent.lens.roll().lens.collapse(depth=1)
    assert rolled.loc["cell", "parents"] == ("getitem_1", "new_zeros_1", "cell", "mul_1")
    assert rolled.loc["cell", "n_passes"] == 5


def test_a_shared_parameter_counts_once():
    fc = nn.Linear(4, 4)
    layers = lf.trace(
        nn.Sequential(nn.Sequential(fc, nn.ReLU(), fc)).eval(), torch.rand(2, 4)
    ).layers
    row = layers.lens.collapse(depth=1).loc["0"]
    assert row["n_params"] == row["n_trainable"] == 20
    assert row["params_nbytes"] == 80


def test_wrong_collapses(net):
    with pytest.raises(lf.LensTypeError, match="either module paths or depth="):
        net.lens.collapse()
    with pytest.raises(lf.LensValueError, match="1 is the children"):
        net.lens.collapse(depth=0)
    with pytest.raises(lf.LensKeyError, match="no module 'block'"):
        net.lens.collapse(["block"])


def test_verbs_compose_in_any_order_and_from_files(recurrent, tmp_path):
    recurrent.to_parquet(tmp_path / "layers.parquet")
    frame = pd.read_parquet(tmp_path / "layers.parquet")
    one = frame.lens.roll().lens.collapse(depth=1).lens.keep(lambda rows: rows["kind"] != "op")
    assert one.loc["cell", "parents"] == ("input_1", "cell")
    two = frame.lens.collapse(depth=1).lens.roll().lens.keep(lambda rows: rows["kind"] != "op")
    assert two.loc["cell", "parents"] == ("input_1", "cell")
    assert frame.lens.ancestors("tanh_1:2").lens.find("cell:1").index.tolist() == [
        "linear_1:1", "linear_2:1", "add_1:1", "tanh_1:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "verb", ["edges", "roll", "unroll", "to_networkx"],
)  # fmt: skip
def test_a_missing_column_is_named(net, verb):
    bare = net[["kind"]]
    with pytest.raises(lf.LensKeyError, match=f"{verb} needs column"):
        getattr(bare.lens, verb)()

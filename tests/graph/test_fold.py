"""Rows folded into layers and modules, and unfolded, against plain pandas."""

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS

from .random_graphs import graphs


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

"""What a node says of its row: words, corners, tooltip."""

import re
import textwrap

import numpy as np
import pytest

from lensframe_pd.draw.dot import dot

from .drawn import read_back, text


def test_label_says_op_shape_module_and_parameters(recurrent):
    nodes, _, _ = read_back(dot(recurrent))
    assert text(nodes["input_1"]) == ["input_1", "2x2x3"]
    assert text(nodes["linear_1:2"]) == ["linear_1:2", "2x4", "read", "weight, bias"]
    assert text(nodes["sum_1"]) == ["sum_1", "scalar"]
    # The box around them says `head`; `scale` belongs to the model itself.
    assert text(nodes["mul_1"]) == ["mul_1", "2x4", "scale"]
    assert text(nodes["relu_1"]) == ["relu_1", "2x4", "act"]


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


def test_tooltips_hold_the_row(traced):
    nodes, _, _ = read_back(dot(traced))
    tooltip = nodes["conv1d_1"]["tooltip"]
    for cell in ("target: torch.conv1d", "module: head", traced.loc["conv1d_1", "source"]):
        assert cell in tooltip


@pytest.mark.parametrize("column", ["returned_by", "note"])
def test_of_a_long_cell_only_the_beginning_is_looked_at(recurrent, column, monkeypatch):
    names = [f"layer{k}.weight" for k in range(5000)]
    cell = tuple(names) if column == "returned_by" else ", ".join(names)
    given = []
    shorten = textwrap.shorten

    def noted(words, *args, **kwargs):
        given.append(len(words))
        return shorten(words, *args, **kwargs)

    monkeypatch.setattr(textwrap, "shorten", noted)
    source = dot(recurrent.assign(**{column: [cell] * len(recurrent)}))
    assert f"{column}: layer0.weight, layer1.weight" in source
    assert "layer999.weight" not in source
    assert 160 < max(given) < 500

"""Rows against each other and against a second trace."""

import pandas as pd
import pytest

from .reports import failed, validate


def test_a_renumbered_pass(model, traced):
    layers, activations = traced
    wrong = layers.copy()
    wrong.at["tanh_1:2", "pass_num"] = 3
    report = validate(wrong, activations, model)
    assert {"tanh_1:1", "tanh_1:2", "tanh_1:3"} <= failed(report, "invariants")
    assert "passes 1, 3, 3" in report.loc["tanh_1:1", "reason"]


@pytest.mark.parametrize("op", ["gt_1", "relu_1", "output_1", "mul_1:3"])
def test_a_removed_row(model, traced, op):
    layers, activations = traced
    report = validate(layers.drop(index=op), activations, model)
    assert op in failed(report, "invariants")
    assert "lacks this row" in report.loc[op, "reason"]


def test_an_added_row(model, traced):
    layers, activations = traced
    extra = layers.loc[["relu_1"]].rename(index={"relu_1": "relu_2"})
    extra["layer"] = "relu_2"
    report = validate(pd.concat([layers, extra]), activations, model)
    assert "no such operation" in report.loc["relu_2", "reason"]

"""Rows against each other and against a second trace."""

import pandas as pd
import pytest

from lensframe_pd.validation.invariants import _missing_passes

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


class Counted(int):
    """A number of a pass that counts what it is compared with."""

    seen = 0

    def __eq__(self, other):
        Counted.seen += 1
        return int(self) == int(other)

    def __lt__(self, other):
        Counted.seen += 1
        return int(self) < int(other)

    __hash__ = int.__hash__


def passes_of(layers):
    """Rows by label: of each layer so many passes, as many as it says it has."""
    return {
        f"sin_{k}:{i}": {"layer": f"sin_{k}", "pass_num": Counted(i), "n_passes": said}
        for k, (there, said) in enumerate(layers, 1)
        for i in range(1, there + 1)
    }


@pytest.mark.parametrize("said", [0, 1], ids=["as many as said", "one missing"])
@pytest.mark.parametrize("many", [lambda n: [n], lambda n: [n // 2, n // 2], lambda n: [1] * n])
def test_passes_are_counted_once_a_layer(many, said):
    seen = {}
    for n in (100, 1600):
        rows = passes_of([(there, there + said) for there in many(n)])
        Counted.seen = 0
        assert len([*_missing_passes(rows)]) == (len(rows) if said else 0)
        seen[n] = Counted.seen
    assert seen[1600] <= 20 * max(seen[100], 100), seen

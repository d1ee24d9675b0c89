"""The forward, resumed from a saved value, must reach the saved output."""

import pytest

from .reports import failed, validate, writable


def shifted(activations, op):
    changed = writable(activations, op)
    changed[op] = changed[op] + 1
    return changed


def test_a_wrong_value_leads_elsewhere_and_only_what_starts_from_it_fails(model, traced):
    layers, activations = traced
    report = validate(layers, shifted(activations, "mean_1"), model, downstream="all")
    assert failed(report, "downstream") == {"mean_1"}
    assert "resumed from here, 'output_1'" in report.loc["mean_1", "reason"]


def test_no_start_reaches_a_wrong_output(model, traced):
    layers, activations = traced
    right = validate(layers, activations, model, downstream="all")
    report = validate(layers, shifted(activations, "output_1"), model, downstream="all")
    reaching = right.index[right["downstream"].fillna(False)]
    assert failed(report, "downstream") == {*reaching}
    assert len(reaching) > 10


@pytest.mark.parametrize(("downstream", "n"), [("sample", 3), (None, 0)])
def test_how_many_starts(model, traced, downstream, n):
    layers, activations = traced
    report = validate(layers, activations, model, downstream=downstream)
    assert report["downstream"].notna().sum() == n
    assert not failed(report, "downstream")

"""The forward, resumed from a saved value, must reach the saved output."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf

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


class Between(nn.Module):
    """Two layers, and between them what may not be replayed."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, x):
        return self.last(self.between(torch.relu(self.first(x)))).sigmoid()


def _halved(h):
    left, right = h.chunk(2, 1)
    return torch.cat([right, left], 1)


def _written(h):
    h = h * 2
    h[:, 0].add_(1)
    return h.tanh()


@pytest.mark.parametrize(
    ("between", "unsaved"),
    [
        (torch.tanh, "tanh_1"),
        (_halved, "cat_1"),
        (_halved, "chunk_2"),
        (_written, "tanh_1"),
        (_written, "mul_1"),
        (_written, "alias_1"),
    ],
)
def test_a_forward_is_run_where_replays_do_not_tell_where_it_leads(between, unsaved):
    model, x = Between(between).eval(), torch.ones(3, 4) + torch.eye(3, 4)
    with torch.no_grad():
        layers, activations = lf.trace(model, x)
        layers.loc[unsaved, "saved"] = False
        kept = activations.drop_vars(unsaved)
        honest = layers.lens.validate(model, x, activations=kept, downstream="all")
        wrong = kept["linear_2"].to_numpy() + 1
        after = torch.sigmoid(torch.from_numpy(wrong)).numpy()
        values = {"linear_2": wrong, "sigmoid_1": after, "output_1": after}
        forged = kept.assign({op: (kept[op].dims, v, kept[op].attrs) for op, v in values.items()})
        report = layers.lens.validate(model, x, activations=forged, downstream="all")
    assert honest["passed"].all()
    assert honest.loc[["linear_1", "relu_1"], "downstream"].all()
    assert failed(report, "downstream") >= {"linear_1", "relu_1"}
    assert failed(report, "replay") == {"linear_2"}

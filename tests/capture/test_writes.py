"""A write is seen by the tensors that share an element with what was written, and by no other."""

import json

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture import writes


def aliases(layers):
    """The parents of each alias row."""
    return layers.loc[layers["kind"] == "alias", "parents"].tolist()


def traced(model, *args):
    trace = lf.trace(model, args or (torch.ones(()),))
    report = trace.validate()
    assert report["passed"].all(), report["reason"][~report["passed"]].tolist()
    return trace.layers


# Two views of one 4 x 6 tensor without a common element, though the one lies between ends of the
# other in most of them.
DISJOINT = {
    "elements": lambda y: (y[0, 0], y[2, 1]),
    "rows": lambda y: (y[0], y[1]),
    "columns": lambda y: (y[:, 0], y[:, 1]),
    "columns_of_two": lambda y: (y[:, 0:2], y[:, 4:6]),
    "every_second": lambda y: (y[:, ::2], y[:, 1::2]),
    "every_second_and_third": lambda y: (y.view(-1)[0::6], y.view(-1)[1::3]),
    "column_and_element": lambda y: (y[:, 0], y[1, 3]),
    "column_and_transposed": lambda y: (y[:, 0], y.T[1:3]),
    "blocks": lambda y: (y[:2, :3], y[:2, 3:]),
    "diagonals": lambda y: (y.diagonal(), y.diagonal(1)),
    "real_imag": lambda y: (torch.view_as_complex(y.view(4, 3, 2)).real, y[:, 1::2]),
    "pieces": lambda y: (y.chunk(3, 1)[0], y.chunk(3, 1)[2]),
    "unfolded": lambda y: (y.view(-1).unfold(0, 2, 5)[:, 0], y.view(-1).unfold(0, 2, 5)[:, 1]),
    "permuted": lambda y: (y.view(2, 2, 6).permute(2, 0, 1)[0], y.view(2, 2, 6)[:, 1, 1:]),
}  # fmt: skip
SHARING = {
    "column_and_row": lambda y: (y[:, 0], y[0]),
    "overlapping": lambda y: (y.view(-1)[0:9], y.view(-1)[8:12]),
    "second_and_third": lambda y: (y.view(-1)[0::2], y.view(-1)[0::3]),
    "element_in_column": lambda y: (y[:, 0], y[2, 0]),
    "whole": lambda y: (y[1:3, 1:3], y),
    "transposed": lambda y: (y[1], y.T),
    "expanded": lambda y: (y[0, 0], y[:1, :1].expand(3, 2)),
    "other_dtype": lambda y: (y[0, 0], y.view(torch.int32)),
}  # fmt: skip


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("views", DISJOINT.values(), ids=DISJOINT)
def test_a_write_does_not_reach_what_shares_no_element(views, swapped):
    def forward(x):
        y = torch.zeros(4, 6) + x
        written, read = views(y)[:: -1 if swapped else 1]
        written.add_(1)
        return read * 2

    layers = traced(forward)
    assert not aliases(layers)
    read = layers.loc["mul_1", "parents"][0]
    assert "add_2" not in {read, *layers.loc[read, "parents"]}


BOTH_WAYS = [
    pytest.param(views, swapped, id=f"{name}-{swapped}")
    for name, views in SHARING.items()
    for swapped in (False, True)
    if not (swapped and name == "expanded")  # which torch refuses to write
]


@pytest.mark.parametrize(("views", "swapped"), BOTH_WAYS)
def test_a_write_reaches_what_shares_an_element(views, swapped):
    def forward(x):
        y = torch.zeros(4, 6) + x
        written, read = views(y)[:: -1 if swapped else 1]
        written.mul_(3)
        return read * 2

    layers = traced(forward)
    (parents,) = aliases(layers)
    assert parents[-1] == "mul_1"
    assert layers.loc["mul_2", "parents"] == ("alias_1",)


@pytest.mark.parametrize("views", DISJOINT.values(), ids=DISJOINT)
def test_views_that_a_closure_holds(views):
    """Nobody holds the tensor that they are views of."""
    written, read = views(torch.zeros(4, 6))

    def forward(x):
        written.add_(x)
        return read * 2

    layers = traced(forward)
    assert not aliases(layers)
    constants = layers[layers["kind"] == "constant"]
    assert constants["path"].tolist() == ["written", "read"]
    assert layers.loc["mul_1", "parents"] == ("constant_2",)


@pytest.mark.parametrize("save", ["all", None])
@pytest.mark.parametrize("views", SHARING.values(), ids=SHARING)
def test_views_that_a_closure_holds_and_that_share_an_element(views, save):
    written, read = views(torch.zeros(4, 6))

    def forward(x):
        written[...].add_(x)
        return read * 2

    layers = lf.trace(forward, torch.ones(()), save=save).layers
    (parents,) = aliases(layers)
    assert parents[-1] == "add_1"
    assert layers.loc["mul_1", "parents"] == ("alias_1",)


def test_elements_that_a_module_holds():
    class Counters(nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(8.0)
            self.counters = [base[0], base[3], base[7]]

        def forward(self, x):
            for k, counter in enumerate(self.counters):
                counter.mul_(0).add_(k)
            return torch.stack(self.counters) + x

    layers = traced(Counters().eval())
    assert not aliases(layers)
    assert layers.loc["stack_1", "parents"] == ("add_1", "add_2", "add_3")


def test_a_later_write_hides_an_earlier_one_only_where_it_has_all_of_it():
    def forward(x):
        y = torch.zeros(12) + x
        inner, outer, read = y[2:6], y[::7], y[3:5]
        inner.mul_(2)
        outer.mul_(3)  # it begins before and ends after the other, and shares no element with it
        return read * 1, y * 1

    layers = traced(forward)
    assert aliases(layers) == [("getitem_3", "mul_1"), ("add_1", "mul_1", "mul_2")]


@pytest.mark.parametrize("axis", [0, 1])
def test_pieces_are_not_compared_pair_by_pair(axis, monkeypatch):
    compared = []
    plain = writes.overlap
    monkeypatch.setattr(writes, "overlap", lambda a, b: compared.append(a) or plain(a, b))

    def forward(x):
        pieces = torch.zeros((50, 2) if axis == 0 else (2, 50)).unbind(axis)
        for piece in pieces:
            piece.add_(1)
        for piece in pieces:
            x = x + piece[0]
        return x

    assert not aliases(lf.trace(forward, torch.ones(()), save=None).layers)
    assert len(compared) <= 50


ASSIGNED = {
    "data": lambda y, z: setattr(y, "data", z),
    "data_of_a_view": lambda y, z: setattr(y, "data", z[:]),
}


@pytest.mark.parametrize("assign", ASSIGNED.values(), ids=ASSIGNED)
def test_data_that_was_assigned_is_the_other_tensor(assign):
    def forward(x):
        y, z = x * 2, x * 3
        before = y.view(-1)
        assign(y, z)
        return z + 1, before + 1, y + 1

    layers = traced(forward, torch.ones(2, 3))
    assert not aliases(layers)
    assert layers.loc["add_1", "parents"] == ("mul_2",)
    assert layers.loc["add_2", "parents"] == ("view_1",)
    assert layers.loc["add_3", "parents"] == ("set_data_1",)
    assert layers.loc["set_data_1", "inplace"]


@pytest.mark.parametrize("written", [0, 1])
def test_a_write_after_data_was_assigned_is_seen_by_both(written):
    def forward(x):
        y, z = x * 2, x * 3
        y.data = z
        (y, z)[written].add_(1)
        return (y, z)[1 - written] * 1

    layers = traced(forward, torch.ones(2, 3))
    before = ("mul_2", "set_data_1")[written]  # what the other one was
    assert aliases(layers) == [(before, "add_1")]


def test_the_bytes_of_an_alias_row_are_those_it_was_made_of():
    def forward(x):
        y = torch.zeros(4, 6) + x
        y[1, 2:4].mul_(2)
        return y + 1

    config = json.loads(traced(forward).loc["alias_1", "config"])
    assert config == {"offset": 0, "offsets": [0, 32]}

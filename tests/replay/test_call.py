"""A recorded call again, from a tape or a row, on saved tensors or on meta ones."""

import copy

import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.replay.call import Rerun, Unreplayable
from lensframe_pd.tape.config import Encoded, decode
from lensframe_pd.tape.context import context_of
from lensframe_pd.tape.functions import describe
from lensframe_pd.tape.tape import Call
from lensframe_pd.tape.targets import resolve


def read(row):
    """The call a row says."""
    function = describe(resolve(row["target"]))
    encoded = Encoded(row["config"], row["n_positional"], row["tuple_args"])
    args, kwargs, _ = decode(function, encoded, row["parent_args"])
    return Call(function, args, kwargs, (), (), 0, context_of(row["context"]), 0.0)


CALLS = [
    (lambda x, y: torch.addmm(x, x, y, beta=2, alpha=0.5), []),
    (lambda x, y: torch.cat([x, y], dim=1), []),
    (lambda x, y: x[y > 0.5], []),
    (lambda x, y: x.clone().add_(y), [0]),
    (lambda x, y: torch.mul(x, y, out=torch.empty(3, 3)), [2]),
    (lambda x, y: torch.zeros_like(x, dtype=torch.float64), []),
    (lambda x, y: x.to(y), []),
    (lambda x, y: x.sum((0, 1), keepdim=True), []),
]


@pytest.mark.parametrize(("model", "written"), CALLS)
def test_tape_row_and_meta_give_the_same(model, written):
    trace = lf.trace(model, (torch.rand(3, 3), torch.rand(3, 3)))
    layers, values, tape = trace.layers, trace.tape.values, trace.tape
    row = layers[layers["kind"] == "op"].iloc[-1]
    on_tape = Rerun(tape.calls[row["call"]])
    tensors = [values[layers.index.get_loc(parent)].clone() for parent in row["parents"]]
    before = [t.clone() for t in tensors]
    expected = values[layers.index.get_loc(row.name)]
    for rerun in (on_tape, Rerun(read(row))):
        (made,) = rerun(tensors)
        assert torch.equal(made, expected)
        assert rerun.writes(tensors) == {*written}
        assert all(map(torch.equal, tensors, before))  # it wrote copies
    if "getitem" not in row.name:  # there values decide the shape
        done = Rerun(read(row)).on([t.to("meta") for t in tensors])
        assert done.made[0].shape == made.shape
        assert done.made[0].dtype == made.dtype
        assert len(done.written) == len(written)


def test_on_these_very_tensors():
    layers = lf.trace(lambda x: x.clone().mul_(3), torch.ones(2)).layers
    x = torch.ones(2)
    done = Rerun(read(layers.loc["mul_1"])).on([x])
    assert done.made[0] is x is done.written[0]
    assert x.tolist() == [3, 3]


def test_what_is_only_described_is_not_run():
    layers = lf.trace(lambda x: x + 1, torch.ones(2)).layers
    row = layers.loc["add_1"].replace('{"other": 1}', '{"other": {"$object": "user.Thing"}}')
    with pytest.raises(Unreplayable, match=r"user\.Thing"):
        Rerun(read(row))([torch.ones(2)])


ONLY = {
    "add": (lambda x: torch.add(x, 2), True),
    "three tensors": (lambda x: torch.addcmul(x, x, x), True),
    "a parameter": (lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)), True),
    "several results": (lambda x: torch.topk(x, 2, 1), True),
    "by name": (lambda x: x.sum(dim=1), False),
    "a list of tensors": (lambda x: torch.cat([x, x]), False),
    "a tuple of numbers": (lambda x: x.permute((1, 0)), False),
    "a slice": (lambda x: x[:, 1:], False),
    "in place": (lambda x: (x * 2).add_(1), False),
    "into memory given": (lambda x: torch.add(x, 1, out=torch.zeros(3, 3)), False),
    "an item": (lambda x: (x * 2).__setitem__(0, 1.0), False),
    "random": (lambda x: torch.bernoulli(x.abs().clamp(0, 1)), False),
    "a copy": (lambda x: copy.deepcopy(x), False),
    "statistics": (
        lambda x: torch.nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3), training=True),
        False,
    ),
}


@pytest.mark.parametrize("name", ONLY)
def test_a_call_that_does_more_than_compute_is_looked_into(name):
    """What it is given is not written, and it gives again what it gave."""
    function, only = ONLY[name]
    trace = lf.trace(function, torch.linspace(-1, 1, 9).reshape(3, 3))
    tape = trace.tape
    made = [k for k, row in enumerate(tape.rows) if tape.kinds.get(k) is None]
    call = tape.rows[made[-1]].call
    rerun = Rerun(tape.calls[call], [tape.rows[k] for k in made if tape.rows[k].call == call])
    assert rerun._only_computes is only
    tensors = [
        tape.values[s].clone() if s >= 0 else tape.held[-1 - s].tensor
        for s in tape.calls[call].sources
    ]
    before = [tensor.clone() for tensor in tensors]
    values = [tape.values[k] for k in made if tape.rows[k].call == call]
    for _ in range(2):
        result = rerun(tensors)
        for row, value in zip([k for k in made if tape.rows[k].call == call], values, strict=True):
            assert torch.equal(result[tape.rows[row].slot], value)
    assert all(map(torch.equal, tensors, before))

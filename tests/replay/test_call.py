"""A recorded call again, from a tape or a row, on saved tensors or on meta ones."""

import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.replay.call import Rerun, Unreplayable
from lensframe_pd.tape.config import Encoded, decode
from lensframe_pd.tape.context import context_of
from lensframe_pd.tape.functions import describe, resolve
from lensframe_pd.tape.tape import Call


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

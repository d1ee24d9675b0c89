"""Indices and values of sparse tensors, which lie in memory that calls on the whole write."""

import pytest
import torch

import lensframe_pd as lf

INDICES = torch.tensor([[0, 1, 2], [1, 0, 2]])


def sparse():
    return torch.sparse_coo_tensor(INDICES, torch.tensor([1.0, 2, 3]), (3, 3)).coalesce()


def marked_again(x, a):
    indices, values = a._coalesced_(True).indices(), a.values()
    a._coalesced_(True)
    return indices + 1, values * x.sum()


def written_csr(x, a):
    whole = a.to_sparse_csr()
    values = whole.values()
    whole.mul_(3)
    return values + x[0], whole.to_dense()


def written_csc(x, a):
    whole = a.to_sparse_csc()
    values, rows = whole.values(), whole.row_indices()
    whole.mul_(3)
    return values + x[0], rows + 1


def negated(x, a):
    values = a.values()
    a.neg_()
    return (values + x[0],)


def emptied(x, a):
    values = a.values()
    a.zero_()
    return (values + x[0],)


def multiplied(x, a):
    values, bare = a.values(), a._values()
    a.mul_(2)
    return values + x[0], bare + x[0]


def added(x, a):
    values = a.values()
    a.add_(a)
    return values + x[0], a.to_dense() * x


def written_inside(x, a):
    whole = torch.sparse_coo_tensor(INDICES, x[0] * 1, (3, 3))
    values = whole._values()
    whole.mul_(3)
    return values + 0, whole._values() + 1, whole.to_dense()


PROGRAMS = [
    marked_again, written_csr, written_csc, negated, emptied, multiplied, added, written_inside,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("whose", ["trace", "frame"])
def test_parts_of_a_sparse_tensor_that_is_written(program, whose):
    x = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    known = [value.clone() for value in program(x, sparse())]
    with torch.no_grad():
        a = sparse()
        trace = lf.trace(program, (x, a))
        assert all(map(torch.equal, trace.output, known))
        if whose == "trace":
            report = trace.validate()
        else:
            a = sparse()  # as it was: some write the memory of their input
            report = trace.layers.lens.validate(program, (x, a), activations=trace.activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].to_dict()
    lost = trace.layers.loc[~trace.layers["saved"], "unsaved_reason"]
    assert lost.str.contains("layout is not one array").all(), lost.to_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", [written_csr, written_csc, negated])
def test_values_read_after_the_write_come_from_it(program):
    x = torch.rand(3, 3)
    layers = lf.trace(program, (x, sparse())).layers
    write = layers.index[layers["inplace"]][0]
    reader = layers.loc["add_1", "parents"][0]
    assert layers.loc[reader, "kind"] == "alias"
    assert layers.loc[reader, "parents"] == ("values_1", write)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", [negated, multiplied, emptied])
def test_values_saved_before_the_write_are_those_before_it(program):
    trace = lf.trace(program, (torch.rand(3, 3), sparse()))
    assert trace.activations["values_1"].to_numpy().tolist() == [1, 2, 3]

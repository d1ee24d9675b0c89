"""Regions of a storage, compared with the sets of bytes that the tensors touch."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensframe_pd.tape.regions import covers, disjoint_copies, overlap, region_of

DTYPES = (torch.int8, torch.int16, torch.float32, torch.complex64)
STORAGE = torch.zeros(512, dtype=torch.int8)

axis = st.tuples(st.integers(0, 4), st.integers(0, 9))
views = st.tuples(st.lists(axis, max_size=3), st.integers(0, 12), st.sampled_from(DTYPES))


def view(of):
    axes, offset, dtype = of
    shape, stride = [n for n, _ in axes], [s for _, s in axes]
    return STORAGE.view(dtype).as_strided(shape, stride, offset)


def touched(tensor):
    """By hand: every element's bytes."""
    starts = [tensor.storage_offset()]
    for n, step in zip(tensor.shape, tensor.stride(), strict=True):
        starts = [start + k * step for start in starts for k in range(n)]
    size = tensor.element_size()
    return {start * size + k for start in starts for k in range(size)}


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(views, views)
def test_what_regions_share_is_what_bytes_share(first, second):
    a, b = view(first), view(second)
    mine, other = touched(a), touched(b)
    assert overlap(region_of(a), region_of(b)) == bool(mine & other)
    assert covers(region_of(a), region_of(b)) == (other <= mine)
    low, high, _ = region_of(a)
    assert (low, high) == ((min(mine), max(mine) + 1) if mine else (low, low))


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(views, st.integers(1, 24), st.integers(1, 5))
def test_copies_that_are_called_disjoint_are(of, step, n):
    tensor = view(of)
    mine = touched(tensor)
    copies = [{byte + k * step for byte in mine} for k in range(n)]
    if disjoint_copies(region_of(tensor).form, step, n) and mine:
        assert len(set().union(*copies)) == sum(map(len, copies))


def test_one_region_has_one_form():
    x = torch.zeros(3, 4)
    alike = [x, x.T, x.view(12), x[:, None], x.expand(2, 3, 4), x.view(torch.int8)]
    assert len({region_of(t) for t in alike}) == 1


def test_pieces_of_a_tensor_are_seen_to_be_disjoint():
    x = torch.zeros(4, 6)
    for axis in (0, 1):
        for size in (1, 2):
            first, second, *_ = (region_of(piece) for piece in x.split(size, axis))
            n = x.shape[axis] // size
            assert disjoint_copies(first.form, second.low - first.low, n)

"""Whether two tensors are the same to the bit, however they lie in memory."""

import itertools
import math

import pytest
import torch

from lensframe_pd.tape import compare
from lensframe_pd.tape.compare import difference, farthest, same, same_bits, widest

DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64,
]  # fmt: skip
LAID_OUT = {
    "whole": lambda x: x,
    "from the second on": lambda x: x.flatten()[1:],
    "from the third on": lambda x: x.flatten()[2:],
    "an odd number": lambda x: x.flatten()[:-1],
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[:, ::2],
    "channels last": lambda x: x.view(2, 6, 4, 6).to(memory_format=torch.channels_last),
    "of no axes": lambda x: x[0, 0],
    "of no elements": lambda x: x[:0],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", LAID_OUT)
def test_one_changed_element_is_seen_wherever_it_is(how, dtype, monkeypatch):
    monkeypatch.setattr(compare, "_MANY", 1)
    mine = LAID_OUT[how](torch.arange(288).view(12, 24).remainder(7).to(dtype))
    for copy in (mine.clone(), mine.contiguous().clone()):
        assert same(mine, copy)
        assert difference(mine, copy).same
        places = itertools.product(*({0, n // 2, n - 1} for n in mine.shape))
        for place in places if mine.numel() else ():
            other = copy.clone()
            other[place] = ~other[place] if dtype is torch.bool else other[place] + 1
            assert not same(mine, other)
            assert not same_bits(mine, other)
            assert not difference(mine, other).same


def test_zeros_of_another_sign_are_others_and_nan_of_other_bits_are_not(monkeypatch):
    monkeypatch.setattr(compare, "_MANY", 1)
    zeros, nan = torch.zeros(8), torch.full((8,), math.nan)
    assert not same(zeros, -zeros)
    assert not same_bits(zeros, -zeros)
    other = (nan.view(torch.int32) ^ 1).view(torch.float32)
    assert not same_bits(nan, other)
    assert same(nan, other)


def test_a_view_through_bits_is_compared_by_what_it_shows(monkeypatch):
    monkeypatch.setattr(compare, "_MANY", 1)
    x = torch.arange(16.0)
    assert same_bits(torch._neg_view(x), -x)
    assert not same_bits(torch._neg_view(x), x)


@pytest.mark.parametrize(
    ("tensor", "wide"),
    [
        (torch.zeros(4, 2), True), (torch.zeros(3, 3), False), (torch.zeros(3, 4)[1:], True),
        (torch.zeros(9)[1:], False), (torch.zeros(10)[2:], True), (torch.zeros(4, 4).t(), False),
        (torch.zeros(16, dtype=torch.uint8)[8:], True), (torch.zeros(3, dtype=torch.int64), True),
    ],
)  # fmt: skip
def test_memory_is_seen_in_fewer_numbers_where_it_can_be(tensor, wide):
    found = widest(tensor)
    assert (found is not None) is wide
    assert found is None or found.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("numbers", "reach"),
    [([1.0, -3.0, 2.0], 3.0), ([-1.0, 4.0], 4.0), ([0.0], 0.0), ([-math.inf, 1.0], math.inf)],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_farthest_number(numbers, reach, dtype):
    assert farthest(torch.tensor(numbers, dtype=dtype)) == reach
    assert math.isnan(farthest(torch.tensor([*numbers, math.nan], dtype=dtype)))

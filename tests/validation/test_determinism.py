"""A call that gives another value is excused only by what is measured."""

import dataclasses

import pytest
import torch

from lensframe_pd.replay.call import Rerun
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.functions import describe
from lensframe_pd.tape.tape import SLOT, Call, Context
from lensframe_pd.validation.determinism import not_deterministic


class Wobbly:
    """A kernel whose result differs by `size` from one run to the next."""

    def __init__(self, size):
        self.size = size
        self.runs = 0

    def __call__(self, x):
        self.runs += 1
        return x + self.size * (self.runs % 2)


def excuse(function, x, saved):
    described = dataclasses.replace(describe(torch.exp), func=function)
    call = Call(described, (SLOT,), {}, (0,), (), 0, Context(True, False, ()), 0.0)
    rerun = Rerun(call, [])
    return not_deterministic(rerun, [x], 0, saved, difference(rerun([x])[0], saved))


X = torch.linspace(1, 2, 5)


def test_a_kernel_that_wobbles():
    assert "kernel is not deterministic" in excuse(Wobbly(1e-3), X, X)
    assert excuse(Wobbly(1e-3), X, X + 1) == ""  # no wobble is that large


def test_a_wrong_value_has_no_excuse():
    assert excuse(torch.exp, X, X.exp() + 1e-6) == ""
    assert excuse(torch.exp, X, X.exp() + 1) == ""


def test_memory_that_nothing_has_written():
    assert "not initialised" in excuse(torch.empty_like, X, X)
    assert "not initialised" in excuse(torch.empty_like, X.long(), X.long() + 7)
    assert excuse(torch.zeros_like, X, X) == ""


@pytest.mark.parametrize("n", [100, 1_000, 20_000])
@pytest.mark.parametrize("n_freed", [1, 4, 20])
def test_memory_that_nothing_has_written_may_be_nan_that_others_left(n, n_freed):
    saved = torch.linspace(1, 2, n)
    for _ in range(5):
        freed = [torch.full((n,), torch.nan) for _ in range(n_freed)]
        del freed
        assert "not initialised" in excuse(torch.empty_like, saved, saved)


def test_nan_that_a_call_gives_by_itself_is_not_fresh_memory():
    honest = torch.tensor([torch.nan, 1.0, 2.0])
    assert excuse(torch.clone, honest, torch.tensor([5.0, 1.0, 2.0])) == ""


NONE = torch.zeros(0)


@pytest.mark.parametrize(
    ("function", "saved"),
    [
        (torch.zeros_like, NONE),  # made larger by a state that has since grown
        (lambda x: x[:0], X),
        (lambda x: x[:0].double(), NONE),
        (lambda x: x[:0].long(), NONE),
        (lambda x: x[:0] > 1, NONE),
        (lambda x: x[:0], NONE.long()),
        (lambda x: x[:0], NONE.reshape(3, 0)),
        (lambda x: x[:0] * 1j, NONE),
        (torch.zeros_like, X[:3]),
        (torch.empty_like, X[:3]),
        (torch.sum, NONE),
        (torch.Tensor.to_sparse, X),
    ],
)
def test_another_kind_of_tensor_has_no_excuse(function, saved):
    assert excuse(function, X, saved) == ""


def modes():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_torch_is_left_in_the_mode_it_was_in():
    def refuses(x):
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("no deterministic form")
        return x * 2

    before = modes()
    assert excuse(refuses, X, X) == ""
    assert modes() == before


def test_a_kernel_that_rounds_by_where_its_argument_lies():
    def by_address(x):
        return x if x.data_ptr() % 64 else x * (1 + 2**-20)

    room = torch.ones(32)
    aligned = next(room[i : i + 8] for i in range(16) if not room[i:].data_ptr() % 64)
    assert "where in memory" in excuse(by_address, aligned, torch.ones(8))


@pytest.mark.parametrize("saved", [X.long(), X > 1.5])
def test_whole_numbers_are_not_rounded(saved):
    assert excuse(torch.clone, saved, saved.roll(1)) == ""

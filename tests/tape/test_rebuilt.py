"""Other tensors in a nest of containers: what holds them is made anew, all else is the same."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from lensframe_pd.tape.rebuilt import Unbuilt, with_others

A, B, NEW = torch.zeros(2), torch.ones(2), torch.full((2,), 7.0)
Pair = namedtuple("Pair", "a b")


@dataclass
class Fields:
    a: torch.Tensor
    b: torch.Tensor


class Plain:
    def __init__(self, **held):
        vars(self).update(held)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


NESTS = {
    "a tensor": (A, lambda r: r),
    "a tuple": ((A, B), lambda r: r[0]),
    "a named tuple": (Pair(A, B), lambda r: r.a),
    "a list": ([B, A], lambda r: r[1]),
    "a dict": ({"a": A, "b": B}, lambda r: r["a"]),
    "an ordered dict": (OrderedDict(a=A), lambda r: r["a"]),
    "a dataclass": (Fields(A, B), lambda r: r.a),
    "an object": (Plain(a=[A]), lambda r: r.a[0]),
    "a model's output": (BaseModelOutput(last_hidden_state=A), lambda r: r.last_hidden_state),
    "by key": (BaseModelOutput(last_hidden_state=A), lambda r: r["last_hidden_state"]),
    "nested": ({"x": (B, [Fields(B, A)])}, lambda r: r["x"][1][0].b),
    "a result of torch": (torch.max(torch.eye(2), 0), None),
}


@pytest.mark.parametrize("what", NESTS)
def test_the_tensor_is_another_and_the_nest_of_its_kind(what):
    nest, read = NESTS[what]
    if read is None:
        new = with_others(nest, {id(nest.values): NEW})
        assert new.values is NEW
        assert new.indices is nest.indices
    else:
        new = with_others(nest, {id(A): NEW})
        assert read(new) is NEW
        assert read(nest) is A
    assert type(new) is type(nest)


def test_what_holds_none_of_them_is_the_same_object():
    held, beside = [A], {"b": B}
    new = with_others((held, beside, 3), {id(A): NEW})
    assert new[1] is beside
    assert new[0] is not held


def test_an_object_that_is_there_twice_is_there_twice():
    shared = [A]
    new = with_others((shared, shared), {id(A): NEW})
    assert new[0] is new[1]


def test_an_object_that_holds_itself():
    nest = Plain(a=A)
    nest.me = nest
    assert with_others(nest, {id(A): NEW}).a is NEW


@pytest.mark.parametrize("nest", [Slotted(A), {1}, torch.nn.Module(), [B]])
def test_what_cannot_be_made_anew(nest):
    with pytest.raises(Unbuilt):
        with_others(nest, {id(A): NEW})

"""The one walker through objects: a table of kinds, and where their tensors are found."""

import gc
import itertools
import weakref
from collections import (
    ChainMap,
    Counter,
    OrderedDict,
    UserDict,
    UserList,
    defaultdict,
    deque,
    namedtuple,
)
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache, partial
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import AffineTransform, Normal, TransformedDistribution

import lensframe_pd as lf
from lensframe_pd.tape.objects import submodules, tensors_in, tensors_of

A, B = torch.zeros(1), torch.ones(2)


def code_of_theirs(*_, **__):
    raise RuntimeError("code of the user's class ran")


class Raising:
    """Whatever may be asked of it raises."""

    def __init__(self):
        object.__setattr__(self, "held", A)

    __getattr__ = __getattribute__ = __setattr__ = __dir__ = __repr__ = __str__ = code_of_theirs
    __len__ = __iter__ = __next__ = __getitem__ = __contains__ = __bool__ = code_of_theirs
    __eq__ = __hash__ = __call__ = __index__ = __torch_function__ = code_of_theirs
    __class__ = property(code_of_theirs)


class NoDict:
    """Its `__dict__` is a property."""

    def __init__(self):
        self.held = A

    __dict__ = property(code_of_theirs)


class RaisingMeta(type):
    __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = code_of_theirs
    __mro__ = __module__ = __dict__ = property(code_of_theirs)


def of_raising_metaclass():
    class Theirs(metaclass=RaisingMeta):  # among the globals pytest would look at it
        def __init__(self):
            self.held = A

    return Theirs()


class Irreps(tuple):
    __slots__ = ()
    __len__ = __iter__ = __getitem__ = __eq__ = code_of_theirs


class RaisingDict(dict):
    __len__ = __iter__ = __getitem__ = keys = values = items = get = code_of_theirs


class RaisingList(list):
    __len__ = __iter__ = __getitem__ = code_of_theirs


class RaisingSet(set):
    __len__ = __iter__ = __contains__ = code_of_theirs


class Lazy(Mapping):
    """Loads an item when it is asked for."""

    loaded = 0

    def __init__(self):
        self.first = A

    def __getitem__(self, key):
        Lazy.loaded += 1
        return torch.zeros(3)

    def __iter__(self):
        Lazy.loaded += 1
        return iter(range(1000))

    def __len__(self):
        return 1000


class Attributes(dict):
    """Items are attributes."""

    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__ = self


class Slots:
    __slots__ = ("a", "unset")

    def __init__(self):
        self.a = A


class SlotsBelow(Slots):
    __slots__ = "b"

    def __init__(self):
        super().__init__()
        self.b = B


@dataclass
class Data:
    b: object = field(default_factory=lambda: B)
    a: object = field(default_factory=lambda: A)

    def __getattr__(self, name):
        raise RuntimeError(name)


@dataclass(frozen=True)
class Frozen:
    a: object = field(default_factory=lambda: A)


@dataclass(slots=True)
class Slotted:
    a: object = field(default_factory=lambda: A)


class Called:
    def __init__(self):
        self.a = A

    def __call__(self):
        return self.a

    def method(self):
        return self.a


class Pair(NamedTuple):
    first: object
    second: object


class Colour(Enum):
    RED = 1


Old = namedtuple("Old", "first second")


def affine():
    return TransformedDistribution(Normal(A, B[:1]), [AffineTransform(A, B[:1])])


def a_chain(length):
    last = SimpleNamespace(end=A)
    for _ in range(length):
        last = SimpleNamespace(n=last)
    return last


def a_circle():
    here = {"a": A}
    here["again"] = [here]
    return here


# kind: (object, paths of the tensors in it)
FOUND = {
    "tensor": (A, ""),
    "parameter": (nn.Parameter(A), ""),
    "none": (None, None),
    "text": ("text", None),
    "dict": ({"a": A, 1: B, (2, "x"): A}, "a 1 (2,|'x')"),
    "keys of enums and arrays": ({Colour.RED: A, np.int64(3): B}, "Colour.RED 3"),
    "nested": ({"a": [A, (B, {"c": A})]}, "a.0 a.1.0 a.1.1.c"),
    "OrderedDict": (OrderedDict(b=A, a=B), "b a"),
    "defaultdict": (defaultdict(list, a=[A]), "a.0"),
    "Counter": (Counter(a=A), "a"),
    "ChainMap": (ChainMap({"a": A}, {"b": B}), "b a"),
    "UserDict": (UserDict(a=A), "a"),
    "UserList": (UserList([A]), "data.0"),
    "attributes are items": (Attributes(a=A), "a"),
    "list": ([A, None, B], "0 2"),
    "tuple": ((A, 1, B), "0 2"),
    "the same twice": ([A, A], "0 1"),
    "the same list twice": ((lambda x: [x, x])([A]), "0.0"),
    "named tuple": (Pair(A, [B]), "first second.0"),
    "old named tuple": (Old(A, B), "first second"),
    "what torch returns": (torch.max(torch.zeros(2, 2), 0), "0 1"),
    "set": ({A}, "0"),
    "frozenset": (frozenset([A]), "0"),
    "deque": (deque([A, [B]]), "0 1.0"),
    "dataclass": (Data(), "b a"),
    "frozen dataclass": (Frozen(), "a"),
    "dataclass with slots": (Slotted(), "a"),
    "slots": (Slots(), "a"),
    "inherited slots": (SlotsBelow(), "b a"),
    "SimpleNamespace": (SimpleNamespace(x=[A]), "x.0"),
    "MappingProxyType": (MappingProxyType({"a": A}), "a"),
    "partial": (partial(print, A, [B], end=A), "args.0 args.1.0 end"),
    "callable": (Called(), "a"),
    "module": (nn.Linear(1, 1), None),
    "class": (Called, None),
    "function": (lambda x=A: x, None),
    "distribution": (Normal(A, B[:1]), "loc scale"),
    "distribution with transforms": (
        affine(),
        "transforms.0.loc transforms.0.scale base_dist.loc base_dist.scale",
    ),
    "circle": (a_circle(), "a"),
    "raising dunders": (Raising(), "held"),
    "__dict__ is a property": (NoDict(), "held"),
    "raising metaclass": (of_raising_metaclass(), "held"),
    "raising tuple": (Irreps([A, B]), "0 1"),
    "raising dict": (RaisingDict(a=A), "a"),
    "raising list": (RaisingList([A]), "0"),
    "raising set": (RaisingSet([A]), "0"),
    "lazy mapping": (Lazy(), "first"),
    "array": (np.zeros(3), None),
    "iterator": (itertools.count(), None),
    "generator": ((x for x in "ab"), None),
    "a chain of 10,000": (a_chain(10_000), "n." * 10_000 + "end"),
}


FLAT = {
    "tensor": A,
    "tuple": (A, B),
    "list of one twice": [A, A],
    "tuple with None": (A, None, B),
    "state of an LSTM": (A, (B, A)),
    "a parameter among them": [A, nn.Parameter(torch.ones(1))],
    "values and indices": torch.ones(2, 2).max(0),
    "nothing": (),
}


@pytest.mark.parametrize("kind", [*FLAT, *FOUND])
def test_tensors_without_their_places_are_the_same(kind):
    value = FLAT[kind] if kind in FLAT else FOUND[kind][0]
    assert [*map(id, tensors_of(value))] == [id(tensor) for _, tensor in tensors_in(value)]


@pytest.mark.parametrize("kind", FOUND)
def test_tensors_are_found_by_path(kind):
    value, paths = FOUND[kind]
    expected = [] if paths is None else [path.replace("|", " ") for path in paths.split(" ")]
    found = [path for path, _ in tensors_in(value)]
    assert found == expected
    beneath = [".".join(filter(None, ("in", path))) for path in expected]
    assert [path for path, _ in tensors_in(value, "in")] == beneath
    assert [path for path, _ in tensors_in({"in": value})] == beneath
    assert Lazy.loaded == 0


@pytest.mark.parametrize("bound", [None, 8])
def test_results_under_a_cache(bound):
    cached = lru_cache(bound)(lambda n: torch.zeros(n))
    results = [cached(1), cached(2)]
    found = list(tensors_in(cached, "f"))
    assert [id(tensor) for _, tensor in found] == [*map(id, results)]
    assert all(path.startswith("f.cache.") for path, _ in found)


def test_a_model_output_has_each_item_once():
    from transformers import DynamicCache
    from transformers.modeling_outputs import CausalLMOutput

    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), 0)
    output = CausalLMOutput(logits=A, hidden_states=(A, B))
    assert [path for path, _ in tensors_in(output)] == [
        "logits",
        "hidden_states.0",
        "hidden_states.1",
    ]
    assert [path for path, _ in tensors_in({"past_key_values": cache})] == [
        "past_key_values.layers.0.keys",
        "past_key_values.layers.0.values",
    ]


def a_tensordict():
    tensordict = pytest.importorskip("tensordict")
    return tensordict.TensorDict({"a": torch.zeros(2, 1), "in": {"b": torch.ones(2)}}, [2])


def graphs():
    data = pytest.importorskip("torch_geometric.data")
    one = data.Data(x=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    return one, data.Batch.from_data_list([one, one])


def test_a_tensordict():
    assert {path.split(".")[-1] for path, _ in tensors_in(a_tensordict())} == {"a", "b"}


def test_graphs_and_their_batches():
    one, batch = graphs()
    assert {path.split(".")[-1] for path, _ in tensors_in(one)} == {"x", "edge_index"}
    found = {id(tensor) for _, tensor in tensors_in(batch)}
    assert {id(batch.x), id(batch.edge_index), id(batch.batch), id(batch.ptr)} <= found


def test_a_batch_of_graphs_is_an_input():
    _, batch = graphs()
    layers, _ = lf.trace(lambda g: g.x * g.batch[:, None], batch)
    inputs = layers[layers["kind"] == "input"]["path"]
    assert {path.split(".")[-1] for path in inputs} >= {"x", "batch"}
    assert not (layers["kind"] == "constant").any()


def test_objects_of_every_kind_as_input_and_output():
    for value, _ in FOUND.values():
        layers, _ = lf.trace(lambda x, other: ([x + 1], other), (B, value))
        assert "output" in set(layers["kind"])
    assert Lazy.loaded == 0


EVERYTHING = {kind: value for kind, (value, _) in FOUND.items()}
CONSTANT = torch.full((2,), 3.0)
HOLDER = SimpleNamespace(under=deque([CONSTANT]))


def test_globals_that_hold_anything():
    def f(x):
        assert EVERYTHING
        return x + HOLDER.under[0]

    layers, _ = lf.trace(f, B)
    (constant,) = layers[layers["kind"] == "constant"]["path"]
    assert constant == "HOLDER.under.0"
    assert Lazy.loaded == 0


def test_a_tensordict_among_the_globals():
    globals()["TENSORDICT"] = a_tensordict()
    try:
        layers, _ = lf.trace(lambda x: x + TENSORDICT["a"] + HOLDER.under[0], B)  # noqa: F821
    finally:
        del globals()["TENSORDICT"]
    paths = layers[layers["kind"] == "constant"]["path"]
    assert [path.split(".")[0] for path in paths] == ["TENSORDICT", "HOLDER"]


def test_constants_in_the_arguments_of_a_partial():
    layers, _ = lf.trace(partial(lambda x, w, *, b: x * w + b, w=CONSTANT, b=A), B)
    assert list(layers[layers["kind"] == "constant"]["path"]) == ["w", "b"]


class Nested(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_submodules_are_those_of_torch():
    shared = nn.Linear(1, 1)
    model = nn.Sequential(shared, nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU())}))
    for prefix in ("", "root"):
        assert list(submodules(model, prefix)) == list(model.named_modules(prefix=prefix))


def test_500_nested_modules():
    model = nn.Identity()
    for _ in range(500):
        model = Nested(model)
    assert len(list(submodules(model))) == 501
    assert len(list(tensors_in(vars(model)))) == 0


def test_a_class_with_a_cached_method_is_freed():
    def trace_once():
        class Cached(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(2))

            @lru_cache  # noqa: B019 (the fault is about this)
            def mask(self, n):
                super().__getattr__("w")
                return torch.ones(n)

            def forward(self, x):
                return x * self.mask(2)

        lf.trace(Cached().eval(), B)
        return weakref.ref(Cached)

    kind = trace_once()
    gc.collect()
    assert kind() is None

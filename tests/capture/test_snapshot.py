"""What a snapshot puts back: a table of kinds of objects, and what changes them."""

import gc
import itertools
import random
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture.snapshot import Snapshot


class Slots:
    __slots__ = ("calls", "unset")

    def __init__(self):
        self.calls = 0


class SlotsBelow(Slots):
    __slots__ = ("more",)

    def __init__(self):
        super().__init__()
        self.more = []


class Called:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1


class Closed:
    """Every dunder of the user's own raises; attributes are set past them."""

    def __init__(self):
        object.__setattr__(self, "calls", [0])

    def _no(self, *_):
        raise RuntimeError("code of the user's ran")

    __getattr__ = __setattr__ = __delattr__ = __len__ = __iter__ = __bool__ = _no
    __eq__ = __hash__ = __getitem__ = __contains__ = __repr__ = __str__ = _no
    __class__ = __dict__ = property(_no)


class LoudDict(dict):
    def _no(self, *_):
        raise RuntimeError("code of the user's ran")

    __getitem__ = __setitem__ = __iter__ = __len__ = __bool__ = keys = items = values = _no
    clear = update = copy = __eq__ = _no


class LoudList(list):
    _no = LoudDict._no
    __getitem__ = __setitem__ = __iter__ = __len__ = __bool__ = clear = extend = copy = __eq__ = _no


@dataclass(slots=True)
class SlottedData:
    calls: int = 0
    seen: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    seen: list = field(default_factory=list)


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
        self.register_buffer("b", torch.zeros(2))
        self.calls = 0

    def change(self):
        self.calls += 1
        self.new = 1
        with torch.no_grad():
            self.w += 1
        self.b = self.b + 1


def change_slots(s):
    s.calls += 1
    s.unset = 1


def attribute(value, name="calls"):
    return getattr(value, name)


def change_closed(value):
    object.__getattribute__(value, "calls").append(1)


def kept(value):
    return Snapshot([("", value)])


def vars_without(ordered):
    """Its attributes, without giving it a `__dict__` that it has not."""
    return {name: kept for found in gc.get_referents(ordered) for name, kept in found.items()}


def noted(ordered):
    ordered.note = 0
    return ordered


# kind: (make, change, what it is)
def escaped(transform):
    """What torch.func wraps a tensor in, kept by a cache until after its level is over."""
    kept = []
    transform(lambda x: (kept.append(x), x * 1)[1])(torch.zeros(3))
    return kept[0]


inside = torch._C._functorch.get_unwrapped

CASES = {
    "dict": (lambda: {"a": 1}, lambda d: d.update(b=2), dict),
    "dict, key gone": (lambda: {"a": 1, "b": 2}, lambda d: d.pop("a"), lambda d: [*d.items()]),
    "OrderedDict": (
        lambda: OrderedDict(a=1, b=2),
        lambda d: d.move_to_end("a"),
        lambda d: [*d.items()],
    ),
    "empty OrderedDict": (OrderedDict, lambda d: d.update(a=1), dict),
    "empty OrderedDict, attribute": (OrderedDict, lambda d: setattr(d, "note", 1), vars_without),
    "empty OrderedDict, both": (
        OrderedDict,
        lambda d: (d.update(a=1), setattr(d, "note", 1)),
        lambda d: (dict(d), hasattr(d, "note")),
    ),
    "OrderedDict with an attribute": (
        lambda: noted(OrderedDict()),
        lambda d: setattr(d, "note", 1),
        lambda d: d.note,
    ),
    "defaultdict": (lambda: defaultdict(list, a=[]), lambda d: d["x"].append(1), dict),
    "list in defaultdict": (lambda: defaultdict(list, a=[]), lambda d: d["a"].append(1), str),
    "Counter": (lambda: Counter("aab"), lambda c: c.update("b"), dict),
    "ChainMap": (lambda: ChainMap({"a": 1}, {"b": 2}), lambda c: c.maps[1].clear(), dict),
    "UserDict": (lambda: UserDict(a=1), lambda d: d.update(b=1), dict),
    "LoudDict": (
        lambda: LoudDict(a=1),
        lambda d: dict.__setitem__(d, "a", 2),
        lambda d: [*dict.items(d)],
    ),
    "list": (lambda: [1, 2], lambda x: x.reverse(), list),
    "LoudList": (
        lambda: LoudList((1, 2)),
        lambda x: list.append(x, 3),
        lambda x: [*list.__iter__(x)],
    ),
    "list in tuple": (lambda: ([],), lambda x: x[0].append(1), str),
    "set": (lambda: {1, 2}, lambda s: s.add(3), set),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda d: d.append(3), list),
    "frozen dataclass": (Frozen, lambda f: f.seen.append(1), str),
    "dataclass with slots": (SlottedData, lambda s: setattr(s, "calls", 1), str),
    "slots": (Slots, change_slots, lambda s: (s.calls, hasattr(s, "unset"))),
    "inherited slots": (
        SlotsBelow,
        lambda s: (change_slots(s), s.more.append(1)),
        lambda s: (s.calls, hasattr(s, "unset"), str(s.more)),
    ),
    "slot deleted": (Slots, lambda s: delattr(s, "calls"), lambda s: hasattr(s, "calls")),
    "SimpleNamespace": (
        lambda: SimpleNamespace(calls=0, seen=[]),
        lambda s: (setattr(s, "calls", 1), s.seen.append(1)),
        str,
    ),
    "MappingProxyType": (
        lambda: (lambda d: SimpleNamespace(view=MappingProxyType(d), add=d.update))({"a": 1}),
        lambda s: s.add(b=1),
        lambda s: dict(s.view),
    ),
    "partial": (
        lambda: partial(print, [], end=[]),
        lambda p: (p.keywords.update(x=1), p.args[0].append(1), p.keywords["end"].append(1)),
        lambda p: str((p.args, p.keywords)),
    ),
    "bound method": (lambda: Called().__call__, lambda m: m(), lambda m: m.__self__.calls),
    "callable": (Called, lambda c: c(), attribute),
    "raising dunders": (
        Closed,
        change_closed,
        lambda c: str(object.__getattribute__(c, "calls")),
    ),
    "module": (
        Tree,
        Tree.change,
        lambda m: (m.calls, m.w.tolist(), m.b.tolist(), hasattr(m, "new")),
    ),
    "tensor": (lambda: torch.zeros(3), lambda t: t.add_(1), torch.Tensor.tolist),
    "kept after vmap": (
        lambda: escaped(torch.vmap),
        lambda t: inside(t).add_(1),
        lambda t: inside(t).tolist(),
    ),
    "kept after grad": (
        lambda: escaped(lambda f: torch.func.grad(lambda x: f(x).sum())),
        lambda t: inside(t).add_(1),
        lambda t: inside(t).tolist(),
    ),
    "torch.Generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda g: torch.rand(3, generator=g),
        lambda g: g.get_state().tolist(),
    ),
    "numpy Generator": (
        lambda: np.random.default_rng(1),
        lambda g: g.random(3),
        lambda g: str(g.bit_generator.state),
    ),
    "numpy RandomState": (
        lambda: np.random.RandomState(1),
        lambda g: g.rand(3),
        lambda g: str(g.get_state()),
    ),
    "numpy BitGenerator": (
        lambda: np.random.PCG64(1),
        lambda g: g.random_raw(),
        lambda g: str(g.state),
    ),
    "random.Random": (lambda: random.Random(1), lambda g: g.gauss(0, 1), random.Random.getstate),
}


def attribute_of_callable(value):
    holder = Called()
    holder.value = value
    return holder


HELD = {
    "bare": lambda x: x,
    "nested": lambda x: {"in": [x]},
    "in a callable": attribute_of_callable,
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("wrap", HELD.values(), ids=[*HELD])
def test_what_changed_is_put_back_as_often_as_wanted(kind, wrap):
    make, change, shown = CASES[kind]
    value = make()
    holder = wrap(value)
    before = shown(value)
    snapshot = kept(holder)
    assert not snapshot.unrestorable
    for _ in range(2):
        change(value)
        assert shown(value) != before
        snapshot.restore()
        assert shown(value) == before


def test_an_empty_ordered_dict_is_given_no_dictionary_of_attributes():
    """A module has a dozen, and each such dictionary would stay: a kilobyte a module."""
    module = torch.nn.Linear(2, 2)
    ordered = [held for held in vars(module).values() if type(held) is OrderedDict]
    snapshot = kept(module)
    module.weight.data.add_(1)
    snapshot.stands(), snapshot.restore()
    assert len(ordered) > 5
    assert not any(gc.get_referents(held) for held in ordered if not held)


ITERATORS = {
    "count": lambda: itertools.count(3, 2),
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "list": lambda: iter([1, 2, 3, 4, 5, 6, 7, 8]),
    "tuple": lambda: iter((1, 2, 3, 4, 5, 6, 7, 8)),
    "range": lambda: iter(range(9)),
    "dict": lambda: iter(dict.fromkeys(range(9))),
    "items": lambda: iter(dict.fromkeys(range(9)).items()),
    "set": lambda: iter(set(range(9))),
    "text": lambda: iter("abcdefghi"),
    "reversed": lambda: reversed([1, 2, 3, 4, 5, 6, 7, 8]),
    "enumerate": lambda: enumerate("abcdefghi"),
    "zip": lambda: zip(range(9), itertools.cycle("ab"), strict=False),
    "map": lambda: map(abs, iter([-1, -2, -3, -4, -5, -6, -7, -8])),
    "filter": lambda: filter(None, iter(range(9))),
    "chain": lambda: itertools.chain([1], iter([2, 3, 4]), range(9)),
    "islice": lambda: itertools.islice(itertools.count(), 2, 20),
    "accumulate": lambda: itertools.accumulate(range(9)),
    "tee": lambda: itertools.tee(iter(range(9)))[1],
    "product": lambda: itertools.product("ab", repeat=4),
}
HOLDERS = {
    "attribute": (SimpleNamespace(), lambda h, x: setattr(h, "it", x), lambda h: h.it),
    "list": ([None], lambda h, x: h.__setitem__(0, x), lambda h: h[0]),
    "dict": ({}, lambda h, x: h.update(it=x), lambda h: h["it"]),
    "slot": (Slots(), lambda h, x: setattr(h, "unset", x), lambda h: h.unset),
    "deque": (deque([None]), lambda h, x: h.__setitem__(0, x), lambda h: h[0]),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("kind", ITERATORS)
def test_a_fresh_iterator_stands_where_one_was(kind, holder):
    held, put, get = HOLDERS[holder]
    put(held, ITERATORS[kind]())
    expected = ITERATORS[kind]()
    first = [next(it) for it in (expected, get(held))]
    assert first[0] == first[1]
    rest = list(itertools.islice(expected, 5))
    snapshot = kept(held)
    assert not snapshot.unrestorable
    for _ in range(3):
        assert list(itertools.islice(get(held), 5)) == rest
        snapshot.restore()
    assert list(itertools.islice(get(held), 5)) == rest


def test_an_iterator_held_twice_stays_one():
    it = itertools.count()
    held = SimpleNamespace(a=it, b=[zip(it, "abc", strict=False), it])
    snapshot = kept(held)
    next(held.a)
    snapshot.restore()
    assert held.a is held.b[1]
    assert next(held.a) == 0
    assert next(held.b[0]) == (1, "a")


def test_what_cannot_be_put_back_is_noted():
    class Model:
        def __init__(self):
            self.lines = (line for line in "abc")
            self.fixed = (itertools.count(),)

    snapshot = kept(Model())
    assert dict(snapshot.unrestorable) == {"lines": "generator", "fixed.0": "count"}


def test_deep_chains_and_circles():
    chain = last = SimpleNamespace(next=None, calls=0)
    for _ in range(10_000):
        last.next = SimpleNamespace(next=None, calls=0)
        last = last.next
    last.next = chain
    snapshot = kept(chain)
    last.calls = 1
    snapshot.restore()
    assert last.calls == 0


class Counts(nn.Module):
    """Counts its calls in an object of every kind."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.slots = Slots()
        self.called = Called()
        self.space = SimpleNamespace(calls=0)
        self.under = {"calls": 0}
        self.view = MappingProxyType(self.under)
        self.torch_generator = torch.Generator().manual_seed(0)
        self.numpy_generator = np.random.default_rng(0)
        self.python_generator = random.Random(0)
        self.count = itertools.count()
        self.names = iter(["a", "b", "c", "d", "e", "f", "g", "h"])

    def forward(self, x):
        self.slots.calls += 1
        self.called()
        self.space.calls += 1
        self.under["calls"] += 1
        noise = torch.rand(2, generator=self.torch_generator)
        self.numpy_generator.random()
        self.python_generator.random()
        next(self.count)
        next(self.names)
        return self.linear(x + noise)

    def place(self):
        return (
            self.slots.calls,
            self.called.calls,
            self.space.calls,
            dict(self.view),
            self.torch_generator.get_state().tolist(),
            str(self.numpy_generator.bit_generator.state),
            self.python_generator.getstate(),
            repr(self.count),
            self.names.__length_hint__(),
        )


@pytest.mark.parametrize("how", ["trace.validate", "lens.validate"])
def test_validate_leaves_a_model_as_it_was(how):
    model, x = Counts().eval(), torch.rand(1, 2)
    trace = lf.trace(model, (x,), save="all")
    before = model.place()
    if how == "trace.validate":
        trace.validate()
    else:
        trace.layers.lens.validate(model, (x,), activations=trace.activations)
    assert model.place() == before


def test_validate_leaves_a_callable_as_it_was():
    calls, seen = 0, []

    def f(x, log=[]):  # noqa: B006
        nonlocal calls
        calls += 1
        seen.append(calls)
        log.append(calls)
        f.calls += 1
        return x + calls

    f.calls = 0
    trace = lf.trace(f, (torch.rand(2),), save="all")
    before = (calls, [*seen], [*f.__defaults__[0]], f.calls)
    trace.validate()
    assert (calls, seen, f.__defaults__[0], f.calls) == before


def _resized(tensor):
    tensor.untyped_storage().resize_(8)


CHANGES = {
    "one number": lambda t: t.view(-1)[-1:].add_(1),
    "a zero of another sign": lambda t: t.mul_(0).neg_(),
    "NaN": lambda t: t.fill_(torch.nan),
    "other data": lambda t: setattr(t, "data", torch.ones(3, 5)),
    "another shape": lambda t: t.unsqueeze_(0),
    "turned": lambda t: t.t_(),
    "less memory": _resized,
    "followed by autograd": lambda t: t.requires_grad_(),
    "a gradient": lambda t: setattr(t, "grad", torch.ones_like(t)),
    "nothing": lambda t: t.add_(0),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("n", [1, 3, 300])
@pytest.mark.parametrize("size", [(4, 6), (300, 300), (3, 3)])
def test_each_of_many_tensors_is_put_back(name, n, size):
    """Small ones are kept with one copy of all; (3, 3) cannot be seen as numbers of eight bytes."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.rand(size, generator=generator) for _ in range(n if size != (300, 300) else 3)]
    known = [t.clone() for t in tensors]
    kept = Snapshot([("tensors", tensors)])
    assert kept.stands()
    changed = tensors[len(tensors) // 2]
    CHANGES[name](changed)
    assert kept.stands() == (name == "nothing")
    for tensor in tensors:
        assert kept.holds(id(tensor))
        assert kept.unmoved(tensor) == (
            tensor is not changed or name in ("nothing", "followed by autograd", "a gradient")
        )
    kept.restore()
    assert kept.stands()
    for tensor, value in zip(tensors, known, strict=True):
        assert torch.equal(tensor.detach(), value)
        assert torch.equal(tensor.detach().signbit(), value.signbit())
        assert tensor.stride() == value.stride()
        assert not tensor.requires_grad
        assert tensor.grad is None

"""What modules keep: each attribute beside the usual ones is found, and no code of theirs runs."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture.attributes import attributes_of

T = torch.ones(3)
OLD = torch.full((3,), 2.0)


class Never(type):
    """A metaclass whose classes can be neither hashed nor compared."""

    def __hash__(cls):
        raise RuntimeError("a class was hashed")

    def __eq__(cls, other):
        raise RuntimeError("a class was compared")


class Unhashed(metaclass=Never):
    def __init__(self):
        self.kept = T


class Text(str):
    __slots__ = ()

    def __eq__(self, other):
        raise RuntimeError("a key was compared")

    __hash__ = str.__hash__


class Slotted(nn.Module):
    __slots__ = ("place",)


@dataclasses.dataclass(eq=False)
class Fields(nn.Module):
    late: object = None
    early: object = None

    def __post_init__(self):
        super().__init__()


class Virtual(nn.Module):
    """Its `__dict__` is not the dictionary of its attributes."""

    @property
    def __dict__(self):
        raise RuntimeError("a property ran")


def module(**attributes):
    made = nn.Module()
    for name, value in attributes.items():
        object.__setattr__(made, name, value)
    return made


def keyed(key):
    made = nn.Module()
    made.__dict__[key] = T
    return made


def slotted():
    made = Slotted()
    made.place, made.other = T, T
    return made


def without(name):
    made = module(kept=T)
    del made.__dict__[name]
    return made


def moved_to_the_end():
    made = module(kept=T)
    made.__dict__["_modules"] = made.__dict__.pop("_modules")
    return made


def before_the_usual():
    class Early(nn.Module):
        def __init__(self):
            self.__dict__["kept"] = T
            super().__init__()

    return Early()


KEPT = {
    "a tensor": (lambda: module(kept=T), ["kept"]),
    "numbers and texts": (lambda: module(a=1, b=2.0, c="c", d=None, e=True, f=1j, g=b"g"), []),
    "torch's values": (lambda: module(a=T.dtype, b=T.device, c=T.shape, d=torch.strided), []),
    "a class": (lambda: module(kind=nn.Linear), []),
    "a class of a metaclass": (lambda: module(kind=Unhashed), ["kind"]),
    "tuples of values": (lambda: module(a=(), b=(1,), c=(3, 3), d=(1, 2, 3), e=("a", None)), []),
    "tuples of more": (lambda: module(a=(T,), b=(1, T), c=(1, [], 2), d=(1, (2, 3))), list("abcd")),
    "a named tuple": (
        lambda: module(a=collections.namedtuple("Pair", "x y")(1, 2)),
        ["a"],
    ),
    "nothing in it": (lambda: module(a={}, b=[], c=set()), []),
    "one in it": (lambda: module(a={1: T}, b=[T], c={1}), ["a", "b", "c"]),
    "other containers": (
        lambda: module(a=collections.OrderedDict(), b=collections.deque([T]), c=frozenset((1,))),
        ["a", "b", "c"],
    ),
    "a function": (lambda: module(a=lambda: T, b=torch.sin), ["a", "b"]),
    "what cannot be hashed": (lambda: module(a=Unhashed()), ["a"]),
    "slots": (slotted, ["other", "place"]),
    "a dataclass": (lambda: Fields(early=T, late=[T]), ["late", "early"]),
    "a number as a name": (lambda: keyed(7), ["7"]),
    "a text of another class": (lambda: keyed(Text("kept")), ["kept"]),
    "a name with a zero": (lambda: keyed("a\0b"), ["a\0b"]),
    "as two names": (lambda: module(**{"a\0b": T, "c": 1}), ["a\0b"]),
    "less than usual": (lambda: without("training"), ["kept"]),
    "in another order": (moved_to_the_end, ["kept"]),
    "before the usual": (before_the_usual, ["kept"]),
    "a module in a list": (lambda: module(a=[nn.Linear(2, 2)]), ["a"]),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_a_module_keeps(what):
    make, names = KEPT[what]
    made = make()
    found = attributes_of([("", made), ("deep.er", made)])
    assert [path for path, _, _ in found.own] == names + [f"deep.er.{name}" for name in names]
    assert all(owner is type(made) for _, _, owner in found.own)
    assert found.hooks == []
    assert [*map(id, found.kinds)] == [id(type(made))]


def test_one_class_with_different_attributes():
    named = [("a", module(x=T)), ("b", module(y=T, x=1)), ("c", module()), ("d", module(x=T, y=T))]
    assert [path for path, _, _ in attributes_of(named).own] == ["a.x", "b.y", "d.x", "d.y"]


def test_hooks_of_each_kind_are_told_apart_from_attributes():
    linear, slotted_one = nn.Linear(3, 3), slotted()

    def before(*args):
        pass

    def after(*args):
        pass

    for held in (linear, slotted_one):
        held.register_forward_pre_hook(before)
        held.register_forward_hook(after)
    found = attributes_of([("linear", linear), ("slotted", slotted_one)])
    assert [hook for _, hook, _ in found.hooks] == [before, after] * 2
    assert [owner for _, _, owner in found.hooks] == [nn.Linear] * 2 + [Slotted] * 2
    assert [path for path, _, _ in found.own] == ["slotted.other", "slotted.place"]


def test_a_module_whose_dict_is_a_property_is_read_all_the_same():
    made = Virtual.__new__(Virtual)
    nn.Module.__init__(made)
    object.__setattr__(made, "kept", T)
    assert [path for path, _, _ in attributes_of([("", made)]).own] == ["kept"]


def test_a_model_that_holds_what_cannot_be_hashed_is_traced():
    model = nn.Linear(3, 3).eval()
    model.odd = Unhashed()
    assert list(lf.trace(model, torch.ones(2, 3)).layers.index) == [
        "input_1",
        "linear_1",
        "output_1",
    ]


class Reads(nn.Module):
    """Adds to its input what `read` gives."""

    def __init__(self, read):
        super().__init__()
        self.read = read
        self.scale = OLD
        self.nest = {"a": [OLD]}

    def forward(self, x):
        return x + self.read(self)


def names_of(model):
    layers = lf.trace(model, torch.ones(3)).layers
    return list(layers.loc[layers["kind"] == "constant", "path"])


def new():
    return torch.full((3,), 3.0)


def replace_attribute(model):
    model.scale = new()


def replace_inside(model):
    model.nest["a"][0] = new()


def add_inside(model):
    model.nest["b"] = {"c": (new(),)}


def add_attribute(model):
    model.later = [new()]


CHANGES = {
    "an attribute": (lambda m: m.scale, replace_attribute, ["scale"]),
    "deep in a container": (lambda m: m.nest["a"][0], replace_inside, ["nest.a.0"]),
    "another key": (
        lambda m: m.nest["b"]["c"][0] if "b" in m.nest else m.scale,
        add_inside,
        ["nest.b.c.0"],
    ),
    "another attribute": (
        lambda m: m.later[0] if hasattr(m, "later") else m.scale,
        add_attribute,
        ["later.0"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_between_runs_is_seen(what):
    read, change, names = CHANGES[what]
    model = Reads(read).eval()
    assert len(names_of(model)) == 1
    change(model)
    assert names_of(model) == names
    assert names_of(model) == names


def test_a_buffer_and_a_module_that_are_replaced_between_runs_are_the_new_ones():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).eval()
    x = torch.ones(2, 3)
    lf.trace(model, x)
    model[0].running_mean = torch.full((3,), 5.0)
    model[1] = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    layers, activations = lf.trace(model.eval(), x)
    assert layers.loc["linear_1", ["module", "params"]].tolist() == [
        "1.0",
        ("1.0.weight", "1.0.bias"),
    ]
    assert torch.equal(torch.from_numpy(activations["output_1"].values.copy()), model(x).detach())

"""Arguments as cells of a row: what is written of a call, and that the same call comes back."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from zoo.models import models

import lensframe_pd as lf
from lensframe_pd.tape.config import Encoded, decode, encode, slot_roles
from lensframe_pd.tape.functions import Action, Function, describe
from lensframe_pd.tape.tape import SLOT, Array, Opaque
from lensframe_pd.tape.targets import Unreadable, resolve


def same(a, b):
    """Equal, of one type, to the sign of a zero; a NaN is a NaN, an array its elements."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Array):
        return a.value.dtype == b.value.dtype and a.value.tobytes() == b.value.tobytes()
    if isinstance(a, Opaque):
        return a.description == b.description
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, slice):
        return same([a.start, a.stop, a.step], [b.start, b.stop, b.step])
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    return a is b or a == b


def takes(*names, gathers=None):
    """A function with these arguments."""
    return Function(print, "print", "builtins.print", Action.PLAIN, names, gathers=gathers)


names = st.sampled_from(["input", "other", "size", "dtype", "device", "a", "b"])
atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text("abc :0$"),
    st.complex_numbers(), st.just(SLOT),
    st.sampled_from([torch.float32, torch.bfloat16, torch.strided, torch.channels_last, ...]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda:1"), "cpu", Opaque("user.Thing")]),
    st.builds(Array, st.sampled_from([
        np.array([1.5, np.nan, -np.inf]), np.zeros((0, 3), "int16"), np.array(True),
        np.array([[1 + 2j]], "complex64"), np.array(["a", "bc"]),
    ])),
)  # fmt: skip
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(slice, inner, inner, inner),
        st.dictionaries(st.text("abc0", max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(
    st.lists(names, unique=True, max_size=4).map(tuple),
    st.lists(values, max_size=5).map(tuple),
    st.dictionaries(names, values, max_size=3),
)
def test_a_call_comes_back(arg_names, args, kwargs):
    function = takes(*arg_names)
    encoded = encode(function, args, kwargs)
    roles = slot_roles(function, args, kwargs)
    assert len(set(roles)) == len(roles)
    json.loads(encoded.config, parse_constant=pytest.fail)  # JSON has no NaN
    read = decode(function, encoded, roles[::-1])
    assert same(read.args, args)
    assert same(read.kwargs, kwargs)
    assert sorted(read.roles) == sorted(roles)
    assert read.roles == slot_roles(function, read.args, read.kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "n_positional", "tuple_args"),
    [
        (torch.conv2d, (SLOT, SLOT, None, (1, 1), [0, 0]), {}, 5, ("stride",)),
        (torch.Tensor.__getitem__, (SLOT, ([0, (1, 2)], slice(None))), {}, 2, ("idx.0.1",)),
        (torch.Tensor.view, (SLOT, 2, 3), {}, 2, ()),
        (torch.Tensor.view, (SLOT, (2, 3)), {}, 2, ("size",)),
        (torch.randint, (0, 10), {"size": (2, 3)}, 2, ("size",)),
        (torch.Tensor.to, (SLOT, "cpu"), {"dtype": torch.int8}, 2, ()),
        (torch.add, (SLOT,), {"other": SLOT, "alpha": 2}, 1, ()),
        (torch.zeros, (torch.Size([2]),), {}, 1, ("size",)),
    ],
)
def test_how_arguments_were_given(function, args, kwargs, n_positional, tuple_args):
    function = describe(function)
    encoded = encode(function, args, kwargs)
    assert encoded[1:] == (n_positional, tuple_args)
    assert decode(function, encoded, slot_roles(function, args, kwargs)).kwargs == kwargs


def test_a_name_that_is_taken_is_a_number():
    """`randint(0, 10, size=...)` has not the argument that torch calls `size` second."""
    layers = lf.trace(lambda x: x + torch.randint(0, 10, size=(2, 3)), torch.zeros(2, 3)).layers
    row = layers.loc["randint_1"]
    assert json.loads(row["config"]) == {"high": 0, "1": 10, "size": [2, 3]}
    assert (row["n_positional"], row["tuple_args"]) == (2, ("size",))


def test_what_is_only_described():
    function = takes("a", "b", "c")
    args = ({1: SLOT}, b"bytes", np.array([None]))
    encoded = encode(function, (args[0], args[1], Array(args[2])), {})
    cells = json.loads(encoded.config)
    assert [*cells["a"], *cells["b"], *cells["c"]] == ["$object"] * 3
    assert encode(function, (np.float32(0.5), range(2), np.int64(3)), {}).config == (
        '{"a": 0.5, "b": [0, 1], "c": 3}'
    )


@pytest.mark.parametrize(
    ("cells", "roles"),
    [
        (("{}", 2, ()), ["input"]),
        (("{}", 1, ()), []),
        (('{"tensors": [{"$tensor": true}]}', 1, ()), ["tensors.1"]),
        (('{"input": {"$new": 1}}', 1, ()), []),
    ],
)
def test_cells_that_are_no_call(cells, roles):
    with pytest.raises(Unreadable):
        decode(takes("input", "other"), Encoded(*cells), roles)


ZOO = """
torchvision/alexnet torchvision/swin_t torchvision/fasterrcnn_mobilenet_v3_large_320_fpn
torchvision/raft_small timm/levit_128s timm/crossvit_tiny_240 timm/resnest14d
transformers/GPT2Model transformers/BigBirdModel transformers/MambaModel transformers/MixtralModel
transformers/T5Model transformers/Wav2Vec2Model recurrent/gru_packed recurrent/langevin
recurrent/lstm_bidirectional recurrent/fourier_operator
""".split()


@pytest.mark.parametrize("name", ZOO)
def test_every_call_of_a_model_is_read_from_its_row(name, tmp_path):
    made = models()[name]()
    with torch.no_grad():
        trace = lf.trace(made.model, made.args, made.kwargs, save=None)
    trace.layers.to_parquet(tmp_path / "layers.parquet")
    frame = pd.read_parquet(tmp_path / "layers.parquet")
    calls = trace.tape.calls
    for row in frame[frame["kind"] == "op"].to_dict("records"):
        call = calls[row["call"]]
        encoded = Encoded(row["config"], row["n_positional"], row["tuple_args"])
        roles = [*row["parent_args"], *row["param_args"], *row["buffer_args"]]
        read = decode(describe(resolve(row["target"])), encoded, roles)
        assert same(read.kwargs, plain(call.kwargs))
        assert same(read.args, plain(gathered(call.function, call.args)))
        assert {*read.roles} == {*slot_roles(call.function, call.args, call.kwargs)}


def gathered(function, args):
    """Sizes given one by one are one list."""
    first = function.gathers
    if first is not None and len(args) > first and all(type(a) is int for a in args[first:]):
        return (*args[:first], [*args[first:]])
    return args


def plain(value):
    """NumPy's numbers, ranges and `torch.Size` as Python's."""
    if isinstance(value, (Array, Opaque)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return list(value)
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


@pytest.mark.parametrize(
    ("call", "config"),
    [
        (lambda x: x[1:, None, ..., 0], {"1": {"$tuple": [{"$slice": [1, None, None]}, None,
                                                        {"$ellipsis": True}, 0]}}),
        (lambda x: x.to(torch.float64), {"1": {"$dtype": "float64"}}),
        (lambda x: x.clamp(max=float("inf")), {"max": {"$float": "inf"}}),
        (lambda x: torch.zeros(2, device="cpu"), {"size": [2], "device": "cpu"}),
        (lambda x: x + 1, {"other": 1}),
        (lambda x: x + 1.0, {"other": 1.0}),
        (lambda x: x + True, {"other": True}),
        (lambda x: x.transpose(0, 1), {"dim0": 0, "dim1": 1}),
        (lambda x: torch.cat([x, x], dim=1), {"tensors": [{"$tensor": True}] * 2, "dim": 1}),
        (lambda x: torch.as_tensor(np.array([1.0, np.inf])),
         {"0": {"$array": [1.0, {"$float": "inf"}], "dtype": "float64"}}),
    ],
)  # fmt: skip
def test_config_is_lossless_json(call, config):
    layers = lf.trace(call, torch.zeros(3, 2)).layers
    row = layers[layers["kind"] == "op"].iloc[-1]
    found = json.loads(row["config"])
    assert list(found.values()) == list(config.values())
    assert [type(v) for v in found.values()] == [type(v) for v in config.values()]
    named = [name for name in config if not name.isdigit()]
    assert [name for name in found if name in named] == named


@pytest.mark.parametrize("values", [(1, 1.0, True), (0, 0.0, -0.0, False)])
def test_numbers_that_are_equal_are_not_confused(values):
    layers = lf.trace(lambda x: [x * value for value in values], torch.ones(1)).layers
    found = [json.loads(cell)["other"] for cell in layers.loc[layers["func"] == "mul", "config"]]
    assert [*map(repr, found)] == [*map(repr, values)]


def test_a_list_and_a_tuple_are_not_confused():
    layers = lf.trace(lambda x: (x.sum([0]), x.sum((0,))), torch.ones(1)).layers
    sums = layers[layers["func"] == "sum"]
    assert sums["config"].tolist() == ['{"dim": [0]}'] * 2
    assert sums["tuple_args"].tolist() == [(), ("dim",)]


def test_arrays_that_look_alike_are_not_confused():
    """NumPy prints large arrays, and long fractions, in short."""
    arrays = [np.arange(2000), np.arange(2000)]
    arrays[1][1000] = 0
    layers = lf.trace(lambda x: [x[a,] for a in arrays], torch.ones(2000)).layers
    found = layers.loc[layers["func"] == "getitem", "config"]
    found = [next(iter(json.loads(cell).values())) for cell in found]
    assert [index[0]["$array"] for index in found] == [a.tolist() for a in arrays]

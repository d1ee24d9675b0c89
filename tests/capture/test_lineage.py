"""Links and memory that are easy to lose: broken ones warn, whole ones stay silent."""

import gc
import io
import json
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.arange(32.0).reshape(4, 8)


def silent(model, *args, **options):
    """A trace that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", lf.LensWarning)
        return lf.trace(model, args, **options)


class RoundTrip(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.sin(x.numpy()))


def test_a_round_trip_that_a_module_returns_warns():
    model = nn.Sequential(nn.Linear(8, 8), RoundTrip(), nn.ReLU()).eval()
    with torch.no_grad(), pytest.warns(lf.LensWarning, match="'constant_1', consumed by 'relu_1'"):
        layers = lf.trace(model, X).layers
    assert list(layers["func"]) == ["input", "linear", "constant", "relu", "output"]


@pytest.mark.parametrize("save", ["all", None, "0"])
def test_what_hooks_do_themselves_is_no_row(save):
    class StaleView(nn.Module):
        def forward(self, x):
            x = x.clone()
            v = x[0]
            x.add_(1)
            return v

    layers = silent(nn.Sequential(StaleView(), nn.ReLU()).eval(), X, save=save).layers
    assert list(layers.index) == [
        "input_1", "clone_1", "getitem_1", "add_1", "alias_1", "relu_1", "output_1",
    ]  # fmt: skip
    assert layers.loc["alias_1", "parents"] == ("getitem_1", "add_1")
    assert layers.loc["alias_1", "returned_by"] == ("0:1",)
    assert layers.loc["relu_1", "parents"] == ("alias_1",)


def test_numpy_arguments_are_described_and_copied():
    array = np.ones(8, dtype=np.float32)

    def forward(x):
        y = x + torch.as_tensor(array)
        array[:] = 7
        return y

    layers = silent(forward, X).layers
    (data,) = json.loads(layers.loc["as_tensor_1", "config"]).values()
    assert data == {"$array": [1.0] * 8, "dtype": "float32"}


@pytest.mark.parametrize("save", ["all", "0"])
def test_a_trace_is_freed_without_the_collector(save):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    gc.collect()
    gc.disable()
    try:
        trace = silent(model, X, save=save)
        tape = weakref.ref(trace.tape)
        del trace
        assert tape() is None
    finally:
        gc.enable()


def test_many_aliased_writes_have_few_parents():
    """Disjoint blocks do not alias each other, in whatever order they are written."""

    def forward(x):
        blocks = list(x.clone().unbind())
        for i in (2, 0, 3, 1):
            blocks[i].add_(i)
        return blocks[0] + blocks[3]

    layers = silent(forward, X).layers
    assert "alias" not in set(layers["kind"])
    assert layers.loc["add_2", "parents"] == ("add_1:2", "add_1:3")  # of blocks 0 and 3


class Pair(torch.Tensor):
    """Two tensors as one; every operation is done on both."""

    @staticmethod
    def __new__(cls, first, second):
        return torch.Tensor._make_wrapper_subclass(cls, first.shape, dtype=first.dtype)

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __tensor_flatten__(self):
        return ["first", "second"], None

    @staticmethod
    def __tensor_unflatten__(parts, meta, size, stride):
        return Pair(parts["first"], parts["second"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def on(name):
            def part(value):
                return getattr(value, name) if isinstance(value, Pair) else value

            return func(*map(part, args), **{k: part(v) for k, v in (kwargs or {}).items()})

        first, second = on("first"), on("second")
        if func is torch.ops.aten.add_.Tensor:
            return args[0]
        return Pair(first, second)


def test_the_parts_of_a_wrapper_come_from_what_made_it():
    def forward(x):
        pair = Pair(x * 2, x * 3) + 1
        first = pair.first.neg()
        return first - pair.second

    layers = silent(forward, X).layers
    assert layers["parents"].to_dict() == {
        "input_1": (), "mul_1": ("input_1",), "mul_2": ("input_1",), "alias_1": ("mul_1", "mul_2"),
        "add_1": ("alias_1",), "alias_2": ("add_1",), "neg_1": ("alias_2",),
        "alias_3": ("add_1",), "sub_1": ("neg_1", "alias_3"), "output_1": ("sub_1",),
    }  # fmt: skip


def test_the_parts_of_a_wrapper_in_a_wrapper():
    def forward(x):
        pair = Pair(Pair(x, x * 2), Pair(x * 3, x)).sin()
        return pair.second.first + 1

    layers = silent(forward, X).layers
    assert layers.loc["add_1", "parents"] == ("alias_4",)
    assert layers.loc["alias_4", "parents"] == ("sin_1",)
    assert layers.loc["sin_1", "parents"] == ("alias_3",)
    assert layers.loc["alias_3", "parents"] == ("alias_1", "alias_2")
    assert layers.loc["alias_2", "parents"] == ("mul_2", "input_1")


def test_the_parts_of_an_input_and_of_a_parameter():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(Pair(torch.ones(8), torch.ones(8)), requires_grad=False)

        def forward(self, x):
            return x.first * self.w.second

    layers = silent(Scaled().eval(), Pair(X, X + 1)).layers
    assert layers["kind"].tolist() == ["input", "alias", "alias", "op", "output"]
    assert layers.loc["alias_1", "parents"] == ("input_1",)
    assert layers.loc["alias_2", "params"] == ("w",)
    assert layers.loc["mul_1", "parents"] == ("alias_1", "alias_2")


def test_a_part_that_is_given_to_no_operation_before_is_a_constant_beside_those_that_are():
    held = torch.ones(4, 8)
    layers = silent(lambda x: Pair(x * 2, held) + 1, X).layers
    assert layers.loc["alias_1", "parents"] == ("mul_1", "constant_1")
    assert layers.loc["constant_1", "path"] == "held"


@pytest.mark.parametrize("written", ["wrapper", "part"])
def test_a_write_to_a_wrapper_is_one_to_its_parts_and_the_other_way_round(written):
    def forward(x):
        pair = Pair(x * 2, x * 3)
        part = pair.second
        if written == "wrapper":
            pair.add_(1)
            return part * 5
        part.add_(1)
        return pair * 5

    layers = silent(forward, X).layers
    read = layers.loc["mul_3", "parents"][0]
    assert layers.loc[read, "kind"] == "alias"
    assert layers.loc[read, "parents"][-1] == "add_1"


def test_the_parts_of_a_jagged_tensor():
    nested = torch.nested.nested_tensor_from_jagged(X, torch.tensor([0, 1, 4]))
    layers = silent(lambda x: ((x * 2).values() + 1, x.offsets() + 1), nested).layers
    assert "constant" not in set(layers["kind"])


def test_stimuli_end_at_a_wrapper():
    def forward(x):
        pair = Pair(x.clone(), x.flip(0).clone())
        pair.first.add_(1)
        return pair.second * 1

    activations = silent(forward, X, stimulus=list("abcd")).activations
    assert activations["mul_1"].dims[0] != "stimulus"


def test_a_bound_forward_warns_of_train_mode():
    with pytest.warns(lf.LensWarning, match="train mode"):
        lf.trace(nn.Dropout(0.5).train().forward, X)


class Named(torch.Tensor):
    """A subclass that adds nothing."""


def _back(x):
    return (x.as_subclass(Named) * 2).as_subclass(torch.Tensor) * 3


def _back_and_forth(x):
    for _ in range(3):
        x = (x.as_subclass(Named) + 1).as_subclass(torch.Tensor)
    return x * 3


def _written_between(x):
    y = x.as_subclass(Named) * 2
    y.add_(1)
    z = y.as_subclass(torch.Tensor)
    del y
    return z * 3


PARENTS = {
    "back": (_back, {"mul_1": ("input_1",), "mul_2": ("mul_1",)}),
    "back and forth": (
        _back_and_forth,
        {"add_1:1": ("input_1",), "add_1:2": ("add_1:1",), "add_1:3": ("add_1:2",)},
    ),
    "written between": (
        _written_between,
        {"mul_1": ("input_1",), "add_1": ("mul_1",), "mul_2": ("add_1",)},
    ),
}


@pytest.mark.parametrize("save", ["all", None])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", PARENTS)
def test_a_subclass_that_is_made_a_tensor_again(name, grad, save):
    """Nobody sees `as_subclass`, and what it was made of is gone."""
    forward, expected = PARENTS[name]
    with torch.set_grad_enabled(grad):
        layers = silent(forward, torch.randn(3, 4), save=save).layers
    assert "constant" not in {*layers["kind"]}
    assert {op: layers.loc[op, "parents"] for op in expected} == expected


def test_another_tensor_at_the_address_of_one_of_a_subclass_is_a_constant():
    """The memory of what is gone is given out again, but its storage is not."""

    def forward(x):
        for _ in range(20):
            y = x.as_subclass(Named) * 2
            del y
            z = torch.from_numpy(x.numpy() + 1)
            w = torch.load(_saved(x + 1))
        return z + w

    with pytest.warns(lf.LensWarning):
        layers = lf.trace(forward, X, save=None).layers
    parents = layers.loc[layers.index[layers["func"] == "add"][-1], "parents"]
    assert not any(parent.startswith("mul") for parent in parents)


def _saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return file


class Scaled(nn.Parameter):
    """A parameter of a class of somebody's own."""


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    model[1].weight = model[0].weight
    return model


def without_bias():
    return nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3, affine=False))


def of_many_kinds():
    model = nn.Linear(3, 3)
    model.register_buffer("brief", torch.ones(3, dtype=torch.bfloat16))
    model.register_buffer("whole", torch.arange(4))
    model.register_buffer("phase", torch.ones(2, 2, dtype=torch.complex64))
    model.register_buffer("none", None)
    model.register_buffer("flag", torch.tensor(True), persistent=False)
    model.register_buffer("view", model.whole[1:])
    model.own = Scaled(torch.ones(2))
    model.frozen = nn.Parameter(torch.ones(0, 2), requires_grad=False)
    model.listed = nn.ParameterList([torch.ones(1), torch.ones(2)])
    return model


def sparse():
    model = nn.Linear(3, 3)
    model.register_buffer("adjacency", torch.eye(3).to_sparse())
    return model


def shared():
    model = nn.Module()
    model.first = model.again = nn.Linear(3, 3)
    model.both = nn.ModuleList([model.first, nn.Linear(3, 2)])
    model.forward = lambda x: model.both[1](model.again(x))
    return model


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))


@pytest.mark.parametrize("make", [tied, without_bias, of_many_kinds, sparse, shared, parametrized])
def test_what_a_model_holds_is_known_as_torch_says_it(make):
    model = make().eval()
    expected = {}
    for path, module in model.named_modules():
        before = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and not any(t is tensor for t in expected.values()):
                expected[before + name] = tensor
    parameters = {id(parameter) for parameter in model.parameters()}
    held = lf.trace(model, torch.ones(2, 3), save=None).tape.held
    assert [entry.name for entry in held] == [*expected]
    for entry, tensor in zip(held, expected.values(), strict=True):
        assert entry.tensor is tensor
        assert entry.is_parameter == (id(tensor) in parameters)
        assert type(entry.shape) is tuple
        assert (entry.shape, entry.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert entry.nbytes == tensor.numel() * tensor.element_size()
        assert (entry.numel, entry.requires_grad) == (tensor.numel(), tensor.requires_grad)


def test_what_a_lazy_model_holds_has_no_shape_yet():
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    held = lf.trace(model, torch.ones(2, 3), save=None).tape.held
    assert [(entry.name, entry.shape, entry.numel, entry.nbytes) for entry in held[:2]] == [
        ("0.weight", (), 0, 0),
        ("0.bias", (), 0, 0),
    ]

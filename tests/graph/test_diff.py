"""What two traces do not share: the first difference of ports with a planted fault, and values."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

import lensframe_pd as lf


def test_diff_of_two_ways_through_a_model():
    def model(x, deep):
        x = x.exp()
        return x.sin().cos() if deep else x.cos()

    deep = lf.trace(model, (torch.ones(2), True)).layers
    flat = lf.trace(model, (torch.ones(2), False)).layers
    found = deep.lens.diff(flat)
    told = ["what", "side", "other", "first"]
    assert found[told].to_dict("index") == {
        "sin_1": {"what": "only this", "side": "this", "other": "", "first": True},
        "cos_1": {"what": "parents", "side": "both", "other": "cos_1", "first": False},
    }
    back = flat.lens.diff(deep)
    assert back[told].to_dict("index") == {
        "sin_1": {"what": "only other", "side": "other", "other": "sin_1", "first": True},
        "cos_1": {"what": "parents", "side": "both", "other": "cos_1", "first": False},
    }
    assert [*found.columns[:4]] == told
    assert {*found.columns} == {*deep.columns, *told}
    assert deep.lens.diff(deep).empty
    whole = deep.lens.diff(deep, every=True)
    assert [*whole.index] == [*whole["other"]] == [*deep.index]
    assert not whole["first"].any()


# A small transformer and its ports.

CAUSAL = torch.ones(7, 7).triu(1).bool()
TOKENS = torch.arange(14).view(2, 7) % 11


class Attention(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return self.out(scores.masked_fill(CAUSAL, -math.inf).softmax(-1) @ self.v(x))


class MLP(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width), MLP(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    def __init__(self, n=12, width=8):
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(n)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def traced(model, *args):
    with torch.no_grad():
        return lf.trace(model.eval() if isinstance(model, nn.Module) else model, args)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def reference(net):
    return traced(net, TOKENS)


def forward(module, function):
    """The module with another forward."""
    module.forward = function.__get__(module)


def eps(net):
    net.blocks[4].norm2.eps = 1e-3


def transposed_weight(net):
    weight = net.blocks[3].attn.k.weight
    weight.data = weight.data.T.contiguous()


def transposed_in_the_forward(net):
    attn = net.blocks[3].attn
    forward(attn.out, lambda self, x: F.linear(x, self.weight.T, self.bias))


def swapped_biases(net):
    attn = net.blocks[0].attn
    attn.q.bias, attn.k.bias = attn.k.bias, attn.q.bias


def dropped_mask(net):
    def attention(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return self.out(scores.softmax(-1) @ self.v(x))

    forward(net.blocks[0].attn, attention)


def other_mask(net):
    def attention(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return self.out(scores.masked_fill(CAUSAL, -1.0).softmax(-1) @ self.v(x))

    forward(net.blocks[5].attn, attention)


def other_scale(net):
    def attention(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1] * 2)
        return self.out(scores.masked_fill(CAUSAL, -math.inf).softmax(-1) @ self.v(x))

    forward(net.blocks[0].attn, attention)


def softmax_over_queries(net):
    def attention(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return self.out(scores.masked_fill(CAUSAL, -math.inf).softmax(-2) @ self.v(x))

    forward(net.blocks[2].attn, attention)


def query_and_key(net):
    def attention(self, x):
        scores = self.k(x) @ self.q(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
        return self.out(scores.masked_fill(CAUSAL, -math.inf).softmax(-1) @ self.v(x))

    forward(net.blocks[1].attn, attention)


def relu(net):
    forward(net.blocks[7].mlp, lambda self, x: self.fc2(F.relu(self.fc1(x))))


def tanh_approximation(net):
    forward(net.blocks[7].mlp, lambda self, x: self.fc2(F.gelu(self.fc1(x), approximate="tanh")))


def gelu_by_hand(net):
    def mlp(self, x):
        h = self.fc1(x)
        return self.fc2(h * 0.5 * (1 + torch.tanh(0.79788456 * (h + 0.044715 * h**3))))

    forward(net.blocks[6].mlp, mlp)


def at_the_start(net):
    forward(net, lambda self, t: self.norm(run(self.blocks, self.embed(t).mul(1.5))))


def in_the_middle(net):
    forward(
        net, lambda self, t: self.norm(run(self.blocks, self.embed(t), {6: lambda x: x * 1.01}))
    )


def at_two_places(net):
    extra = dict.fromkeys((3, 9), torch.tanh)
    forward(net, lambda self, t: self.norm(run(self.blocks, self.embed(t), extra)))


def at_the_end(net):
    forward(net, lambda self, t: self.norm(run(self.blocks, self.embed(t))).clamp(-1, 1))


def run(blocks, x, extra=None):
    for k, block in enumerate(blocks):
        x = block(x)
        if extra and k in extra:
            x = extra[k](x)
    return x


def no_residual(net):
    def block(self, x):
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    forward(net.blocks[8], block)


def norm_after(net):
    def block(self, x):
        x = self.norm1(x + self.attn(x))
        return x + self.mlp(self.norm2(x))

    forward(net.blocks[2], block)


def blocks_in_another_order(net):
    def model(self, t):
        order = [0, 1, 3, 2, *range(4, 12)]
        return self.norm(run([self.blocks[k] for k in order], self.embed(t)))

    forward(net, model)


def a_block_left_out(net):
    forward(net, lambda self, t: self.norm(run(self.blocks[:11], self.embed(t))))


def one_weight(net):
    net.blocks[10].mlp.fc2.weight.data[0, 0] += 0.1


def a_layer_shared(net):
    net.blocks[5].mlp.fc1.weight.data = net.blocks[4].mlp.fc1.weight.data


def cast_to_half(net):
    forward(net.norm, lambda self, x: F.layer_norm(x.half(), (8,), self.weight.half()).float())


def without_bias(net):
    net.blocks[9].attn.out.bias = None


def wrong_dropout(net):
    forward(net.blocks[0].mlp, lambda self, x: self.fc2(F.gelu(self.fc1(x)) * 0.9))


def detour_through_float64(net):
    forward(net.blocks[11].norm2, lambda self, x: F.layer_norm(x.double(), (8,)).float())


# The fault, and the first row that shows it: here, or in the reference if only that has it.
FAULTS = {
    eps: ("layer_norm_10", "config"),
    transposed_weight: ("linear_20", "value"),
    transposed_in_the_forward: ("T_1", "only this"),
    swapped_biases: ("linear_1", "value"),
    dropped_mask: ("masked_fill_1", "only other"),
    other_mask: ("masked_fill_6", "config"),
    other_scale: ("div_1", "config"),
    softmax_over_queries: ("softmax_3", "config"),
    query_and_key: ("transpose_2", "parents"),
    relu: ("relu_1", "func"),
    tanh_approximation: ("gelu_8", "config"),
    gelu_by_hand: ("mul_1", "only this"),
    at_the_start: ("mul_1", "only this"),
    in_the_middle: ("mul_1", "only this"),
    at_two_places: ("tanh_1", "only this"),
    at_the_end: ("clamp_1", "only this"),
    no_residual: ("add_17", "only other"),
    norm_after: ("layer_norm_5", "only other"),
    blocks_in_another_order: ("layer_norm_5", "only other"),
    a_block_left_out: ("layer_norm_23", "only other"),
    one_weight: ("linear_66", "value"),
    a_layer_shared: ("linear_35", "value"),
    cast_to_half: ("half_1", "only this"),
    without_bias: ("linear_58", "param_shapes"),
    wrong_dropout: ("mul_1", "only this"),
    detour_through_float64: ("double_1", "only this"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_first_difference_of_a_port_is_its_fault(fault, net, reference):
    port = copy.deepcopy(net)
    fault(port)
    found = traced(port, TOKENS)
    table = found.layers.lens.diff(reference, activations=found)
    first = table[table["first"]]
    row, what = FAULTS[fault]
    assert (first.index.item(), first["what"].item().partition(",")[0]) == (row, what)
    by_facts = found.layers.lens.diff(reference.layers)
    assert [*by_facts.columns] == [c for c in table.columns if c not in VALUES]
    assert what == "value" or by_facts.index[by_facts["first"]].item() == row
    # seen from the other side it is the same row, under the label it has there
    back = reference.layers.lens.diff(found, activations=reference)
    expected = first["other"].item() if what not in ("only this", "only other") else row
    if fault not in MOVED:
        assert back.index[back["first"]].item() == expected


VALUES = ["max_abs_diff", "rel_diff", "cosine"]
#: What ran in another order is told where this model runs it.
MOVED = {query_and_key, norm_after, blocks_in_another_order}


def test_at_two_places_both_are_told(net, reference):
    port = copy.deepcopy(net)
    at_two_places(port)
    table = traced(port, TOKENS).layers.lens.diff(reference)
    assert [*table.query("what == 'only this'").index] == ["tanh_1", "tanh_2"]
    assert [*table.query("what == 'parents'").index] == [
        "layer_norm_9", "add_9", "layer_norm_21", "add_21",
    ]  # fmt: skip


# Other names.


class Renamed(nn.Module):
    """As `Net`, under names of its own."""

    def __init__(self, net):
        super().__init__()
        self.wte = net.embed
        self.h = nn.ModuleList()
        for block in net.blocks:
            layer = nn.Module()
            layer.ln_1, layer.attn, layer.ln_2, layer.ff = (
                block.norm1, block.attn, block.norm2, block.mlp,
            )  # fmt: skip
            forward(layer, lambda self, x: add_ff(self, x + self.attn(self.ln_1(x))))
            self.h.append(layer)
        self.ln_f = net.norm

    def forward(self, tokens):
        x = self.wte(tokens)
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x)


def add_ff(layer, x):
    return layer.ff(layer.ln_2(x)) + x  # the other way round, which is the same


THERE = {
    "embed": "wte", "blocks": "h", "norm": "ln_f", "blocks.*.norm1": "h.*.ln_1",
    "blocks.*.norm2": "h.*.ln_2", "blocks.*.mlp": "h.*.ff",
}  # fmt: skip


def by_function(name):
    for old, new in (("embed", "wte"), ("blocks", "h"), ("mlp", "ff"), ("norm1", "ln_1"),
                     ("norm2", "ln_2"), ("norm", "ln_f")):  # fmt: skip
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    "rename",
    [THERE, {new: old for old, new in THERE.items()}, by_function],
    ids=["here to there", "there to here", "a function"],
)
def test_a_renamed_model_is_the_same(rename, net, reference):
    found = traced(Renamed(net), TOKENS)
    assert reference.layers.lens.diff(found, activations=reference, rename=rename).empty


def test_without_a_map_rows_are_aligned_by_their_place(net, reference):
    found = traced(Renamed(net), TOKENS)
    table = reference.layers.lens.diff(found, activations=reference, every=True)
    assert len(table) == len(reference.layers) == len(found.layers)
    assert {*table["what"]} == {"", "module"}
    assert (table["other"] != "").all()
    assert (table["rel_diff"] == 0).all()


@pytest.mark.parametrize("inside", [True, False])
def test_a_model_inside_another(inside, net, reference):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Module()
            self.base.model = net

        def forward(self, tokens):
            return self.base.model(tokens)

    found = traced(Head(), TOKENS)
    rename = {"": "base.model"} if inside else {"base.model": ""}
    assert reference.layers.lens.diff(found, rename=rename).empty
    assert found.layers.lens.diff(reference, activations=found, rename=rename).empty


def test_parameters_are_renamed_too():
    class Scale(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.ones(3)))
            self.name = name

        def forward(self, x):
            return x * getattr(self, self.name)

    here, there = (traced(Scale(name), torch.ones(2, 3)).layers for name in ("gamma", "weight"))
    assert here.lens.diff(there)["what"].to_dict() == {"mul_1": "params"}
    assert here.lens.diff(there, rename={"gamma": "weight"}).empty


# What is the same, and what is not.


def rows(function, *args):
    return traced(function, *(args or (torch.ones(2, 3) / 3,))).layers


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (lambda x: x + x.exp(), lambda x: x.exp() + x),
        (lambda x: x * torch.sin(x), lambda x: torch.sin(x).mul(x)),
        (lambda x: x.softmax(-1), lambda x: torch.softmax(x, dim=-1)),
        (lambda x: F.relu(x), lambda x: torch.relu(x)),
        (lambda x: (x.sin(), x.cos())[0] + x, lambda x: (x.cos(), x.sin())[1] + x),
        (lambda x: torch.maximum(x, -x), lambda x: torch.maximum(-x, x)),
        (lambda x: x.sum(0), lambda x: x.sum((-2,))),
        (lambda x: x.transpose(0, 1), lambda x: x.transpose(-2, -1)),
        (lambda x: torch.stack([x, x], -1), lambda x: torch.stack([x, x], 2)),
        (lambda x: x.view(3, -1), lambda x: x.view(-1, 2)),
        (lambda x: x[None].expand(4, -1, -1), lambda x: x[None].expand(4, 2, 3)),
        (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="none")),
        (lambda x: F.layer_norm(x, (3,)), lambda x: F.layer_norm(x, (3,), eps=1e-5)),
        (lambda x: x.sum(1), lambda x: x.sum(1, keepdim=False)),
        (lambda x: x[:, :2], lambda x: x[:, 0:2:1]),
    ],
)
def test_the_same_written_in_another_way(one, two):
    assert rows(one).lens.diff(rows(two)).empty


@pytest.mark.parametrize(
    ("one", "two", "what"),
    [
        (lambda x: x - x.exp(), lambda x: x.exp() - x, {"sub_1": "parents"}),
        (lambda x: torch.add(x, x.exp(), alpha=2), lambda x: torch.add(x.exp(), x, alpha=2),
         {"add_1": "parents"}),
        (lambda x: x.sum(0), lambda x: x.sum(1), {"sum_1": "shape, config", "output_1": "shape"}),
        (lambda x: x.softmax(0), lambda x: x.softmax(-1), {"softmax_1": "config"}),
        (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), {"gelu_1": "config"}),
        (lambda x: x.exp().relu(), lambda x: x.exp().relu_(), {"relu_1": "inplace"}),
        (lambda x: x.exp().sin(), lambda x: x.sin().exp(),
         {"sin_1": "only other", "exp_1": "parents", "sin_1 ": "only this", "output_1": "parents"}),
        (lambda x: x.double(), lambda x: x.to(torch.float64), {"double_1": "func"}),
        (lambda x: x.sum(0).exp(), lambda x: x.cos(), {
            "sum_1": "only this", "exp_1": "only this", "cos_1": "only other",
            "output_1": "shape, parents"}),
        (lambda x: torch.cat([x, -x]), lambda x: torch.cat([-x, x]), {"cat_1": "parents"}),
    ],
)  # fmt: skip
def test_what_differs(one, two, what):
    found = rows(one).lens.diff(rows(two))
    expected = [(op.strip(), text) for op, text in what.items()]
    assert [*zip(found.index, found["what"], strict=True)] == expected


def test_of_two_ways_to_compute_one_thing_the_ends_are_paired():
    def by_hand(x):
        h = x.exp()
        return (h * 0.5 * (1 + torch.tanh(0.79788456 * (h + 0.044715 * h**3)))).sin()

    x = torch.linspace(-1, 1, 6).view(2, 3)
    one = traced(lambda x: F.gelu(x.exp(), approximate="tanh").sin(), x)
    two = traced(by_hand, x)
    found = one.layers.lens.diff(two, activations=one)
    paired = found.query("side == 'both'")
    assert paired[["other", "what"]].to_dict("index") == {
        "gelu_1": {"other": "mul_4", "what": "func"}
    }
    assert paired["rel_diff"].item() < 1e-6


@pytest.mark.parametrize("place", range(5))
def test_of_equal_functions_the_one_that_agrees_is_paired(place):
    """No module tells the rows apart: facts and values do."""
    x = torch.linspace(-1, 1, 6).view(2, 3)

    def model(x, extra=None):
        for k in range(5):
            if k == extra:
                x = x * 1.7
            x = x * (k + 2)
        return x

    one, two = traced(lambda x: model(x, place), x), traced(model, x)
    label = "mul_2" if place else "mul_1"
    assert one.layers.lens.diff(two)["what"].to_dict()[label] == "only this"
    found = one.layers.lens.diff(two, activations=one)
    assert found.index[found["first"]].item() == label
    assert found.loc[label, "what"] == "only this"


@pytest.mark.parametrize("place", range(4))
def test_values_tell_where_a_function_was_put_in(place):
    def model(x, extra):
        for k in range(4):
            x = torch.sin(x) if k == extra else x
            x = torch.sin(x + 1)
        return x

    x = torch.linspace(-1, 1, 6)
    one, two = traced(lambda x: model(x, place), x), traced(lambda x: model(x, None), x)
    found = one.layers.lens.diff(two, activations=(one, two))
    assert found["what"].tolist().count("only this") == 1
    first = found[found["first"]].iloc[0]
    # of two sines in a row the second is the one too many, as the first still agrees
    assert (first.name, first["what"]) == ("sin_2" if place else "sin_1", "only this")


def test_inputs_are_those_of_one_name():
    def one(ids, mask, kinds):
        return ids * 2 + mask, kinds.exp()

    def two(ids, kinds, mask):
        return ids * 2 + mask, kinds.exp()

    def three(words, masks, types):
        return words * 2 + masks, types.exp()

    given = {"ids": torch.ones(2), "mask": torch.zeros(2), "kinds": torch.rand(2)}
    first, second = lf.trace(one, given), lf.trace(two, given)
    assert first.layers.lens.diff(second, activations=first).empty
    third = lf.trace(three, tuple(given.values()))
    assert first.layers.lens.diff(third, activations=first).empty


def test_filtered_frames_are_compared_by_themselves(net, reference):
    port = copy.deepcopy(net)
    eps(port)
    found = traced(port, TOKENS).layers
    part = "module.str.startswith('blocks.4')"
    table = found.query(part).lens.diff(reference.layers.query(part))
    assert table["what"].to_dict() == {"layer_norm_10": "config"}
    mixed = found.sample(frac=1, random_state=0)
    assert [*mixed.lens.diff(reference).index] == ["layer_norm_10"]
    assert found.lens.roll().lens.diff(reference.layers.lens.roll())["first"].sum() == 1


# Values.


def pair(one, two, dtype="float32"):
    frame = rows(lambda x: x)
    frame = frame.assign(dtype=dtype)
    given = [xr.Dataset({"input_1": (("a", "b"), v)}) for v in (one, two)]
    return frame.lens.diff(frame, activations=given, every=True).loc["input_1"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "complex64", "uint8"])
def test_distances_are_numpys(dtype):
    rng = np.random.default_rng(0)
    one, two = ((rng.normal(0, 30, (600, 700)) > 9) * rng.integers(9) for _ in range(2))
    one, two = one.astype(dtype), two.astype(dtype)
    if dtype == "complex64":
        one, two = one + 1j * two, two * 1j
    found = pair(one, two, dtype)
    a, b = (
        v.view("f4" if dtype == "complex64" else dtype).astype(float).ravel() for v in (one, two)
    )
    assert found["max_abs_diff"] == np.abs(a - b).max()
    assert found["rel_diff"] == np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max())
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found["cosine"] == pytest.approx(cosine, rel=1e-10)
    assert found["what"] == "value"
    same = pair(one, one, dtype)
    assert same[VALUES].tolist() == pytest.approx([0, 0, 1])
    assert same["what"] == ""


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ([1, np.nan], [1, np.nan], 0),
        ([1, np.inf], [1, np.inf], 0),
        ([1, np.nan], [1, 2], np.inf),
        ([1, np.inf], [1, -np.inf], np.inf),
        ([1, np.inf], [1, np.nan], np.inf),
        ([0, 0], [0, 0], 0),
        ([3, 1], [3, 0.5], 0.5),
    ],
)
def test_what_is_not_finite_is_as_far_as_can_be(one, two, expected):
    found = pair(np.array([one], np.float32), np.array([two], np.float32))
    assert found["max_abs_diff"] == expected
    assert found["what"] == ("value" if expected else "")


def test_large_integers_differ_by_one():
    one = np.array([[2**60, 5]])
    assert pair(one, one + [[1, 0]], "int64")["what"] == "value"


@pytest.mark.parametrize(
    ("dtype", "allowed"), [("float64", 1e-12), ("float32", 2e-5), ("float16", 2e-2),
                           ("bfloat16", 1e-1), ("int32", 0)],
)  # fmt: skip
def test_rounding_is_that_of_the_coarser_type(dtype, allowed):
    one = np.array([[1000.0, 10]])
    assert pair(one, one * (1 + 0.9 * allowed), dtype)["what"] == ""
    assert pair(one, one * (1 + 1.2 * allowed + 1e-13), dtype)["what"] == "value"


def test_rounding_goes_on_downstream():
    x = torch.linspace(-1, 1, 60).view(6, 10)
    one = traced(lambda x: x.exp().float() * 2, x)
    two = traced(lambda x: x.exp().bfloat16().float() * 2, x)
    table = one.layers.lens.diff(two, activations=one)
    assert {*table["what"]} <= {"only this", "only other", "parents", "config"}
    assert 0 < table["rel_diff"].max() < 4e-3
    strict = one.layers.lens.diff(two, activations=one, rtol=1e-6)
    assert strict.loc["output_1", "what"] == "value"


def test_rtol_is_what_is_allowed(net, reference):
    port = copy.deepcopy(net)
    port.blocks[10].mlp.fc2.weight.data[0, 0] *= 1 + 1e-4
    found = traced(port, TOKENS)
    assert found.layers.lens.diff(reference, activations=found, rtol=1e-2).empty
    table = found.layers.lens.diff(reference, activations=found, rtol=1e-7)
    assert table.index[table["first"]].item() == "linear_66"
    exact = reference.layers.lens.diff(reference, activations=reference, rtol=0)
    assert exact.empty


def test_stores_and_what_was_saved(tmp_path, net, reference):
    port = copy.deepcopy(net)
    one_weight(port)
    found = traced(port, TOKENS)
    lf.write(found, tmp_path / "port")
    few = ["linear_64", "gelu_11", "linear_66", "output_1"]
    lf.write(reference.activations[few], tmp_path / "net.zarr")
    stored, other = lf.read(tmp_path / "port"), lf.read(tmp_path / "net.zarr")
    table = stored.layers.lens.diff(reference.layers, activations=(stored, other))
    assert table["rel_diff"].notna().to_dict() == {"linear_66": True, "output_1": True}
    assert table.index[table["first"]].item() == "linear_66"
    table = stored.layers.lens.diff(reference, activations=stored)
    assert table.index[table["first"]].item() == "linear_66"
    few = lf.trace(port, TOKENS, save="gelu_11")
    table = few.layers.lens.diff(reference, activations=few, every=True)
    assert table["rel_diff"].notna().sum() == 1


@pytest.mark.parametrize(
    ("make", "label"),
    [(torch.empty_like, "empty_like_1"), (lambda x: x.new_empty(3), "new_empty_1")],
)
def test_memory_that_was_not_written_is_not_compared(make, label):
    trace = traced(lambda x: make(x).copy_(x) + 1, torch.ones(3))
    garbage = trace.activations[label].copy(data=np.full(3, np.nan))
    other = trace.activations.assign({label: garbage})
    layers = trace.layers
    assert layers.lens.diff(layers, activations=(trace.activations, other)).empty
    other["add_1"] = other["add_1"] + 1
    found = layers.lens.diff(layers, activations=(trace.activations, other))
    assert [*found.index] == ["add_1"]


def test_stimuli_have_to_be_the_same_in_the_same_order():
    def of(ids):
        return lf.trace(nn.Linear(3, 2).eval(), torch.rand(3, 3), stimulus=ids)

    one = of(list("abc"))
    with pytest.raises(lf.LensValueError, match="the same stimuli in another order"):
        one.layers.lens.diff(of(list("acb")), activations=one)
    with pytest.raises(lf.LensValueError, match="other stimuli"):
        one.layers.lens.diff(of(list("abd")), activations=one)
    assert len(one.layers.lens.diff(of(list("acb")))) == 0


def test_what_is_asked_wrongly(net, reference):
    layers = reference.layers
    with pytest.raises(lf.LensTypeError, match=r"other is rows of layers, or a trace, not Net"):
        layers.lens.diff(net)
    with pytest.raises(lf.LensTypeError, match="activations are the values of both"):
        layers.lens.diff(layers, activations=reference.activations)
    with pytest.raises(lf.LensTypeError, match="activations are the values of both"):
        layers.lens.diff(reference, activations=[reference] * 3)
    with pytest.raises(lf.LensTypeError, match="rename is a mapping of names here to names there"):
        layers.lens.diff(layers, rename=["blocks"])
    with pytest.raises(lf.LensKeyError, match=r"'block'; did you mean 'blocks'"):
        layers.lens.diff(layers, rename={"block": "blocks"})
    with pytest.raises(lf.LensValueError, match="rtol is a number from 0 up"):
        layers.lens.diff(layers, rtol=-1)
    with pytest.raises(lf.LensKeyError, match="diff needs column 'parents'"):
        layers.lens.diff(layers.drop(columns="parents"))
    with pytest.raises(lf.LensValueError, match="more than once in the frame"):
        layers.lens.diff(pd.concat([layers, layers]))
    assert layers.iloc[:0].lens.diff(layers.iloc[:0]).empty
    assert (layers.iloc[:0].lens.diff(layers)["what"] == "only other").all()

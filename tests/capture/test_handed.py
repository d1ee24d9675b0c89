"""A call that hands its argument back is a row, but not where that tensor comes from for all."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lensframe_pd as lf

X = torch.arange(1.0, 7.0).reshape(2, 3)

# Each gives the very object that it is given, and writes nothing.
BACK = {
    "to_dtype": lambda x: x.to(x.dtype),
    "to_device": lambda x: x.to("cpu"),
    "to_other": lambda x: x.to(torch.ones(1)),
    "type": lambda x: x.type(torch.float32),
    "to_both": lambda x: x.to("cpu", torch.float32),
    "float": lambda x: x.float(),
    "cpu": lambda x: x.cpu(),
    "contiguous": lambda x: x.contiguous(),
    "resolve_conj": lambda x: x.resolve_conj(),
    "resolve_neg": lambda x: x.resolve_neg(),
    "requires_grad": lambda x: x.requires_grad_(False),
    "detach": lambda x: x.detach_(),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "dropout_inplace": lambda x: F.dropout(x, 0.5, False, inplace=True),
    "dropout_keyword": lambda x: torch.dropout_(x, p=0.5, train=False),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, False, inplace=True),
    "feature_dropout": lambda x: torch.feature_dropout(x, 0.5, False),
    "atleast_1d": torch.atleast_1d,
    "real": lambda x: x.real,
}


def parents_of(layers, func):
    return layers.loc[layers["func"] == func, "parents"].tolist()


def traced(model, *args, **options):
    if isinstance(model, nn.Module):
        model.eval()
    return lf.trace(model, args or (X.clone(),), **options)


class Norm(nn.Module):
    def __init__(self, back):
        super().__init__()
        self.back = back

    def forward(self, x):
        return self.back(x) * 2


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def deep(module, levels):
    for _ in range(levels):
        module = nn.Sequential(module)
    return module


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("back", BACK.values(), ids=BACK)
def test_a_residual_edge_goes_past_what_its_branch_handed_back(back, levels, inference):
    model = nn.Sequential(*[Block(deep(Norm(back), levels)) for _ in range(2)]).eval()
    with torch.inference_mode(inference):
        trace = traced(model, X.clone())
    layers = trace.layers
    assert parents_of(layers, "add") == [("input_1", "mul_1"), ("add_1", "mul_2")]
    handed = layers.loc[layers.loc["mul_1", "parents"][0]]
    assert handed["parents"][0] == "input_1"
    assert not handed["inplace"]
    collapsed = layers.lens.collapse(["0.inner", "1.inner"])
    assert collapsed.loc["add_1", "parents"] == ("input_1", "0.inner")
    assert collapsed.loc["add_2", "parents"] == ("add_1", "1.inner")


def test_what_a_call_hands_back_is_validated():
    assert traced(nn.Sequential(Block(Norm(BACK["float"])))).validate()["passed"].all()


@pytest.mark.parametrize(
    "wrap", [tuple, list, lambda t: {"a": t[0], "b": t[1]}], ids=["tuple", "list", "dict"]
)
def test_a_module_that_returns_its_argument_among_others_is_no_origin(wrap):
    class Pair(nn.Module):
        def forward(self, x):
            return wrap([x.contiguous(), x * 2])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            parts = self.pair(x)
            same, double = parts.values() if isinstance(parts, dict) else parts
            return same - double

    layers = traced(Model()).layers
    assert layers.loc["sub_1", "parents"] == ("input_1", "mul_1")
    assert layers.loc["mul_1", "parents"] == ("contiguous_1",)


def test_a_module_that_returns_the_object_hands_it_back():
    model = nn.Sequential(nn.Dropout(), nn.Identity(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    layers = traced(nn.Sequential(model, nn.ReLU())).layers
    assert layers["parents"].tolist() == [
        (), ("input_1",), ("dropout_1",), ("dropout_2",), ("dropout_3",), ("relu_1",),
    ]  # fmt: skip


def test_what_a_returning_module_handed_back_ends_with_the_module_around_it():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout()

        def forward(self, x):
            return self.drop(x).contiguous() * 2

    layers = traced(Block(Norm())).layers
    assert layers.loc["contiguous_1", "parents"] == ("dropout_1",)
    assert layers.loc["mul_1", "parents"] == ("contiguous_1",)
    assert layers.loc["add_1", "parents"] == ("input_1", "mul_1")


def test_one_object_is_one_value_within_a_module():
    drop = nn.Dropout()
    layers = traced(Block(drop)).layers  # x + drop(x), where drop(x) is x
    assert layers.loc["add_1", "parents"] == ("dropout_1", "dropout_1")


@pytest.mark.parametrize("is_module", [False, True])
def test_a_second_call_has_the_same_parent(is_module):
    def forward(x):
        total = 0
        for _ in range(3):
            total = total + x.to(x.dtype) * 2
        return total + x.contiguous()

    class Model(nn.Module):
        def forward(self, x):
            return forward(x)

    layers = traced(Model() if is_module else forward).layers
    assert parents_of(layers, "to") == [("input_1",)] * 3
    assert parents_of(layers, "contiguous") == [("input_1",)]
    assert parents_of(layers, "mul") == [("to_1:1",), ("to_1:2",), ("to_1:3",)]


def test_a_loop_over_modules_and_functions():
    """A function is no module, so the last call names the object, for the function's caller too."""
    norm = Norm(BACK["float"])

    def run(x):
        for _ in range(3):
            x = x + norm(x)
        return x

    layers = traced(run).layers
    assert parents_of(layers, "add") == [
        ("input_1", "mul_1:1"), ("add_1:1", "mul_1:2"), ("add_1:2", "mul_1:3"),
    ]  # fmt: skip


@pytest.mark.parametrize("read", [lambda w, x: w.to(x.dtype), lambda w, x: w.contiguous()])
@pytest.mark.parametrize("held", ["parameter", "buffer"])
def test_a_parameter_or_buffer_stays_what_it_is(held, read):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            if held == "parameter":
                self.w = nn.Parameter(torch.ones(3))
            else:
                self.register_buffer("w", torch.ones(3))

        def forward(self, x):
            return x * read(self.w, x) + self.w

    layers = traced(Scale()).layers
    column = {"parameter": "params", "buffer": "buffers"}[held]
    assert layers[column].tolist() == [(), ("w",), ("w",), ("w",), ()]
    assert layers["parents"].tolist() == [(), (), ("input_1",), ("mul_1",), ("add_1",)]


def test_what_is_made_inside_keeps_the_row_that_handed_it_back():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(3, 3)
            self.drop = nn.Dropout()

        def forward(self, x):
            return self.drop(self.proj(x)), None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention()

        def forward(self, x):
            return x + self.attention(x)[0]

    assert traced(Model()).layers.loc["add_1", "parents"] == ("input_1", "dropout_1")


def test_a_write_is_there_for_everybody():
    class Inner(nn.Module):
        def forward(self, x):
            y = x.contiguous()
            y.add_(1)
            return y.float() * 2

    layers = traced(Block(Inner()), X.clone()).layers
    assert layers.loc["float_1", "parents"] == ("add_1",)
    # nobody had the written value before: it is as the module left it
    assert layers.loc["add_2", "parents"] == ("float_1", "mul_1")


def test_a_write_through_a_view_after_the_call():
    class Inner(nn.Module):
        def forward(self, x):
            x.contiguous()[0].add_(1)
            return torch.ones(3)

    trace = traced(Block(Inner()), X.clone())
    layers = trace.layers
    assert layers.loc["alias_1", "parents"] == ("input_1", "add_1")
    assert layers.loc["add_2", "parents"] == ("alias_1", "ones_1")
    assert trace.validate()["passed"].all()


def test_a_module_call_that_an_exception_ended():
    class Fails(nn.Module):
        def forward(self, x):
            x.contiguous()
            raise ValueError

    class Model(nn.Module):
        def __init__(self, outer):
            super().__init__()
            self.inner = outer

        def forward(self, x):
            with suppress(ValueError):
                self.inner(x)
            return x + 1

    for inner in (Fails(), nn.Sequential(Fails())):
        assert traced(Model(inner)).layers.loc["add_1", "parents"] == ("input_1",)


@pytest.mark.parametrize("on", ["hook", "pre_hook"])
def test_what_a_hook_of_the_module_hands_back_belongs_to_it(on):
    norm = Norm(BACK["float"])
    if on == "hook":
        norm.register_forward_hook(lambda module, args, out: args[0].contiguous() * out)
    else:
        norm.register_forward_pre_hook(lambda module, args: (args[0].contiguous(),))
    layers = traced(Block(norm)).layers
    assert layers.loc["add_1", "parents"][0] == "input_1"


def test_a_model_that_calls_itself():
    class Model(nn.Module):
        def forward(self, x, depth=2):
            return x + self(x, depth - 1) if depth else x.float() * 2

    layers = traced(Model()).layers
    assert parents_of(layers, "add") == [("input_1", "mul_1"), ("input_1", "add_1:1")]


def test_an_output_returned_twice():
    layers = traced(lambda x: (x.contiguous(), x, x * 2)).layers
    outputs = layers.loc[layers["kind"] == "output", "parents"].tolist()
    assert outputs == [("contiguous_1",), ("contiguous_1",), ("mul_1",)]


def test_inside_vmap():
    norm = Norm(BACK["float"])
    layers = traced(torch.vmap(lambda x: x + norm(x))).layers
    assert layers.loc["add_1", "parents"] == (layers.loc["float_1", "parents"][0], "mul_1")


LANGUAGE = ("LlamaForCausalLM", "MistralForCausalLM", "T5Model", "Gemma2ForCausalLM")


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_residual_stream_of_a_language_model(name):
    """In float32, `RMSNorm` casts what is float32 already."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "num_layers": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2,
    }  # fmt: skip
    kind = getattr(transformers, name)
    config = kind.config_class(**sizes)
    ids = torch.arange(5)[None]
    more = {"decoder_input_ids": ids} if name == "T5Model" else {}
    with torch.no_grad():
        layers = lf.trace(kind(config).eval(), {"input_ids": ids, **more}, save=None).layers
    blocks = layers["module_type"].str.fullmatch(
        r".*(DecoderLayer|T5Layer(SelfAttention|CrossAttention|FF))"
    )
    adds = layers.loc[blocks & (layers["func"] == "add")]
    assert len(adds) >= 4
    norms = sorted(
        {
            call.split(":")[0]
            for stack, types in zip(layers["module_stack"], layers["module_types"], strict=True)
            for call, module in zip(stack, types, strict=True)
            if "Norm" in module
        }
    )
    collapsed = layers.lens.collapse(norms)
    for op, parents in adds["parents"].items():
        residual, branch = collapsed.loc[op, "parents"]
        assert residual != branch
        # the stream is the embedding, or what another block added: never a cast in a norm
        assert layers.loc[parents[0], "func"] in ("add", "embedding", "dropout", "mul"), op
        assert "Norm" not in layers.loc[parents[0], "module_type"]

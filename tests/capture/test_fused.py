"""Where torch would have taken its fused attention, as a dispatch mode sees."""

import contextlib
import json

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lensframe_pd as lf

X = torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
FUSED = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")


class Sees(TorchDispatchMode):
    """Which operators run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Idle(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Tagged(torch.Tensor):
    pass


class Attention(nn.Module):
    """Asks for itself; the last argument says how."""

    def __init__(self, heads=2, **options):
        super().__init__()
        self.attend = nn.MultiheadAttention(8, heads, **{"batch_first": True, **options})

    def forward(self, x, mask=None, other=False):
        return self.attend(x, x + 1 if other else x, x, key_padding_mask=mask)[0]


def layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, **{"batch_first": True, **options})


def encoder(**options):
    return nn.TransformerEncoder(layer(**options), 2)


@contextlib.contextmanager
def no_fused_path():
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


CASES = {
    "attention": (Attention, {}, {}),
    "masked": (Attention, {}, {"mask": PADDED}),
    "a float mask": (Attention, {}, {"mask": PADDED.float()}),
    "of two tensors": (Attention, {}, {"other": True}),
    "an odd number of heads": (lambda: Attention(heads=1), {}, {}),
    "not batch first": (lambda: Attention(batch_first=False), {}, {}),
    "with a bias": (lambda: Attention(add_bias_kv=True), {}, {}),
    "layer": (layer, {}, {}),
    "norm first": (lambda: layer(norm_first=True), {}, {}),
    "another activation": (lambda: layer(activation=torch.tanh), {}, {}),
    "encoder": (encoder, {}, {}),
    "encoder, masked": (encoder, {}, {"src_key_padding_mask": PADDED}),
    "decoder": (lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), {"memory": X}, {}),
    "no attention": (lambda: nn.Linear(8, 8), {}, {}),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*enable_nested")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("case", [*CASES])
@pytest.mark.parametrize(
    "around", [torch.no_grad, torch.inference_mode, torch.enable_grad, no_fused_path, Idle]
)
def test_it_is_recorded_where_a_plain_call_would_be_fused(case, around):
    make, more, options = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    with contextlib.ExitStack() as stack:
        if around in (no_fused_path, Idle):
            stack.enter_context(torch.no_grad())
        stack.enter_context(around())
        with Sees() as seen:
            model(X, **more, **options)
        trace = lf.trace(model, X, {**more, **options})
    fused = any(name in FUSED for name in seen.names)
    assert ("unfused" in trace.layers.attrs) is fused
    assert trace.activations.attrs.get("unfused") == trace.layers.attrs.get("unfused")


def test_modules_are_named():
    model = nn.Sequential(encoder(), Attention(), Attention(heads=1)).eval()
    with torch.no_grad():
        attrs = lf.trace(model, X).layers.attrs
    assert json.loads(attrs["unfused"]) == [
        "0.layers.0.self_attn", "0.layers.1.self_attn", "1.attend",
    ]  # fmt: skip


@pytest.mark.parametrize("model", [layer().train(), layer().train().requires_grad_(False)])
def test_not_in_train_mode(model):
    with torch.no_grad(), pytest.warns(lf.LensWarning, match="train mode"):
        assert "unfused" not in lf.trace(model, X).layers.attrs


def test_frozen_parameters_are_fused_with_gradients_on():
    model = layer().eval().requires_grad_(False)
    with Sees() as seen:
        model(X)
    assert FUSED[1] in seen.names
    assert json.loads(lf.trace(model, X).layers.attrs["unfused"]) == ["self_attn"]


def test_a_tensor_of_a_subclass_is_never_fused():
    model = layer().eval()
    with torch.no_grad():
        assert "unfused" not in lf.trace(model, X.as_subclass(Tagged)).layers.attrs


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_readme_says_of_it():
    torch.manual_seed(0)
    model = encoder().eval()
    options = {"src_key_padding_mask": PADDED}
    with torch.no_grad():
        output = lf.trace(model, X, options).output
        fused = model(X, **options)
        with no_fused_path():
            plain = model(X, **options)
    assert torch.equal(output, plain)
    torch.testing.assert_close(output[~PADDED], fused[~PADDED], rtol=0, atol=1e-5)
    assert (fused[PADDED] == 0).all()
    assert (output[PADDED] != 0).any()

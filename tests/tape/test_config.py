"""Arguments as JSON: what is written of a call, and what comes back."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lensframe_pd as lf
from lensframe_pd.profile.rebuild import decode, resolve
from lensframe_pd.tape.config import encode


@pytest.mark.parametrize(
    "target",
    ["torch.Tensor.__rsub__", "torch.Tensor.T.__get__", "torch.functional.einsum", "torch.conv2d",
     "torch._C._nn.linear", "torch.ops.aten.mm.default", "torch.Tensor.add_"],
)  # fmt: skip
def test_targets_resolve(target):
    assert callable(resolve(target))


atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text("abc :0"),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float32, torch.bfloat16, torch.strided, torch.channels_last, ...]),
    st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none()),
)  # fmt: skip


@given(st.recursive(atoms, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_arguments_come_back_from_json(value):
    assert decode(json.loads(json.dumps(encode(value))), {}, sequence=list) == value


def test_devices_become_meta():
    assert decode(encode(torch.device("cpu")), {}) == torch.device("meta")
    assert math.isinf(decode(encode(-math.inf), {}))


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

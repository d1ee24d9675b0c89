"""Which switches of torch a call ran under."""

import json

import torch

import lensframe_pd as lf


def test_context_tells_the_switches():
    def forward(x):
        with torch.no_grad():
            a = x * 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            b = a @ a
        with torch.inference_mode():
            return a + 1, b

    layers = lf.trace(forward, torch.ones(2, 2)).layers
    assert json.loads(layers.loc["mul_1", "context"]) == {"grad": False}
    assert json.loads(layers.loc["matmul_1", "context"]) == {"autocast": {"cpu": "bfloat16"}}
    assert json.loads(layers.loc["add_1", "context"])["inference"] is True

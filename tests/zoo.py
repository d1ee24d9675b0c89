"""Trace well-known models, random weights and small inputs; one line each.

Run as `python tests/zoo.py [part of a name ...]`. A line says how many rows, layers and values the
trace has, whether it left the output as it is, and how many of the model's parameters no row read.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pandas as pd
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.utils._pytree import tree_leaves

import lensframe_pd as lf

Made = tuple[nn.Module, Any]

TORCHVISION = [
    "alexnet", "vgg11", "resnet18", "resnet50", "densenet121", "googlenet", "inception_v3",
    "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny", "vit_b_32", "swin_t", "maxvit_t",
]  # fmt: skip
TIMM = [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mixer_s32_224", "resmlp_12_224",
    "efficientnetv2_rw_t", "levit_128s", "poolformer_s12", "coat_lite_tiny", "hrnet_w18_small",
]  # fmt: skip
TOKENS = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TRANSFORMERS = {
    "Bert": {**TOKENS, "intermediate_size": 64},
    "Roberta": {**TOKENS, "intermediate_size": 64},
    "Albert": {**TOKENS, "intermediate_size": 64, "embedding_size": 16},
    "DistilBert": {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "GPT2": {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 2},
    "Llama": {**TOKENS, "intermediate_size": 64},
    "Mistral": {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2},
    "Qwen2": {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2},
    "Mamba": {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2},
}


def _torchvision(name: str) -> Made:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, weights=None, **extra), torch.rand(1, 3, size, size)


def _timm(name: str) -> Made:
    model = timm.create_model(name, pretrained=False)
    return model, torch.rand(1, *model.default_cfg["input_size"])


def _transformers(name: str) -> Made:
    config = getattr(transformers, f"{name}Config")(**TRANSFORMERS[name])
    return getattr(transformers, f"{name}Model")(config), {"input_ids": torch.arange(12)[None]}


def models() -> dict[str, Callable[[], Made]]:
    """Name to what makes the model and an input."""
    sources = {"torchvision": TORCHVISION, "timm": TIMM, "transformers": list(TRANSFORMERS)}
    makers = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}
    return {
        f"{library}/{name}": lambda make=makers[library], name=name: make(name)
        for library, found in sources.items()
        for name in found
    }


def line(make: Callable[[], Made]) -> dict[str, Any]:
    """What one trace of one model gives."""
    torch.manual_seed(0)
    model, example = make()
    model.eval()
    fresh = copy.deepcopy(model)  # some models cache what they computed from their parameters
    with torch.no_grad():
        start = perf_counter()
        plain = model(**example) if isinstance(example, dict) else model(example)
        middle = perf_counter()
        trace = lf.trace(fresh, example)
        end = perf_counter()
    layers, activations = trace
    pairs = zip(_tensors(plain), _tensors(trace.output), strict=True)
    held = {name for names in layers["params"] for name in names}
    return {
        "rows": len(layers),
        "layers": layers["layer"].nunique(),
        "values": len(activations),
        "most_passes": layers["n_passes"].max(),
        "plain_s": middle - start,
        "traced_s": end - middle,
        "same_output": all(torch.equal(a, b) for a, b in pairs),
        "unread_params": sum(name not in held for name, _ in model.named_parameters()),
    }


def _tensors(value: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, torch.Tensor)]


def main(wanted: list[str]) -> int:
    lines, failed = {}, {}
    warnings.simplefilter("ignore")
    for name, make in models().items():
        if wanted and not any(part in name for part in wanted):
            continue
        try:
            lines[name] = line(make)
        except Exception as error:  # the rest of the zoo still gets its line
            failed[name] = f"{type(error).__name__}: {error}"
    print(pd.DataFrame.from_dict(lines, orient="index").round(2).to_string())
    for name, reason in failed.items():
        print(f"{name} FAILED: {reason}")
    changed = [name for name, found in lines.items() if not found["same_output"]]
    print(f"{len(lines)} traced, {len(failed)} failed, {len(changed)} with another output")
    return len(failed) + len(changed)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))

"""Models changed by others: peft's adapters, torchao's number formats, tensordict's modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .language import built
from .made import Made, Maker, image, seeded

BATCH, WORDS = 3, 6


def _words(high: int = 60) -> Tensor:
    return torch.randint(10, high, (BATCH, WORDS), generator=torch.Generator().manual_seed(1))


def _peft(config: str, name: str = "GPT2LMHeadModel", **options: Any) -> Made:
    """A tiny language model with an adapter whose weights are not at zero."""
    import peft

    kinds = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama"}
    adapter = getattr(peft, config)(task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(built(name, kinds[name]), adapter).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return Made(model, (), {"input_ids": _words()}, stimuli=BATCH)


def _peft_generate() -> Made:
    made = _peft("LoraConfig", r=4, target_modules=["c_attn"])
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    return made._replace(kwargs={**made.kwargs, **how}, method="generate")


def _torchao(config: str, **options: Any) -> Made:
    """Linear layers with weights that are tensors of torchao's own classes."""
    from torchao import quantization

    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    quantization.quantize_(model, getattr(quantization, config)(**options))
    return Made(model, (image(BATCH, 32),), stimuli=BATCH)


def _tensordict_sequence() -> Made:
    """Modules that read and write entries of a tensordict."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential

    model = TensorDictSequential(
        TensorDictModule(nn.Linear(5, 8), in_keys=["x"], out_keys=[("hidden", "a")]),
        TensorDictModule(nn.Tanh(), in_keys=[("hidden", "a")], out_keys=[("hidden", "b")]),
        TensorDictModule(nn.Linear(8, 2), in_keys=[("hidden", "b")], out_keys=["y"]),
    )
    return Made(model.eval(), (TensorDict(x=image(BATCH, 5), batch_size=[BATCH]),), stimuli=BATCH)


class Policy(nn.Module):
    """A tensordict made, stacked, indexed and reduced within the forward."""

    def __init__(self) -> None:
        super().__init__()
        from tensordict import TensorDict

        self.mean, self.spread, self.entries = nn.Linear(5, 2), nn.Linear(5, 2), TensorDict

    def forward(self, x: Tensor) -> Any:
        step = self.entries(mean=self.mean(x), spread=self.spread(x).exp(), batch_size=[len(x)])
        steps = torch.stack([step, step.apply(torch.tanh), step * 2], 1)
        steps["action"] = steps["mean"] + steps["spread"]
        return steps[:, 1:].flatten(0, 1).unflatten(0, (len(x), 2))


def _ensemble() -> Made:
    """Parameters of three nets stacked as one tensordict, run by vmap."""
    from tensordict import TensorDict

    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            nets = [nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3)]
            self.weights = TensorDict.from_modules(*nets, as_module=True)
            self.net = [nets[0].to("meta")]  # not a child: its parameters are the stacked ones

        def forward(self, x: Tensor) -> Tensor:
            def one(weights: Any) -> Tensor:
                with weights.to_module(self.net[0]):
                    return self.net[0](x)

            return torch.vmap(one)(self.weights).mean(0)

    return Made(Ensemble().eval(), (image(BATCH, 5),), stimuli=BATCH)


def _x_transformer(**options: Any) -> Made:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=32, depth=2, heads=2, attn_dim_head=32, **options)
    model = TransformerWrapper(num_tokens=64, max_seq_len=16, attn_layers=layers)
    return Made(model.eval(), (_words(),), stimuli=BATCH)


def _x_generate() -> Made:
    from x_transformers import AutoregressiveWrapper

    inner = _x_transformer(rotary_pos_emb=True).model
    model = AutoregressiveWrapper(inner).eval()
    return Made(model, (_words(),), {"seq_len": 3}, BATCH, "generate")


def _x_encoder_decoder() -> Made:
    from x_transformers import XTransformer

    sides = {
        f"{side}_{name}": value
        for side in ("enc", "dec")
        for name, value in (("num_tokens", 64), ("depth", 1), ("heads", 2), ("max_seq_len", 16))
    }
    model = XTransformer(dim=32, **sides)
    return Made(model.eval(), (_words(), _words(50)), stimuli=BATCH)


def _x_image() -> Made:
    from x_transformers import Encoder, ViTransformerWrapper

    layers = Encoder(dim=32, depth=2, heads=2, attn_dim_head=16)
    model = ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=layers)
    return Made(model.eval(), (image(BATCH, 3, 32, 32),), stimuli=BATCH)


BUILDS: dict[str, Maker] = {
    "peft/lora": lambda: _peft("LoraConfig", r=4, target_modules=["c_attn", "c_fc"]),
    "peft/dora": lambda: _peft(
        "LoraConfig", "LlamaForCausalLM", r=4, use_dora=True, target_modules=["q_proj", "v_proj"]
    ),
    "peft/ia3": lambda: _peft(
        "IA3Config",
        "LlamaForCausalLM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "peft/prefix": lambda: _peft("PrefixTuningConfig", num_virtual_tokens=3),
    "peft/prompt": lambda: _peft("PromptTuningConfig", num_virtual_tokens=3),
    "peft/oft": lambda: _peft(
        "OFTConfig", "LlamaForCausalLM", r=0, oft_block_size=8, target_modules=["q_proj"]
    ),
    "peft/lora_generate": _peft_generate,
    "torchao/int8_weights": lambda: _torchao("Int8WeightOnlyConfig"),
    "torchao/int8_dynamic": lambda: _torchao("Int8DynamicActivationInt8WeightConfig"),
    "torchao/intx_weights": lambda: _torchao("IntxWeightOnlyConfig"),
    "torchao/float8_weights": lambda: _torchao("Float8WeightOnlyConfig"),
    "tensordict/sequence": _tensordict_sequence,
    "tensordict/policy": lambda: Made(Policy().eval(), (image(BATCH, 5),), stimuli=BATCH),
    "tensordict/ensemble": _ensemble,
    "x_transformers/decoder": lambda: _x_transformer(rotary_pos_emb=True, ff_glu=True),
    "x_transformers/alibi": lambda: _x_transformer(alibi_pos_bias=True, attn_kv_heads=1),
    "x_transformers/generate": _x_generate,
    "x_transformers/XTransformer": _x_encoder_decoder,
    "x_transformers/ViT": _x_image,
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)

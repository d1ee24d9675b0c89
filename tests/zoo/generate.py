"""`generate` of language models: transformers' loop around tiny models with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .language import built
from .made import Made, Maker

BATCH, PROMPT, WORDS = 3, 5, 4
"""Stimuli, tokens of each, and tokens to be made: where each way of decoding has begun to loop."""

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 1.5},
    "beams": {"num_beams": 3, "do_sample": False},
    "static": {"do_sample": False, "cache_implementation": "static"},
    "penalised": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "returns": {"do_sample": True, "num_return_sequences": 2},
    "whole": {"do_sample": False, "use_cache": False},
}
"""Keywords of `generate`. `whole` reads the whole text again at every step."""

MODELS: dict[str, tuple[str, str]] = {
    "GPT2LMHeadModel": ("gpt2", "greedy sampled beams static penalised returns whole"),
    "LlamaForCausalLM": ("llama", "greedy sampled beams static"),
    "MistralForCausalLM": ("mistral", "greedy static"),
    "Qwen2ForCausalLM": ("qwen2", "sampled beams"),
    "Qwen3ForCausalLM": ("qwen3", "greedy static"),
    "GemmaForCausalLM": ("gemma", "sampled static"),
    "OPTForCausalLM": ("opt", "greedy beams"),
    "GPTNeoXForCausalLM": ("gpt_neox", "greedy"),
    "MambaForCausalLM": ("mamba", "greedy sampled"),
    "T5ForConditionalGeneration": ("t5", "greedy sampled beams static"),
    "BartForConditionalGeneration": ("bart", "greedy beams"),
    "MarianMTModel": ("marian", "beams"),
}
"""Class to the type of its configuration, and the ways it is asked for text."""


def models() -> dict[str, Maker]:
    """Name to maker: `generate/GPT2LMHeadModel_greedy`."""
    return {
        f"generate/{name}_{way}": partial(_make, name, kind, WAYS[way])
        for name, (kind, ways) in MODELS.items()
        for way in ways.split()
    }


def _make(name: str, kind: str, how: dict[str, Any]) -> Made:
    model = built(name, kind)
    length = {"max_new_tokens": WORDS, "min_new_tokens": WORDS}
    start = {"decoder_start_token_id": 0} if model.config.is_encoder_decoder else {}
    return Made(model, (), {**_prompts(), **length, **start, **how}, BATCH, "generate")


def _prompts() -> dict[str, Tensor]:
    """Texts of several lengths, padded at the left, as decoders want them."""
    ids = torch.randint(10, 60, (BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}

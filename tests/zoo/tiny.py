"""Any transformers configuration made tiny: every size by the name it goes by."""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 128
LAYERS = 2
WIDTH = 32
IMAGE = 64

SIZES: tuple[tuple[str, int], ...] = (
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|num_selected_experts|top_k_experts", 2),
    (r"(num_|n_|moe_)*(local_|routed_)?(num_)?experts", 4),
    (r"n_groups?|topk_group|topk_method_groups", 1),
    (r"mamba_(n|num)_heads|linear_num_value_heads", 8),
    (r"linear_num_key_heads", 4),
    (r"(mamba|linear)_(d_head|head_dim|key_head_dim|value_head_dim)", 8),
    (r"mamba_d_ssm", 64),
    (r"(.*_)?chunk_size(_\w+)?", 16),
    (r".*lora_rank", 16),
    (r"qk_head_dim", 16),
    (r".*(head_dim|dim_head|d_head|d_kv|kv_channels|rotary_dim|query_pre_attn_scalar)", 8),
    (r"index_topk|index_topk_blocks", 4),
    (r".*(num_key_value_heads|num_kv_heads|n_head_kv|key_value_heads)", 2),
    (r"(num_|n_|\w+_)*(heads?|attention_heads)", 4),
    (r"(num_|n_|\w+_)*(vocab_size|vocab)", VOCABULARY),
    (r"(.*_)?(intermediate_(size|dim)|ffn_dim|mlp_dim|d_ff|d_inner|inner_dim|n_inner|linear_units|"
     r"ffn_hidden_size|dim_feedforward|feedforward_dim|intermediate_size_mlp|feed_forward_\w+|"
     r"ff_dim|mlp_hidden_size)", 64),
    (r"(num_|n_|\w+_)*(hidden_layers|layers?|depth|depths|num_blocks|resampler_depth)", LAYERS),
    (r"(max_)?(image_size|img_size|pretrain_image_size|image_resolution)|resolution", IMAGE),
    (r"max_position_embeddings|n_positions|max_sequence_length|max_seq_len|seq_length|context_length"
     r"|max_text_length", 128),
    (r"max_source_positions|max_target_positions", 32),
    (r"(.*_)?(hidden_size|hidden_sizes|hidden_dim|hidden_dimension|d_model|embed_dim|emb_dim|"
     r"embedding_dim|embedding_size|n_embd|dim|projection_dim|projection_size|proj_size|output_dim|"
     r"output_size|out_hidden_size|hidden_size_\w+|codevector_dim|out_channels|output_channels|"
     r"channels|conv_channels|initial_channel|pos_feats|units|latent_channels|"
     r"embed_proj_dim|model_dim|cross_hidden_size|num_filters|channel|part_features|"
     r"pooler_output_size|hidden|codebook_dim|dims?|embed_dims|filters|features)", WIDTH),
    (r"upsample_groups", WIDTH),
    (r"codebook_size|num_embeddings|num_codevectors_per_group|num_embeds", 64),
    (r"num_queries|num_object_queries|num_query_tokens|num_denoising|max_num_queries", 10),
    (r"(\w*num_)?latents|resampler_n_latents|num_latents", 8),
    (r"attention_window|local_attention|sliding_window|block_size|attention_chunk_size", 8),
    (r"index_head_dim", 8),
    (r"mm_tokens_per_image", 4),
)  # fmt: skip
"""The first pattern that matches the whole name says the size; a size already smaller is kept."""

KEPT = re.compile(
    r"(in|out|num|input|image|mask_input|color|stem|stage_\w+|encoder_in)_channels|in_chans"
    r"|.*kernel.*|.*stride.*|.*dropout.*|rope_.*|.*_dim_ratio|max_window_layers"
    r"|num_feat_extract_layers|.*period|.*offset|num_(conv_)?pos.*groups"
)
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
MEDIA = ("image_", "audio_", "video_", "img_", "media_")
WIDTHS = frozenset({"hidden_sizes", "embed_dims", "dims", "conv_dim"})


def overridden(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values, some replaced, by dotted name."""
    for name, value in overrides.items():
        *parts, last = name.split(".")
        inner = values
        for part in parts:
            inner = inner[part]
        inner[last] = value
    return values


def shrunk(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values, each size replaced by a small one."""
    layers = _layers(values)
    small = {key: _size(key, value, layers) for key, value in values.items()}
    for count in COUNTS:
        if type(values.get(count)) is int:
            small[count] = values[count] if _staged(values) else min(values[count], layers[1])
    if not _staged(values):
        for key in ("out_features", "out_indices", "stage_names", "_out_features", "_out_indices"):
            small.pop(key, None)
    _equal_heads(values, small)
    _token_ids(values, small)
    return small


def _staged(values: dict[str, Any]) -> bool:
    """Whether stages are asked for one by one, so that there have to be as many."""
    asked = values.get("out_features") or values.get("_out_features") or []
    return isinstance(values.get("depths"), list) or len(asked) > 1


def _layers(values: dict[str, Any]) -> tuple[int, int]:
    """How many layers there were, and how many it takes to have one of each kind."""
    count = 0 if _staged(values) else next((v for k in COUNTS if (v := values.get(k))), 0)
    kinds = [
        len(dict.fromkeys(map(str, v)))
        for k, v in values.items()
        if k.endswith(("layer_types", "layers_block_type")) and isinstance(v, list)
    ]
    return count, max([LAYERS, *kinds])


def _size(key: str, value: Any, layers: tuple[int, int]) -> Any:
    if isinstance(value, dict):
        return _dict(key, value)
    if isinstance(value, (list, tuple)) and value:
        return _sizes(key, list(value), layers)
    if isinstance(value, bool) or not isinstance(value, int) or KEPT.fullmatch(key):
        return value
    if key == "patch_size":
        return value if value <= 16 and IMAGE % value == 0 else 16
    return min(value, _small(key, value))


def _dict(key: str, value: dict[Any, Any]) -> dict[Any, Any]:
    if "label" in key or not all(isinstance(name, str) for name in value):
        return value
    if key == "per_layer_config":
        return {}
    if not key.startswith("rope"):
        return shrunk(value)
    rope = {k: _dict("rope", v) if isinstance(v, dict) else v for k, v in value.items()}
    if rope.get("mrope_section"):
        rope["mrope_section"] = [2, 1, 1]
    return rope


def _small(key: str, value: int) -> int:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), value)


def _sizes(key: str, values: list[Any], layers: tuple[int, int]) -> list[Any]:
    if isinstance(values[0], dict):
        return [shrunk(value) if isinstance(value, dict) else value for value in values]
    if len(values) == layers[0] > layers[1] and "conv" not in key:
        first = list(dict.fromkeys(map(str, values)))
        kept = [values[[str(v) for v in values].index(kind)] for kind in first]
        return (kept + values)[: layers[1]] if isinstance(values[0], str) else values[: layers[1]]
    if not all(type(value) is int for value in values) or KEPT.fullmatch(key):
        return values
    if "depth" in key or re.fullmatch(r"(num_|\w+_)*(layers|blocks)", key):
        return [min(value, 1) for value in values]
    if "head" in key:
        return [min(value, 2) for value in values]
    if "image_size" in key or "img_size" in key:
        return [IMAGE] * len(values)
    if key in WIDTHS or "channels" in key or "hidden" in key or "dim" in key:
        return [max(8, round(value * 64 / max(values) / 8) * 8) for value in values]
    return values


def _equal_heads(values: dict[str, Any], small: dict[str, Any]) -> None:
    """Key-value heads as many as heads where they were so."""
    heads, kv = "num_attention_heads", "num_key_value_heads"
    if isinstance(values.get(heads), int) and values[heads] == values.get(kv):
        small[kv] = small[heads]


def _token_ids(values: dict[str, Any], small: dict[str, Any]) -> None:
    """Special tokens within the vocabulary, and distinct."""
    free = iter(range(VOCABULARY - 1, 0, -1))
    for key, value in values.items():
        if re.fullmatch(r".*token_(id|index)|.*_idx|image_token|vocab_offset", key):
            if type(value) is int and (value >= 100 or key.startswith(MEDIA)):
                small[key] = next(free)
            elif isinstance(value, list) and value and type(value[0]) is int:
                small[key] = [v if v < 100 else next(free) for v in value]

"""What the rules for tiny configurations do not get right, by type."""

from __future__ import annotations

from typing import Any

_SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_HALF = {**_SECTIONS, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}
_PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
_SERIES = {"prediction_length": 8, "context_length": 16}
_SAM = {
    "vision_config.num_hidden_layers": 2,
    "vision_config.global_attn_indexes": [1],
    "vision_config.image_size": 256,
    "prompt_encoder_config.image_size": 256,
    "prompt_encoder_config.image_embedding_size": 16,
}
_MAMBA_LAST = ["mamba", "attention"]

OVERRIDES: dict[str, dict[str, Any]] = {
    "aria": {
        "projector_patch_to_query_dict": {16: 4},
        "max_value_projector_patch_to_query_dict": 4,
    },
    "autoformer": _SERIES,
    "bailing_hybrid": {"linear_num_heads": 4, "linear_head_dim": 8, "num_expert_group": 1},
    "bamba": {"attn_layer_indices": [1]},
    "bros": {"num_hidden_layers": 2, "vocab_size": 128},
    "bit": {"num_groups": 8, "embedding_size": 16},
    "bridgetower": {
        "num_attention_heads": 2,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "text_config.hidden_size": 128,
        "vision_config.hidden_size": 128,
    },
    "chameleon": {"vocabulary_map": {"<image>": 127}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _PLAIN}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "donut-swin": {"image_size": 224},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"head_dim": 16},
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    "emu3": {"vocabulary_map": {"<image>": 127}},
    "glm46v": {"text_config.rope_parameters": _HALF},
    "glm4v": {"text_config.rope_parameters": _HALF},
    "glm4v_moe": {"text_config.rope_parameters": {**_HALF, "mrope_section": [1, 1, 0]}},
    "glm4v_moe_text": {"rope_parameters": _HALF},
    "glm4v_text": {"rope_parameters": {**_SECTIONS}},
    "glm5_next_text": {"index_topk": 16},
    "glm5_next": {"text_config.index_topk": 16},
    "glm_image": {"text_config.rope_parameters": _SECTIONS},
    "glm_image_text": {"rope_parameters": _SECTIONS},
    "glm_ocr": {"text_config.rope_parameters": _SECTIONS},
    "glm_ocr_text": {"rope_parameters": _SECTIONS},
    "granitemoehybrid": {"layer_types": _MAMBA_LAST},
    "hunyuan_v1_dense": {"rope_parameters": _PLAIN, "head_dim": 8},
    "hunyuan_v1_moe": {"rope_parameters": _PLAIN, "head_dim": 8},
    "informer": _SERIES,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "layoutlmv3": {"input_size": 64, "coordinate_size": 5, "shape_size": 6},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "mobilebert": {"hidden_size": 128, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl": {"text_config.rope_parameters": _SECTIONS},
    "qwen2_5_omni_thinker": {"text_config.rope_parameters": _SECTIONS},
    "qwen2_5_vl": {"text_config.rope_parameters": _SECTIONS},
    "qwen2_5_vl_text": {"rope_parameters": _SECTIONS},
    "qwen2_vl": {"text_config.rope_parameters": _SECTIONS},
    "qwen2_vl_text": {"rope_parameters": _SECTIONS},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "num_attention_heads": 4},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [4, 4],
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh"],
        "num_buckets": 4,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "feed_forward_size": 64,
        "hash_seed": 0,
    },
    "esm": {"vocab_size": 64, "mask_token_id": 32, "pad_token_id": 1, "num_hidden_layers": 2},
    "clap": {"audio_config.depths": [1, 1, 1, 1], "text_config.num_hidden_layers": 2},
    "sam": _SAM,
    "sam_hq": _SAM,
    "swin": {"image_size": 224},
    "textnet": {"stem_out_channels": 8},
    "time_series_transformer": _SERIES,
    "vits": {"vocab_size": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "num_query_groups": 4,
        "hybrid_layer_ids": [1],
        "layers_block_type": ["linear_attention", "hybrid"],
    },
}
"""Type to dotted name to value."""

WHOLE = frozenset(
    """autoformer bros clap cvt d_fine deimv2 efficientloftr efficientnet esm informer
    pp_doclayout_v3 rt_detr rt_detr_v2 sam sam_hq speech_to_text superglue
    time_series_transformer univnet vits""".split()
)
"""Types whose sizes hang together too much to be shrunk: the default but for the overrides."""

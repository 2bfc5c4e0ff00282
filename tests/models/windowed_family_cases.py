"""Shapes of families whose layers are of several kinds: windows, rotary bases, experts, shared keys and values."""

from __future__ import annotations

from typing import Any

from models.family_checkpoints import rope

THREE = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 45, "head_dim": 14}  # nothing divides
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 3000.0}
PICTURES = {
    "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
}


def by_type(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}, "layer_types": MIXED}


GEMMA2 = {**THREE, "query_pre_attn_scalar": 11, "sliding_window": 6}
PROPORTIONAL = {"rope_type": "proportional", "partial_rotary_factor": 0.55, "rope_theta": 5000.0}
GEMMA4 = {
    **THREE,
    "num_hidden_layers": 7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    + ["sliding_attention"] * 2
    + ["full_attention"],
    "head_dim": 14,
    "global_head_dim": 20,
    "sliding_window": 6,
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 10,
    "vocab_size_per_layer_input": 140,
    "final_logit_softcapping": 3.0,
}
GEMMA4_OTHERS = {
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "position_embedding_size": 16,
    },
    "audio_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": 12,
    },
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.2}
GPT_OSS: dict[str, Any] = {
    "num_key_value_heads": 3,
    "head_dim": 16,
    "intermediate_size": 40,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "sliding_window": 5,
    "swiglu_limit": 1.5,
}
WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("Gemma", THREE),
    "gemma-bias": ("Gemma", {**THREE, "attention_bias": True, "hidden_act": "gelu"}),
    "gemma-untied": ("Gemma", {**rope("linear", factor=3.0), "tie_word_embeddings": False, "hidden_act": "silu"}),
    "gemma2": ("Gemma2", {**GEMMA2, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-uncapped": (
        "Gemma2",
        {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None, "hidden_activation": "gelu_new"},
    ),
    "gemma2-options": (
        "Gemma2",
        {
            **GEMMA2,
            **rope("yarn", factor=4.0, original_max_position_embeddings=16),
            "head_dim": 32,
            "attention_bias": True,
            "layer_types": MIXED[1:] + MIXED[1:2],
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-3,
        },
    ),
    "gemma3-text": ("Gemma3", {**GEMMA2, "num_hidden_layers": 7, "initializer_range": 0.15}),
    "gemma3-text-options": (
        "Gemma3",
        {
            **GEMMA2,
            **by_type(LINEAR, rope("default")["rope_parameters"]),
            "attention_bias": True,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "hidden_activation": "silu",
            "tie_word_embeddings": False,
        },
    ),
    "gemma3-text-gelu": ("Gemma3", {**GEMMA2, "hidden_activation": "gelu"}),
    "gemma3-text-sliding-stretched": ("Gemma3", {**GEMMA2, **by_type(YARN, LINEAR), "head_dim": 32}),
    "gemma3": ("Gemma3ForConditionalGeneration", {"text_config": {**GEMMA2, "layer_types": MIXED}, **PICTURES}),
    "gemma3-untied": (
        "Gemma3ForConditionalGeneration",
        {"text_config": GEMMA2, **PICTURES, "tie_word_embeddings": False},
    ),
    "gemma4-text": ("Gemma4", GEMMA4),
    "gemma4-text-plain": (
        "Gemma4",
        {
            **GEMMA4,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "final_logit_softcapping": None,
            "hidden_activation": "silu",
            "use_bidirectional_attention": "vision",
        },
    ),
    "gemma4-text-equal": (
        "Gemma4",
        {
            **GEMMA4,
            **by_type({**PROPORTIONAL, "factor": 2.0}, LINEAR),
            "layer_types": [*MIXED, "full_attention", *MIXED],  # the last one becomes full
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "global_head_dim": 12,
            "initializer_range": 0.14,
            "attention_bias": True,
        },
    ),
    "gemma4-text-mixture": (
        "Gemma4",
        {
            **GEMMA4,
            "enable_moe_block": True,
            "num_experts": 70,
            "top_k_experts": 20,
            "moe_intermediate_size": 28,
            "hidden_size": 48,  # its experts' kernel wants strides of 16 bytes
            "hidden_size_per_layer_input": 6,
        },
    ),
    "gemma4": (
        "Gemma4ForConditionalGeneration",
        {"text_config": {**GEMMA4, "model_type": "gemma4_text", "pad_token_id": 130}, **GEMMA4_OTHERS},
    ),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 5}),
    "smollm3-options": (
        "SmolLM3",
        {
            **THREE,
            "no_rope_layers": [1, 0, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 5,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt-oss": ("GptOss", GPT_OSS | rope("yarn", factor=4.0, truncate=False, original_max_position_embeddings=16)),
    "gpt-oss-options": (
        "GptOss",
        GPT_OSS
        | {
            "rope_parameters": None,
            "num_local_experts": 70,
            "num_experts_per_tok": 1,
            "swiglu_limit": 0.5,
            "swiglu_alpha": 2.2,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3-layer-types": (
        "SmolLM3",
        {
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": MIXED,
            **rope("yarn", factor=4.0, original_max_position_embeddings=16),
            "head_dim": 32,
        },
    ),
    "olmo2": ("Olmo2", THREE),
    "olmo2-options": (
        "Olmo2",
        {**rope("linear", factor=3.0), "attention_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
    "olmo3": ("Olmo3", {**THREE, "sliding_window": 6, "num_hidden_layers": 5}),
    "olmo3-options": (
        "Olmo3",
        {**by_type(YARN, LINEAR), "head_dim": 32, "sliding_window": 6, "attention_bias": True},
    ),
}

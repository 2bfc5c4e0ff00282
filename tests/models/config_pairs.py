"""Configurations that say a thing twice, in an old and in a new key, or leave it out; and those to be refused."""

from __future__ import annotations

from typing import Any

SIZES = {
    "model_type": "llama",
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
QWEN3_MOE = {"model_type": "qwen3_moe", "moe_intermediate_size": 24, "num_experts_per_tok": 2}
LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 200}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.5, 3.5, 4.5]}
PHI3 = {"model_type": "phi3", "head_dim": 8, "pad_token_id": 0}
LONGROPE = {"type": "longrope", **FACTORS}
GLM = {"model_type": "glm", "head_dim": 8, "pad_token_id": 0}
MINISTRAL3 = {"model_type": "ministral3", "head_dim": 32, "pad_token_id": 0}
GROWING = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.5}
GRANITE4 = {
    "model_type": "granitemoehybrid",
    "head_dim": 8,
    "num_local_experts": 0,
    "shared_intermediate_size": 30,
    "mamba_n_heads": 3,
    "attention_multiplier": 0.3,
}

# By name: what the file says; and what it must not be read as, None where the tensors' shapes tell.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "scaling-before-parameters": (
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": LINEAR},
        {"rope_parameters": {"rope_type": "default"}},
    ),
    "nothing-of-the-parameters": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 9e4}, "rope_scaling": LINEAR},
        {"rope_scaling": {**LINEAR, "rope_theta": 9e4}},
    ),
    "theta-of-neither": (
        {"rope_parameters": {"rope_theta": 9e4}, "rope_scaling": LINEAR, "rope_theta": 7e2},
        {"rope_scaling": LINEAR, "rope_theta": 9e4},
    ),
    "empty-parameters": ({"rope_parameters": {}, "rope_scaling": LINEAR}, {}),
    "empty-scaling": ({"rope_parameters": LINEAR, "rope_scaling": {}}, {}),
    "null-scaling": ({"rope_parameters": LINEAR, "rope_scaling": None}, {}),
    "theta-inside": ({"rope_parameters": {"rope_theta": 9e4}, "rope_theta": 7e2}, {"rope_theta": 7e2}),
    "theta-outside": ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 7e2}, {}),
    "rope-type-before-type": ({"rope_scaling": {**LINEAR, "rope_type": "default"}}, {"rope_scaling": LINEAR}),
    "original-outside": (
        {"rope_scaling": YARN, "original_max_position_embeddings": 20, "head_dim": 32},
        {"rope_scaling": YARN, "head_dim": 32},
    ),
    "original-outside-llama3": (
        {
            "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 40},
            "original_max_position_embeddings": 12,
        },
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 40}},
    ),
    "original-nowhere": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "head_dim": 32},
        {"rope_scaling": YARN, "head_dim": 32},
    ),
    "truncate-null": (
        {"rope_scaling": YARN | {"truncate": None}, "head_dim": 32},
        {"rope_scaling": YARN | {"truncate": True}, "head_dim": 32},
    ),
    "partial-inside": (
        {"rope_scaling": {**LINEAR, "partial_rotary_factor": 1.0}, "partial_rotary_factor": 0.5},
        {},
    ),
    "local-experts-before-experts": (QWEN3_MOE | {"num_experts": 5, "num_local_experts": 4}, None),
    "local-experts": (QWEN3_MOE | {"num_local_experts": 4}, None),
    "no-key-value-heads": ({"model_type": "qwen3", "head_dim": 8, "num_key_value_heads": None}, None),
    "layer-types-of-mistral": (
        {"model_type": "mistral", "head_dim": 8, "sliding_window": 5, "layer_types": MIXED},
        {"model_type": "mistral", "head_dim": 8, "sliding_window": 5},
    ),
    "null-layer-types": (
        {"model_type": "mistral", "head_dim": 8, "sliding_window": 5, "layer_types": None},
        {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
    ),
    "old-layer-types": (
        {
            "model_type": "qwen3",
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 0,
            "layer_types": ["sliding_attention", "attention", "attention"],
        },
        {
            "model_type": "qwen3",
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 0,
        },
    ),
    "no-layer-types-in-qwen3-moe": (
        QWEN3_MOE
        | {
            "num_experts": 4,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["full_attention"] * 3,
        },
        QWEN3_MOE | {"num_experts": 4},
    ),
    "null-window": (
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "longrope-under-an-old-name": (
        PHI3 | {"rope_scaling": {**LONGROPE, "type": "yarn"}, "original_max_position_embeddings": 16},
        PHI3,
    ),
    "no-trained-length-inside-of-phi3": (
        PHI3 | {"rope_scaling": LONGROPE | {"original_max_position_embeddings": 16}},
        PHI3 | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 16},
    ),
    "factor-of-longrope": (
        PHI3 | {"rope_scaling": LONGROPE | {"factor": 9.0}, "original_max_position_embeddings": 16},
        PHI3 | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 16},
    ),
    "partial-beside": (PHI3 | {"partial_rotary_factor": 0.5}, PHI3),
    "partial-inside-first": (
        PHI3 | {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.75}},
        PHI3 | {"partial_rotary_factor": 0.5},
    ),
    "half-of-glm": (GLM, GLM | {"partial_rotary_factor": 1.0}),
    "half-of-glm-with-a-table": (GLM | {"rope_parameters": {"rope_theta": 500.0}}, GLM),
    "null-partial-of-glm": (GLM | {"partial_rotary_factor": None}, GLM),
    "odd-partial": (GLM | {"partial_rotary_factor": 0.9}, GLM | {"partial_rotary_factor": 0.75}),
    "longrope-of-llama": ({"rope_scaling": LONGROPE, "original_max_position_embeddings": 16}, {}),
    "longrope-without-a-trained-length": (
        {"rope_scaling": LONGROPE},
        {"rope_scaling": LONGROPE, "original_max_position_embeddings": 16},
    ),
    "proportional": ({"rope_scaling": {"rope_type": "proportional"}, "partial_rotary_factor": 0.5}, {}),
    "no-rope-of-ministral3": (
        MINISTRAL3 | {"rope_theta": 333.0, "max_position_embeddings": 1 << 18},
        MINISTRAL3 | {"rope_parameters": {"rope_theta": 333.0}},
    ),
    "growing-queries": (
        MINISTRAL3 | {"rope_scaling": GROWING},
        MINISTRAL3 | {"rope_scaling": GROWING | {"llama_4_scaling_beta": 0}},
    ),
    "trained-length-beside": (
        MINISTRAL3 | {"rope_scaling": GROWING, "original_max_position_embeddings": 5},
        MINISTRAL3 | {"rope_scaling": GROWING},
    ),
    "trained-length-beside-a-plain-table": (
        MINISTRAL3 | {"rope_scaling": GROWING | {"type": "default"}, "original_max_position_embeddings": 5},
        MINISTRAL3 | {"rope_scaling": GROWING | {"type": "default", "original_max_position_embeddings": 5}},
    ),
    "older-layer-types-of-granite": (
        GRANITE4 | {"layers_block_type": ["attention"] * 3, "layer_types": ["mamba"] * 3},
        GRANITE4 | {"layer_types": ["attention"] * 3, "position_embedding_type": "rope"},
    ),
    "rotated-granite": (
        GRANITE4 | {"layer_types": ["attention"] * 3, "position_embedding_type": "rope"},
        GRANITE4 | {"layer_types": ["attention"] * 3, "position_embedding_type": "nope"},
    ),
    "factors-of-granite": (
        {"model_type": "granite", "embedding_multiplier": 12, "logits_scaling": 8, "residual_multiplier": 0.22},
        {"model_type": "granite", "embedding_multiplier": 12, "logits_scaling": 8},
    ),
    "unused-window": (
        {"model_type": "qwen2", "sliding_window": 5, "max_window_layers": 0},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_parameters": {"full_attention": LINEAR}}, "rope_parameters differs by type of layer"),
    ({"rope_scaling": {"sliding_attention": LINEAR}}, "rope_scaling differs by type of layer"),
    ({"rope_scaling": [1]}, "rope_scaling must be an object"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor other than 1"),
    ({"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 1.0}, "other than 1"),
    ({"per_layer_config": {"0": {"num_attention_heads": 3}}}, "per_layer_config is not supported"),
    ({"transformers_weights": "other.safetensors"}, "transformers_weights is not supported"),
    (
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 5, "layer_types": MIXED},
        "layer_types names sliding layers, but use_sliding_window is false",
    ),
    (
        {"model_type": "mistral", "sliding_window": None, "layer_types": MIXED},
        "layer_types names sliding layers, but sliding_window is null",
    ),
    ({"model_type": "mistral", "layer_types": [*MIXED[:2], "chunked_attention"]}, "layer_types must be a list of 3"),
    ({"model_type": "mistral", "layer_types": [*MIXED[:2], ["full_attention"]]}, "layer_types must be a list of 3"),
    ({"model_type": "mistral", "layer_types": MIXED[:2]}, "layer_types must be a list of 3"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 2}, "aren't finite"),
    (PHI3 | {"rope_scaling": LINEAR}, "unknown rope scaling 'linear'; known are longrope, su, yarn"),
    (PHI3 | {"rope_scaling": LONGROPE | {"short_factor": [1.0]}}, "short_factor must be a list of 4 positive numbers"),
    (PHI3 | {"rope_scaling": LONGROPE | {"long_factor": [1, 2, 3, float("nan")]}}, "long_factor must be a list of 4"),
    (PHI3 | {"rope_scaling": {"type": "su", "short_factor": [1] * 4}}, "long_factor must be a list of 4"),
    (
        PHI3 | {"rope_scaling": LONGROPE | {"factor": 2.0}, "original_max_position_embeddings": 1},
        "longrope rotary embedding gives frequencies that aren't finite",
    ),
    (PHI3 | {"partial_rotary_factor": 1.5}, "partial_rotary_factor must be above 0 and at most 1, not 1.5"),
    (PHI3 | {"partial_rotary_factor": 0.1}, "leaves nothing of a head to rotate"),
    (GLM | {"rope_scaling": YARN, "partial_rotary_factor": 0.9}, "gives 7 rotated elements, an odd number"),
    ({"rope_scaling": LONGROPE | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor other than 1"),
    (MINISTRAL3 | {"rope_scaling": GROWING | {"llama_4_scaling_beta": -1}}, "llama_4_scaling_beta must be a positive"),
    ({"rope_scaling": {**LINEAR, "llama_4_scaling_beta": 0.5}}, "llama_4_scaling_beta is not supported"),
    (MINISTRAL3 | {"layer_types": MIXED}, "layer_types is not supported for ministral3"),
    (GRANITE4, "layer_types is absent: all layers are Mamba's"),
    (GRANITE4 | {"layer_types": ["attention", "mamba", "attention"]}, "layer_types: layer 1 is Mamba's"),
    (GRANITE4 | {"layer_types": ["attention"] * 2}, "layer_types must be a list of 3"),
    (GRANITE4 | {"layer_types": MIXED}, "layer_types: unknown kind 'sliding_attention'"),
    (GRANITE4 | {"layer_types": ["attention"] * 3, "num_local_experts": 4}, "num_local_experts is 4; of this family"),
    (
        GRANITE4 | {"layer_types": ["attention"] * 3, "num_local_experts": None},
        "num_local_experts is 8",
    ),
    (GRANITE4 | {"layer_types": ["attention"] * 3, "position_embedding_type": "alibi"}, "position_embedding_type must"),
    ({"model_type": "granite", "logits_scaling": 1e-40}, "logits_scaling must be at least 1e-30"),
    ({"model_type": "granite", "attention_multiplier": 0}, "attention_multiplier must be a positive number"),
    ({"model_type": "mistral3", "text_config": {"model_type": "qwen2"}}, "text_config: model_type must be mistral"),
]


def config_of(changes: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration. A null number of key-value heads stays one; the other sizes are always there."""
    return SIZES | changes

"""A shape of each family, and one for each option of its config: sizes that nothing divides."""

from __future__ import annotations

from typing import Any

from models.family_checkpoints import longrope, rope
from models.windowed_family_cases import WINDOWED

LINEAR = ["linear_attention", "full_attention", "linear_attention"]
QWEN35 = {
    "head_dim": 16,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 14,
    "layer_types": LINEAR,
}
QWEN35_MOE = {
    **QWEN35,
    "num_experts": 70,
    "num_experts_per_tok": 20,  # of few, 8-bit weights that change one of them change half of a row
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
}
QWEN35_PICTURES = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 48}

LFM2 = {"block_auto_adjust_ff_dim": False}

GRANITE4 = {
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "layer_types": ["full_attention"] * 3,
    "shared_intermediate_size": 72,
    "position_embedding_type": "rope",
    "num_key_value_heads": 3,
    "vocab_size": 137,
    "embedding_multiplier": 3,
    "attention_multiplier": 0.21,
    "residual_multiplier": 0.6,
    "logits_scaling": 1.7,
    "mamba_n_heads": 3,
}

PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}
MINISTRAL3 = {
    **rope("yarn", factor=4.0, original_max_position_embeddings=7, llama_4_scaling_beta=0.4),
    "head_dim": 24,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-mha-tied": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "llama-mqa-bias": ("Llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("Llama", {"head_dim": 32}),
    "llama-linear": ("Llama", rope("linear", factor=3.0)),
    "llama-dynamic": ("Llama", {**rope("dynamic", factor=2.0), "max_position_embeddings": 16}),
    "llama3": (
        "Llama",
        {
            **rope(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24
            ),
            "head_dim": 32,
        },
    ),
    "llama-yarn": ("Llama", {**rope("yarn", factor=4.0, original_max_position_embeddings=16), "head_dim": 32}),
    "llama-yarn-mscale": (
        "Llama",
        {
            **rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.6),
            "head_dim": 64,
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 5, "head_dim": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-bias": ("Qwen3", {"head_dim": 24, "attention_bias": True}),
    "qwen3-moe": (
        "Qwen3Moe",
        {
            "head_dim": 16,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3-moe-raw-weights": (
        "Qwen3Moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 40},
    ),
    "lfm2": ("Lfm2", {**LFM2, "layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2-odd": (
        "Lfm2",
        {
            "layer_types": ["full_attention", "conv", "conv"],
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "conv_bias": True,
            "conv_L_cache": 5,
            "tie_word_embeddings": False,
            "block_multiple_of": 7,
            "block_ffn_dim_multiplier": 1.3,
        },
    ),
    "qwen3.5": ("Qwen3_5ForCausalLM", QWEN35),
    "qwen3.5-odd": (
        "Qwen3_5ForCausalLM",
        {
            **QWEN35,
            "layer_types": None,
            "full_attention_interval": 2,
            "num_key_value_heads": 3,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "linear_conv_kernel_dim": 2,
            "linear_num_value_heads": 3,
            "vocab_size": 137,
            **rope("default", partial_rotary_factor=0.55),
        },
    ),
    "qwen3.5-last": ("Qwen3_5ForCausalLM", {**QWEN35, "layer_types": [*LINEAR[1:], LINEAR[0]]}),
    "qwen3.5-pictures": (
        "Qwen3_5ForConditionalGeneration",
        {"text_config": {**QWEN35, "model_type": "qwen3_5_text"}, "vision_config": QWEN35_PICTURES},
    ),
    "qwen3.5-moe": ("Qwen3_5MoeForCausalLM", QWEN35_MOE),
    "qwen3.5-moe-pictures": (
        "Qwen3_5MoeForConditionalGeneration",
        {"text_config": {**QWEN35_MOE, "model_type": "qwen3_5_moe_text"}, "vision_config": QWEN35_PICTURES},
    ),
    "llama-relu": ("Llama", {"hidden_act": "relu"}),
    "lfm2-attention": ("Lfm2", {**LFM2, "full_attn_idxs": None}),
    "granite": ("Granite", {}),
    "granite-factors": (
        "Granite",
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "vocab_size": 137,
            "embedding_multiplier": 0.4,
            "attention_multiplier": 0.21,
            "residual_multiplier": 1.2,
            "logits_scaling": 3,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "granite-yarn": ("Granite", {**rope("yarn", factor=4.0, original_max_position_embeddings=16), "head_dim": 24}),
    "granite-gelu": ("Granite", {"hidden_act": "gelu"}),
    "granite4": ("GraniteMoeHybrid", GRANITE4),
    "granite4-nope": (
        "GraniteMoeHybrid",
        {**GRANITE4, "position_embedding_type": None, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "phi3": ("Phi3", {}),
    "phi3-window": ("Phi3", {"sliding_window": 6, "num_key_value_heads": 3, "head_dim": 14, "vocab_size": 137}),
    "phi3-partial": ("Phi3", {**rope("default", partial_rotary_factor=0.75), "head_dim": 20}),
    "phi3-odd-partial": ("Phi3", {**rope("default", partial_rotary_factor=0.55), "head_dim": 20}),
    # Whole runs here are beyond 8 positions, so that transformers takes the second set of factors from the start.
    "phi3-longrope": (
        "Phi3",
        {
            **longrope(4),
            "original_max_position_embeddings": 8,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
    ),
    "phi3-longrope-short": (
        "Phi3",
        {
            **longrope(3, partial_rotary_factor=0.75),
            "original_max_position_embeddings": 300,
            "max_position_embeddings": 900,
        },
    ),
    "llama-longrope": ("Llama", longrope(4, factor=3.0, original_max_position_embeddings=8)),
    "llama-longrope-attention-factor": (
        "Llama",
        longrope(8, attention_factor=0.7, original_max_position_embeddings=8) | {"head_dim": 16},
    ),
    "llama-proportional": (
        "Llama",
        rope("proportional", partial_rotary_factor=0.4, factor=2.5) | {"head_dim": 14},
    ),
    "ministral": ("Ministral", {"sliding_window": 6, "head_dim": 14, "num_key_value_heads": 3}),
    "ministral-mixed": (
        "Ministral",
        {"head_dim": 8, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
    "ministral-full": (
        "Ministral",
        {"head_dim": 8, "sliding_window": 5, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True},
    ),
    "ministral3": ("Ministral3", {**MINISTRAL3, "num_key_value_heads": 3, "vocab_size": 137}),
    "ministral3-window": ("Ministral3", {**MINISTRAL3, "sliding_window": 6, "tie_word_embeddings": True}),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {**MINISTRAL3, "model_type": "ministral3", "num_key_value_heads": 3},
            "vision_config": PIXTRAL,
            "tie_word_embeddings": False,
        },
    ),
    "mistral3-of-mistral": (
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", "head_dim": 14, "sliding_window": None},
            "vision_config": PIXTRAL,
        },
    ),
    "glm": ("Glm", {"head_dim": 20, "num_key_value_heads": 3, "vocab_size": 137}),
    "glm-plain-bias": ("Glm", {"head_dim": 10, "attention_bias": False, "tie_word_embeddings": True}),
    "glm-odd-partial": ("Glm", {**rope("default", partial_rotary_factor=0.55), "head_dim": 20}),
    "glm-linear": ("Glm", {**rope("linear", factor=3.0), "head_dim": 16}),
    "glm-llama3": (
        "Glm",
        {
            **rope(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24
            ),
            "head_dim": 36,
        },
    ),
    "glm-yarn": ("Glm", {**rope("yarn", factor=4.0, original_max_position_embeddings=16), "head_dim": 32}),
    "glm-dynamic": ("Glm", {**rope("dynamic", factor=2.0), "max_position_embeddings": 16, "head_dim": 16}),
    "glm-longrope": ("Glm", {**longrope(4, factor=3.0, original_max_position_embeddings=8), "head_dim": 16}),
    "glm-proportional": ("Glm", {**rope("proportional"), "head_dim": 20}),
    "glm4": ("Glm4", {"head_dim": 20, "num_key_value_heads": 3, "vocab_size": 137}),
    "glm4-whole": (
        "Glm4",
        {
            **rope("default", partial_rotary_factor=1.0),
            "head_dim": 8,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    **WINDOWED,
}

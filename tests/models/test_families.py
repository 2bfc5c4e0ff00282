"""Logits of every family against transformers, on random checkpoints that transformers writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.numpy_ops import NumpyOps

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "initializer_range": 0.2,  # wide enough that every part moves the logits
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **more}}


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


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    short, long = ([1 + i / 10 for i in range(pairs)], [1.5 + i * 0.9 for i in range(pairs)])
    return rope("longrope", short_factor=short, long_factor=long, **more)


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

GPT_OSS: dict[str, Any] = {
    "num_key_value_heads": 3,
    "head_dim": 16,
    "intermediate_size": 40,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "sliding_window": 5,
    "swiglu_limit": 1.5,
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
}

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
CASES |= {
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


def write_checkpoint(directory: Path, family: str, *, tokenizer: bool = False, **fields: Any) -> Any:
    """A random model of a family, saved; its norms and biases are no ones and zeros, which would hide mistakes.

    `family` may also be a whole class with text and other parts; sizes and `text_config` in `fields` are the text's.
    """
    torch.manual_seed(7)
    made = getattr(transformers, family if "For" in family else f"{family}ForCausalLM")
    if "text_config" in fields:
        fields = {**fields, "text_config": {**SMALL, **fields["text_config"]}}
    else:
        fields = {**SMALL, **fields}
    config = made.config_class(**fields)
    model = made(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("norm.weight", "norm_1.weight", "norm_2.weight", "router.scale", "per_expert_scale")):
                value.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.3)
        for name, value in model.named_buffers():
            if name.endswith("layer_scalar"):
                value.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    if tokenizer:
        write_tokenizer(directory, config.get_text_config().vocab_size)
    return model


def write_tokenizer(directory: Path, vocab: int) -> None:
    """A tokenizer whose words are `t0`, `t1`, …"""
    words = {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(vocab)}, "unk_token": "t0"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    split = {"type": "WhitespaceSplit"}
    whole = {"version": "1.0", "added_tokens": [], **parts, "pre_tokenizer": split, "model": words}
    (directory / "tokenizer.json").write_text(json.dumps(whole))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def reference(directory: Path) -> ReferenceDecoder:
    spec = load_spec(directory)
    tensors = check_tensors(spec, Checkpoint(directory))
    ops = NumpyOps()
    return ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))


def whole_logits(
    decoder: Any, ids: np.ndarray, mask: np.ndarray | None = None, adapters: tuple[Any, ...] = ()
) -> np.ndarray:
    batch = replace(Batch.whole(ids, 16, mask), adapters=adapters)
    logits = decoder.forward(batch, decoder.new_cache(batch.block_tables.size, 16))
    return logits.reshape(*ids.shape, -1)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0.1, "the oracle's own logits must say something"
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, **fields)
    ids = np.random.default_rng(1).integers(0, 131, size=(2, 29)).astype(np.int32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids).long()).logits.numpy()
    assert relative_error(whole_logits(reference(tmp_path), ids), theirs) <= 1e-4


@pytest.mark.parametrize("case", ["llama", "mistral-window", "qwen3"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_seen(case: str, side: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    model = write_checkpoint(tmp_path, family, **fields)
    ids = np.random.default_rng(2).integers(0, 131, size=(3, 17)).astype(np.int32)
    mask = np.ones((3, 17), dtype=bool)
    for row, padding in enumerate((0, 4, 9)):
        mask[row, slice(0, padding) if side == "left" else slice(17 - padding, None)] = False
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()).logits.numpy()
    ours = whole_logits(reference(tmp_path), ids, mask)
    assert np.isfinite(ours).all()
    assert relative_error(ours[mask], theirs[mask]) <= 1e-4

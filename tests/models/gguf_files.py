"""GGUF files of random models, by the rules of llama.cpp's converter, written with the gguf package."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from cutset.models.families import spec_from_config
from cutset.models.files.writer import write_safetensors

__all__ = ["CONFIGS", "Written", "tokenizer_keys", "write_directory", "write_gguf"]

Floats = NDArray[np.float32]
KindOf = Callable[[str], Kind]  # of a tensor by its name in GGUF
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2],
    "rope_theta": 50000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PAIRED = {"llama", "granite", "smollm3", "mistral3"}
SHIFTED = {"gemma", "gemma2", "gemma3"}

# The name of an architecture (a case after a dash), and the config.json of a model of it.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-3": {"model_type": "llama", "rope_scaling": LLAMA3},
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral3": {
        "model_type": "ministral3",
        "rope_parameters": {
            **YARN,
            "rope_theta": 50000.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "mistral3-small": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-yarn": {"model_type": "qwen2", "rope_scaling": YARN},
    "qwen3": {"model_type": "qwen3"},
    "qwen3moe": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "gemma": {"model_type": "gemma", "tie_word_embeddings": True, "rope_theta": 10000.0},
    "gemma2": {
        "model_type": "gemma2",
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 64,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
    },
    "phi3": {"model_type": "phi3", "sliding_window": 63},
    "phi3-long": {
        "model_type": "phi3",
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + i / 16 for i in range(12)],
            "long_factor": [2.0 + i for i in range(12)],
        },
    },
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4, "tie_word_embeddings": True},
    "granite": {
        "model_type": "granite",
        "head_dim": 16,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "granite-still": {
        "model_type": "granitemoehybrid",
        "head_dim": 16,
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
        "layer_types": ["attention", "attention"],
        "position_embedding_type": "nope",
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "olmo2": {"model_type": "olmo2"},
    "olmo2-3": {
        "model_type": "olmo3",
        "num_hidden_layers": 4,
        "sliding_window": 64,
        "rope_theta": 5e5,
        "rope_scaling": YARN,
    },
    "glm4": {"model_type": "glm4", "attention_bias": True, "partial_rotary_factor": 0.5},
    "glm4-plain": {"model_type": "glm4", "attention_bias": False, "partial_rotary_factor": 0.5},
    "chatglm": {"model_type": "glm", "attention_bias": True, "partial_rotary_factor": 0.5},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "intermediate_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 64,
        "rope_scaling": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    },
    "lfm2": {
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "block_auto_adjust_ff_dim": False,
        "norm_eps": 1e-5,
        "layer_types": ["conv", "full_attention", "conv"],
        "conv_bias": False,
        "head_dim": 16,
    },
}
NAMES = {
    r"model\.embed_tokens\.weight": "token_embd.weight",
    r"model\.norm\.weight": "output_norm.weight",
    r"model\.embedding_norm\.weight": "token_embd_norm.weight",
    r"lm_head\.weight": "output.weight",
    r"self_attn\.([qkv])_proj": "attn_{0}",
    r"self_attn\.qkv_proj": "attn_qkv",
    r"self_attn\.(?:o|out)_proj": "attn_output",
    r"self_attn\.([qk])_(?:norm|layernorm)": "attn_{0}_norm",
    r"self_attn\.sinks": "attn_sinks.weight",
    r"(?:mlp\.gate_proj|feed_forward\.w1)": "ffn_gate",
    r"(?:mlp\.up_proj|feed_forward\.w3|mlp\.gate_up_proj)": "ffn_up",
    r"(?:mlp\.down_proj|feed_forward\.w2|shared_mlp\.output_linear)": "ffn_down",
    r"mlp\.(?:gate|router)": "ffn_gate_inp",
    r"(?:input_layernorm|operator_norm)": "attn_norm",
    r"pre_feedforward_layernorm": "ffn_norm",
    r"(?:post_feedforward_layernorm|post_mlp_layernorm)": "post_ffw_norm",
    r"post_self_attn_layernorm": "post_attention_norm",
    r"conv\.(in_proj|conv|out_proj)": "shortconv.{0}",
}
# What comes after attention has one name in checkpoints, and is one of two things.
POST_ATTENTION = {"gemma2": "post_attention_norm", "gemma3": "post_attention_norm", "olmo2": "post_attention_norm"}
POST_ATTENTION |= {"gpt-oss": "post_attention_norm"}


class Written:
    """A model: its config.json and its tensors under a checkpoint's names."""

    def __init__(self, case: str, seed: int = 0) -> None:
        self.architecture = next(name for name in (case, case.rsplit("-", 1)[0]) if name in ARCHITECTURES)
        self.config: dict[str, Any] = {**SMALL, **CONFIGS[case]}
        self.spec = spec_from_config(self.config)
        rng = np.random.default_rng(seed)
        self.tensors: dict[str, Floats] = {}
        for name, shape in self.spec.tensor_shapes().items():
            scale = 0.25 if len(shape) > 1 else 0.5
            self.tensors[name] = (rng.standard_normal(shape) * scale).astype(np.float32)


ARCHITECTURES = {
    "llama", "mistral3", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3", "smollm3", "granite",
    "olmo2", "glm4", "chatglm", "gpt-oss", "lfm2",
}  # fmt: skip


def write_directory(model: Written, directory: Path) -> None:
    """The model as a checkpoint directory, without a tokenizer."""
    import json

    directory.mkdir(parents=True, exist_ok=True)
    layout = {name: ("F32", value.shape) for name, value in model.tensors.items()}
    write_safetensors(directory / "model.safetensors", layout, model.tensors.items(), {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(model.config))


def write_gguf(
    model: Written,
    path: Path,
    kind_of: KindOf = lambda name: Kind.F32,
    *,
    more: Mapping[str, Any] | None = None,
    parts: int = 0,
) -> dict[str, Floats]:
    """Writes the file, with a small tokenizer; gives the values that it stands for, under a checkpoint's names.

    `more` are keys that are written as they are; `parts`: most tensors of a part of a split file.
    """
    writer = gguf.GGUFWriter(path, model.architecture, split_max_tensors=parts)
    _keys(model, writer)
    keys = dict(more or {})
    if "tokenizer.ggml.model" not in keys:
        keys = tokenizer_keys(model.config["vocab_size"]) | keys
    for key, value in keys.items():
        _add(writer, key, value)
    converted = _converted(model)
    meant: dict[str, Floats] = {}
    for name, value in converted.items():
        kind = kind_of(name) if value.ndim > 1 and not name.endswith(".bias") else Kind.F32
        data = gguf.quants.quantize(np.ascontiguousarray(value), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        meant[name] = gguf.quants.dequantize(data, kind)
    for name, value in _factors(model).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: _taken_back(model, name, meant) for name in model.tensors}


def _add(writer: Any, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, str: writer.add_string, int: writer.add_int32, float: writer.add_float32}
    kinds.get(type(value), writer.add_array)(key, value)


def tokenizer_keys(count: int) -> dict[str, Any]:
    """A byte-level tokenizer whose vocabulary has `count` entries."""
    letters = [chr(33 + i) for i in range(94)]
    tokens = ["<unk>", "<s>", "</s>", "!!", *letters, *(f"w{i}" for i in range(count))][:count]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (count - 3),
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _keys(model: Written, writer: Any) -> None:
    c = model.config
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_head_count(c["num_attention_heads"])
    kv_heads = c["num_key_value_heads"]
    if model.architecture == "lfm2":
        kv_heads = [0 if kind == "conv" else kv_heads for kind in c["layer_types"]]
        writer.add_shortconv_l_cache(3)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_feed_forward_length(c["intermediate_size"])
    scaling = c.get("rope_scaling") or c.get("rope_parameters") or {}
    writer.add_rope_freq_base(c["rope_theta"])
    if "partial_rotary_factor" in c:
        writer.add_rope_dimension_count(int(c["head_dim"] * c["partial_rotary_factor"]))
    kind = scaling.get("rope_type")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "mscale_all_dim" in scaling:
            writer.add_rope_scaling_yarn_log_mul(scaling["mscale_all_dim"])
    if "llama_4_scaling_beta" in scaling:
        writer.add_attn_temperature_scale(scaling["llama_4_scaling_beta"])
    if "original_max_position_embeddings" in c:
        writer.add_rope_scaling_orig_ctx_len(c["original_max_position_embeddings"])
    if model.architecture == "phi3" or c.get("sliding_window"):
        writer.add_sliding_window(c.get("sliding_window") or 0)
    if c["model_type"] == "olmo3":
        writer.add_sliding_window_pattern([(i + 1) % 4 != 0 for i in range(c["num_hidden_layers"])])
    if "num_experts_per_tok" in c:
        writer.add_expert_count(c.get("num_experts") or c["num_local_experts"])
        writer.add_expert_used_count(c["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(c.get("moe_intermediate_size") or c["intermediate_size"])
    if model.architecture == "gemma2":
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    if model.architecture == "granite":
        writer.add_attention_scale(c["attention_multiplier"])
        writer.add_embedding_scale(c["embedding_multiplier"])
        writer.add_residual_scale(c["residual_multiplier"])
        writer.add_logit_scale(c["logits_scaling"])
        if c["model_type"] == "granitemoehybrid":
            writer.add_rope_scaling_finetuned(False)


def _factors(model: Written) -> dict[str, Floats]:
    scaling, c = model.config.get("rope_scaling") or {}, model.config
    if "long_factor" in scaling:
        return {
            f"rope_factors_{kind}.weight": np.array(scaling[f"{kind}_factor"], np.float32) for kind in ("short", "long")
        }
    if scaling.get("rope_type") != "llama3":
        return {}
    low, high, original = (scaling[name] for name in ("low_freq_factor", "high_freq_factor", ORIGINAL))
    found = []
    for i in range(0, c["head_dim"], 2):
        wave = 2 * math.pi * c["rope_theta"] ** (i / c["head_dim"])
        smooth = (original / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / scaling["factor"] + smooth)
        found.append(1 if wave < original / high else scaling["factor"] if wave > original / low else between)
    return {"rope_freqs.weight": np.array(found, np.float32)}


ORIGINAL = "original_max_position_embeddings"


def _gguf_name(model: Written, name: str) -> str:
    """The name of what isn't an expert's."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    rest = name[layer.end() :] if layer else name
    rest = re.sub(r"^post_attention_layernorm", POST_ATTENTION.get(model.architecture, "ffn_norm"), rest)
    if model.architecture == "lfm2":
        rest = re.sub(r"^ffn_norm", "ffn_norm", rest)
    for pattern, theirs in NAMES.items():
        if match := re.match(pattern + r"(?=\.|$)", rest):
            rest = theirs.format(*match.groups()) + rest[match.end() :]
            break
    return f"blk.{layer[1]}.{rest}" if layer else rest


def _paired(value: Floats, heads: int) -> Floats:
    """LlamaModel.permute of llama.cpp's converter."""
    return value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def _unpaired(value: Floats, heads: int) -> Floats:
    return value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


EXPERT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|gate_up_proj)\.weight")
BIAS = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)(?:_proj)?_bias")


def _converted(model: Written) -> dict[str, Floats]:
    found: dict[str, Any] = {}
    for name, value in model.tensors.items():
        if expert := EXPERT.match(name):
            layer, _, part = expert.groups()
            parts = {part: value}
            if part == "gate_up_proj":
                parts = {"gate_proj": value[: len(value) // 2], "up_proj": value[len(value) // 2 :]}
            for called, rows in parts.items():
                found.setdefault(f"blk.{layer}.ffn_{called.removesuffix('_proj')}_exps.weight", []).append(rows)
        elif bias := BIAS.match(name):
            layer, part = bias.groups()
            if part == "down":
                found[f"blk.{layer}.ffn_down_exps.bias"] = value
            else:
                half = value.shape[1] // 2
                found[f"blk.{layer}.ffn_gate_exps.bias"] = value[:, :half]
                found[f"blk.{layer}.ffn_up_exps.bias"] = value[:, half:]
        else:
            theirs = _gguf_name(model, name)
            if heads := _heads(model, theirs):
                value = _paired(value, heads)
            if model.architecture in SHIFTED and theirs.endswith("norm.weight"):
                value = value + np.float32(1)
            if model.architecture == "chatglm" and re.search(r"attn_[qkv]\.", theirs):
                theirs = re.sub(r"attn_[qkv]\.", "attn_qkv.", theirs)  # as the model's first program had it
                value = np.concatenate([found[theirs], value]) if theirs in found else value
            if "shared_mlp.input_linear" in name:
                layer = theirs.split(".shared_mlp")[0]
                found[f"{layer}.ffn_gate.weight"], found[f"{layer}.ffn_up.weight"] = np.split(value, 2)
                continue
            found[theirs] = value[:, 0] if theirs.endswith("shortconv.conv.weight") else value
    return {name: np.stack(value) if isinstance(value, list) else value for name, value in found.items()}


def _heads(model: Written, name: str) -> int:
    """Heads of a tensor whose rows are laid in pairs; 0 for others."""
    part = re.search(r"\.attn_([qk])\.", name)
    if model.architecture not in PAIRED or part is None:
        return 0
    return int(model.config["num_attention_heads" if part[1] == "q" else "num_key_value_heads"])


def _taken_back(model: Written, name: str, meant: Mapping[str, Floats]) -> Floats:
    if expert := EXPERT.match(name):
        layer, number, part = expert.groups()
        called = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
        parts = [meant[f"blk.{layer}.ffn_{one.removesuffix('_proj')}_exps.weight"][int(number)] for one in called]
        return np.concatenate(parts)
    if bias := BIAS.match(name):
        layer, part = bias.groups()
        called = ("down",) if part == "down" else ("gate", "up")
        return np.concatenate([meant[f"blk.{layer}.ffn_{one}_exps.bias"] for one in called], axis=1)
    theirs = _gguf_name(model, name)
    if "shared_mlp.input_linear" in name:
        layer = theirs.split(".shared_mlp")[0]
        return np.concatenate([meant[f"{layer}.ffn_gate.weight"], meant[f"{layer}.ffn_up.weight"]])
    if model.architecture == "chatglm" and (part := re.search(r"attn_([qkv])\.", theirs)):
        sizes = model.spec.heads_of(0)
        fused = meant[re.sub(r"attn_[qkv]\.", "attn_qkv.", theirs)]
        first = {"q": 0, "k": sizes.q_size, "v": sizes.q_size + sizes.kv_size}[part[1]]
        return fused[first : first + len(model.tensors[name])]
    value = meant[theirs]
    if heads := _heads(model, theirs):
        value = _unpaired(value, heads)
    if model.architecture in SHIFTED and theirs.endswith("norm.weight"):
        value = value - np.float32(1)
    return value.reshape(model.tensors[name].shape)

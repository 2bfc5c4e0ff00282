"""Random models of about 200 M parameters in the shape of each family, as transformers builds and saves them.

    PYTHON family_models.py FAMILY FOLDER [--quick]

This file is run by path with whatever Python has transformers, so it imports nothing of Cutset's libraries. Weights are
saved in bfloat16 and used in float32 or 8 bits, so that every program begins with the same numbers. They are drawn as
transformers does, but gains and biases so that one that is left out shows.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any, NamedTuple

WIDE = 32000  # words
BASE: dict[str, Any] = {
    "vocab_size": WIDE,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 3072,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
# What `--quick` takes instead, where a family's table doesn't need another size.
SMALL = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4}
LARGE_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
EXPERTS = {"num_hidden_layers": 5, "num_experts_per_tok": 4}
DELTA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.015625,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


class FamilyModel(NamedTuple):
    """A class of transformers, and what its configuration has beside BASE; `quick`: what a small one has besides."""

    cls: str
    config: dict[str, Any]
    quick: dict[str, Any] | None = None

    def values(self, quick: bool) -> dict[str, Any]:
        """The configuration's."""
        return BASE | self.config | (SMALL | (self.quick or {}) if quick else {})


def _kinds(layers: int, every: int, other: str) -> dict[str, Any]:
    """Layer types: attention over everything at each `every`th layer, `other` elsewhere."""
    return {"layer_types": [other if (layer + 1) % every else "full_attention" for layer in range(layers)]}


FAMILIES: dict[str, FamilyModel] = {
    "llama": FamilyModel("Llama", {}),
    "mistral": FamilyModel("Mistral", {"head_dim": 64, "sliding_window": 4096}),
    "ministral": FamilyModel("Ministral", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}),
    "ministral3": FamilyModel("Ministral3", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}),
    "qwen2": FamilyModel("Qwen2", {"num_key_value_heads": 2}),
    "qwen3": FamilyModel("Qwen3", {"num_hidden_layers": 9, "num_key_value_heads": 8, "head_dim": 128}),
    "qwen3_moe": FamilyModel(
        "Qwen3Moe",
        {**EXPERTS, "num_experts": 32, "moe_intermediate_size": 256, "norm_topk_prob": True, "head_dim": 64},
        {"moe_intermediate_size": 64},
    ),
    "qwen3_5_text": FamilyModel(
        "Qwen3_5",
        {**DELTA, "num_hidden_layers": 8, **_kinds(8, 4, "linear_attention")},
        {**_kinds(4, 4, "linear_attention")},
    ),
    "qwen3_5_moe_text": FamilyModel(
        "Qwen3_5Moe",
        {
            **EXPERTS,
            **DELTA,
            **_kinds(4, 4, "linear_attention"),
            "num_hidden_layers": 4,
            "num_experts": 32,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 256,
        },
        {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
    ),
    "gemma": FamilyModel("Gemma", {**LARGE_HEADS, "num_hidden_layers": 14, "tie_word_embeddings": True}),
    "gemma2": FamilyModel(
        "Gemma2", {**LARGE_HEADS, "num_hidden_layers": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
    ),
    "gemma3_text": FamilyModel(
        "Gemma3", {**LARGE_HEADS, "num_hidden_layers": 14, "sliding_window": 512, "tie_word_embeddings": True}
    ),
    "smollm3": FamilyModel("SmolLM3", {}),
    "olmo2": FamilyModel("Olmo2", {}),
    "olmo3": FamilyModel("Olmo3", {}),
    "granite": FamilyModel("Granite", GRANITE),
    "granitemoehybrid": FamilyModel(
        "GraniteMoeHybrid",
        {
            **GRANITE,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 3072,
            "position_embedding_type": "rope",
            "layer_types": ["full_attention"] * 12,
            "mamba_n_heads": 16,
        },
        {"shared_intermediate_size": 192, "layer_types": ["full_attention"] * 4},
    ),
    "phi3": FamilyModel("Phi3", {}),
    "glm": FamilyModel("Glm", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}, {"head_dim": 16}),
    "glm4": FamilyModel("Glm4", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}),
    "gpt_oss": FamilyModel(
        "GptOss",
        {
            **EXPERTS,
            "num_local_experts": 32,
            "intermediate_size": 256,
            "head_dim": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 150000.0},  # as written elsewhere, YaRN rounds
        },
        {"intermediate_size": 64},
    ),
    "lfm2": FamilyModel(
        "Lfm2",
        {
            **_kinds(12, 3, "conv"),
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": True,
        },
        {**_kinds(4, 3, "conv"), "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
}


def write_model(name: str, folder: pathlib.Path, weights: str = "bfloat16", quick: bool = False) -> None:
    """Weights and configuration of a family's model. Those in float32 are the same numbers."""
    import torch
    import transformers

    family = FAMILIES[name]
    prefixes = [f"{family.cls}TextConfig", f"{family.cls}Config"]
    config_class = next(getattr(transformers, found) for found in prefixes if hasattr(transformers, found))
    torch.manual_seed(11)
    config = config_class(**family.values(quick))
    model = getattr(transformers, f"{family.cls}ForCausalLM")._from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for key, values in model.named_parameters():
            if "norm" in key:
                values += torch.rand(values.shape) - 0.5
            elif key.endswith(("bias", "sinks")) and not key.endswith("dt_bias"):
                values.copy_(torch.randn(values.shape) * 0.2)
    generation: Any = transformers.GenerationConfig
    model.generation_config = generation(eos_token_id=2)
    model.to(getattr(torch, weights)).save_pretrained(folder, max_shard_size="8GB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--weights", default="bfloat16")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    write_model(args.family, args.folder, args.weights, args.quick)
    print(json.dumps({"written": str(args.folder)}))

"""MiniMind, old and new, against a second formula: one token at a time, in float64, without cache or batch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cutset.models.families import load_spec
from cutset.models.files.checkpoint import Checkpoint, check_tensors
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.numpy_ops import NumpyOps

OLD = {
    "model_type": "minimind",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "intermediate_size": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
NEW = {
    "model_type": "minimind",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 61,
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "max_position_embeddings": 4096,
    "num_experts": 4,
    "num_experts_per_tok": 1,
    "norm_topk_prob": True,
}
CASES: dict[str, dict[str, Any]] = {
    "old": OLD,
    "old-moe": {**OLD, "use_moe": True},
    "old-moe-top1": {**OLD, "use_moe": True, "num_experts_per_tok": 1, "n_shared_experts": 2},
    "old-yarn": {**OLD, "inference_rope_scaling": True},
    "new": NEW,
    "new-moe": {**NEW, "use_moe": True},
    "new-yarn": {**NEW, "inference_rope_scaling": True},
}


def norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    return x / math.sqrt(sum(v * v for v in x) / len(x) + eps) * gain


def turned(x: np.ndarray, position: int, config: dict[str, Any]) -> np.ndarray:
    """One head, turned; MiniMind's own description of YaRN: factor 16 over 2048 positions, from 32 turns to 1."""
    size = len(x)
    out = np.empty(size)
    for i in range(size // 2):
        frequency = config["rope_theta"] ** (-2 * i / size)
        if config.get("inference_rope_scaling"):
            low, high = (
                size * math.log(2048 / (turns * 2 * math.pi)) / (2 * math.log(config["rope_theta"]))
                for turns in (32, 1)
            )
            low, high = max(math.floor(low), 0), min(math.ceil(high), size // 2 - 1)
            ramp = min(max((i - low) / max(high - low, 0.001), 0), 1)
            frequency *= 1 - ramp + ramp / 16
        c, s = math.cos(position * frequency), math.sin(position * frequency)
        out[i] = x[i] * c - x[i + size // 2] * s
        out[i + size // 2] = x[i + size // 2] * c + x[i] * s
    return out


def mlp(x: np.ndarray, w: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    gate = w[f"{prefix}gate_proj.weight"] @ x
    return w[f"{prefix}down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (w[f"{prefix}up_proj.weight"] @ x))


def feed_forward(x: np.ndarray, w: dict[str, np.ndarray], prefix: str, config: dict[str, Any]) -> np.ndarray:
    if not config.get("use_moe"):
        return mlp(x, w, prefix)
    old = "n_routed_experts" in config
    logits = w[f"{prefix}gate.weight"] @ x
    scores = np.exp(logits) / np.exp(logits).sum()
    best = sorted(range(len(scores)), key=lambda e: -scores[e])[: config["num_experts_per_tok"]]
    total = sum(scores[e] for e in best) if len(best) > 1 or not old else 1.0
    out = sum(scores[e] / total * mlp(x, w, f"{prefix}experts.{e}.") for e in best)
    for shared in range(config.get("n_shared_experts", 0) if old else 0):
        out = out + mlp(x, w, f"{prefix}shared_experts.{shared}.")
    return out


def formula(ids: list[int], w: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, eps = config["hidden_size"] // heads, config.get("rms_norm_eps", 1e-6)
    config = {"rope_theta": 1e6, **config}
    states = [w["model.embed_tokens.weight"][i].copy() for i in ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        keys, values, next_states = [], [], []
        for position, x in enumerate(states):
            h = norm(x, w[f"{p}input_layernorm.weight"], eps)
            split = {part: (w[f"{p}self_attn.{part}_proj.weight"] @ h).reshape(-1, size) for part in "qkv"}
            for part in "qk":
                if f"{p}self_attn.{part}_norm.weight" in w:
                    gain = w[f"{p}self_attn.{part}_norm.weight"]
                    split[part] = np.array([norm(head, gain, eps) for head in split[part]])
                split[part] = np.array([turned(head, position, config) for head in split[part]])
            keys.append(split["k"])
            values.append(split["v"])
            mixed = []
            for head in range(heads):
                group = head // (heads // kv_heads)
                weights = np.exp([split["q"][head] @ k[group] / math.sqrt(size) for k in keys])
                mixed.append(sum(a * v[group] for a, v in zip(weights / weights.sum(), values, strict=True)))
            x = x + w[f"{p}self_attn.o_proj.weight"] @ np.concatenate(mixed)
            h = norm(x, w[f"{p}post_attention_layernorm.weight"], eps)
            next_states.append(x + feed_forward(h, w, f"{p}mlp.", config))
        states = next_states
    final = [norm(x, w["model.norm.weight"], eps) for x in states]
    return np.array([w["model.embed_tokens.weight"] @ x for x in final])


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_formula(case: str, tmp_path: Path) -> None:
    config = CASES[case]
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = load_spec(tmp_path)
    rng = np.random.default_rng(3)
    weights = {
        name: rng.uniform(0.5, 1.5, shape) if name.endswith("norm.weight") else rng.normal(0, 0.3, shape)
        for name, shape in spec.tensor_shapes().items()
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    save_file(weights, tmp_path / "model.safetensors")
    assert spec.tied
    assert spec.qk_norm == case.startswith("new")
    tensors = check_tensors(spec, Checkpoint(tmp_path))
    ops = NumpyOps()
    decoder = ReferenceDecoder(spec, tensors, ops, FloatLinears(spec, tensors, ops))
    ids = rng.integers(0, 61, size=(1, 11)).astype(np.int32)
    batch = Batch.whole(ids, 4)
    ours = decoder.forward(batch, decoder.new_cache(3, 4))
    theirs = formula(ids[0].tolist(), {k: v.astype(np.float64) for k, v in weights.items()}, config)
    assert np.abs(theirs).max() > 0.1
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)

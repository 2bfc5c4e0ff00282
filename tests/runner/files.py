"""Models for the stand-alone runner, and how it is called."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.compare.forward import run_forward
from cutset.errors import CutsetError
from cutset.models.families import spec_from_config
from cutset.models.families.rope import plain_rope
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.exchange import write_exchange
from cutset.models.files.source import ModelSource, specify
from cutset.models.files.writer import write_safetensors
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec, DynamicRope, LongRope
from models.test_native import DENSE, MIXTURE
from models.test_native import SPECS as NATIVE

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "build/runner/cutset-runner"
SANITIZED = ROOT / "build/runner-asan/cutset-runner"

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
QWEN3_MOE = {"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
OLD_MINIMIND = {"model_type": "minimind", "head_dim": None, "hidden_size": 48, "num_attention_heads": 6}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 3.0}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA3 = {"model_type": "gemma3_text", "sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 5}
LONGROPE = {"type": "longrope", "short_factor": [1.0 + i for i in range(4)], "long_factor": [2.0 + i for i in range(4)]}
GROWING = YARN | {"llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 4}
GRANITE4 = {
    "model_type": "granitemoehybrid",
    "num_local_experts": 0,
    "layer_types": ["attention"] * 3,
    "attention_multiplier": 0.3,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 5e5},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "mistral-no-window": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1e6},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3"},
    "qwen3-layer-types": {
        "model_type": "qwen3",
        "attention_bias": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen3-moe": QWEN3_MOE,
    "qwen3-moe-mixed": QWEN3_MOE | {"norm_topk_prob": True, "mlp_only_layers": [1], "decoder_sparse_step": 1},
    "qwen3-moe-step": {
        **QWEN3_MOE,
        "num_experts": None,
        "num_local_experts": 4,
        "decoder_sparse_step": 2,
        "attention_bias": True,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 5,
        "swiglu_limit": 1.2,
        "rope_scaling": YARN | {"truncate": False},
    },
    "gemma": {"model_type": "gemma"},
    "gemma2": {
        "model_type": "gemma2",
        "sliding_window": 7,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 5,
    },
    "gemma3-text": GEMMA3,
    "gemma3": {"model_type": "gemma3", "text_config": SIZES | GEMMA3 | {"rope_scaling": LINEAR}},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1]},
    "olmo2": {"model_type": "olmo2"},
    "olmo3": {"model_type": "olmo3", "sliding_window": 5, "layer_types": MIXED, "rope_scaling": YARN},
    "granite": {"model_type": "granite", "embedding_multiplier": 2, "logits_scaling": 3, "residual_multiplier": 0.7},
    "granite4": GRANITE4,
    "phi3": {"model_type": "phi3", "sliding_window": 7, "partial_rotary_factor": 0.5},
    "phi3-longrope": {"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 8},
    "ministral": {"model_type": "ministral", "sliding_window": 5, "layer_types": MIXED},
    "ministral3": {"model_type": "ministral3", "rope_parameters": GROWING},
    "mistral3": {
        "model_type": "mistral3",
        "text_config": SIZES | {"model_type": "ministral3", "rope_parameters": GROWING},
    },
    "glm": {"model_type": "glm"},
    "glm4": {"model_type": "glm4", "attention_bias": False},
    "minimind-old": OLD_MINIMIND,
    "minimind-old-moe": OLD_MINIMIND | {"use_moe": True, "n_routed_experts": 4, "n_shared_experts": 2},
    "minimind-old-moe-top1": OLD_MINIMIND | {"use_moe": True, "n_routed_experts": 4, "num_experts_per_tok": 1},
    "minimind-new": {"model_type": "minimind"},
    "minimind-new-moe": {"model_type": "minimind", "use_moe": True, "num_experts": 3, "num_experts_per_tok": 2},
    "minimind-default-width": OLD_MINIMIND | {"intermediate_size": None},
    "minimind-new-default-width": {"model_type": "minimind", "intermediate_size": None},
    "minimind-yarn": OLD_MINIMIND | {"inference_rope_scaling": True, "max_position_embeddings": 32768},
    "rope-linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 3}},
    "rope-dynamic": {
        "model_type": "llama",
        "max_position_embeddings": 24,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    },
    "rope-llama3": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 40,
        },
    },
    "rope-yarn": {"model_type": "llama", "rope_parameters": YARN | {"rope_theta": 1e4}},
    "rope-yarn-smooth": {
        "model_type": "llama",
        "rope_scaling": YARN | {"truncate": False, "mscale": 1.2, "mscale_all_dim": 0.7, "beta_fast": 16.0},
    },
    "rope-yarn-factor": {"model_type": "llama", "rope_scaling": YARN | {"factor": None, "attention_factor": 0.9}},
}


FAST, SLOW = plain_rope(100.0, 6), plain_rope(1e5, 6)
# Decoders of which no configuration is needed: every part of a specification.
SPECS: dict[str, DecoderSpec] = NATIVE | {
    "everything": replace(
        MIXTURE,
        head_dim=20,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        router_bias=True,
        expert_bias=True,
        qk_norm=True,
        whole_norms=True,
        output_norms=True,
        norm_offset=1.0,
        activation="clamped",
        activation_limit=1.1,
        activation_alpha=1.5,
        sinks=True,
        rope=replace(FAST, dynamic=DynamicRope(100.0, 2.0, 16), scale=1.1, reach=700),
        other_ropes=(replace(FAST, long=LongRope(SLOW.frequencies, 20)), replace(SLOW, scale=0.8)),
        rope_tables=(2, -1, 1),
        rope_interleaved=True,
        embedding_scale=2.5,
        attention_scale=0.3,
        residual_scale=0.7,
        logit_scale=1.3,
        query_growth=0.6,
        query_positions=3,
        attention_softcap=3.0,
        logit_softcap=2.0,
        windows=(5, 0, 9),
    ),
    "after": replace(
        DENSE,
        input_norms=False,
        output_norms=True,
        norm_offset=0.5,
        activation="gelu_tanh",
        rope=replace(DENSE.rope, long=LongRope(plain_rope(300.0, 8).frequencies, 3)),
        other_ropes=(replace(plain_rope(300.0, 8), dynamic=DynamicRope(300.0, 3.0, 3)),),
        rope_tables=(0, 1, 1),
        tied=True,
    ),
}


def drawn(config: dict[str, Any] | DecoderSpec) -> dict[str, Tensor]:
    """Random weights of a model; gains aren't ones and biases aren't zero."""
    rng, tensors = np.random.default_rng(5), {}
    spec = config if isinstance(config, DecoderSpec) else spec_from_config(config)
    for name, shape in spec.tensor_shapes().items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            values = 1 + values / 4
        elif len(shape) == 2 and "embed" not in name:
            values *= np.float32(1.5 * shape[1] ** -0.5)
        tensors[name] = Tensor(name, Path("(random)"), "F32", values.astype(np.float32))
    return tensors


def config_of(case: str) -> dict[str, Any]:
    return {name: value for name, value in (SIZES | CONFIGS[case]).items() if value is not None or "window" in name}


def inputs_of(tokens: int = 24, padded: bool = True, vocab: int = 61) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    ids = np.random.default_rng(6).integers(0, vocab, (3, tokens)).astype(np.int32)
    mask = np.ones(ids.shape, np.uint8)
    if padded:
        mask[0, :5] = mask[1, -7:] = 0
    return ids, mask


def write_directory(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: str = "F32") -> None:
    folder.mkdir(exist_ok=True)
    stored = {
        "F32": lambda x: x,
        "F16": lambda x: x.astype(np.float16),
        "BF16": lambda x: (x.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    layout = {name: (dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", layout, ((n, stored(t.raw)) for n, t in tensors.items()))
    (folder / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(CutsetError):  # of what can't be used, nobody writes one; an older one stays
        specify(folder)


def write_file(path: Path, config: dict[str, Any], inputs: Any = None) -> Path:
    write_exchange(path, config, drawn(config).__getitem__, inputs or inputs_of(), {})
    return path


def write_spec(path: Path, spec: DecoderSpec, inputs: Any = None, preview: int = 16) -> Path:
    """An exchange file of a decoder that no family has: its config says nothing."""
    write_exchange(path, {}, drawn(spec).__getitem__, inputs or inputs_of(), {}, spec=spec, preview=preview)
    return path


def call(*words: object, runner: Path = RUNNER, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [runner, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        env=os.environ | environment,
    )


def logits_of(model: Path, *words: object, **environment: str) -> NDArray[np.float32]:
    target = model.with_name("logits.npy")
    done = call(model, target, *words, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return np.load(target)


def reference(source: ModelSource, inputs: Any = None) -> NDArray[np.float32]:
    ops, (ids, mask) = NumpyOps(), inputs or source.inputs
    linears = FloatLinears(source.spec, source.tensors, ops)
    return run_forward(ReferenceDecoder(source.spec, source.tensors, ops, linears), (ids, mask.astype(bool))).logits


def assert_equal(ours: NDArray[Any], theirs: NDArray[Any], mask: NDArray[Any], tolerance: float = 1e-5) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    seen = mask.astype(bool)
    assert theirs[seen].std() > 0.1  # a loose tolerance must not hide a decoder that returns zeros
    assert np.linalg.norm(ours[seen] - theirs[seen]) <= tolerance * np.linalg.norm(theirs[seen])


def refused(model: Path, *words: object, runner: Path = RUNNER, **environment: str) -> str:
    """The one line of a refusal; nothing was written."""
    folder = model.parent / "out"
    folder.mkdir(exist_ok=True)
    done = call(model, folder / "x.npy", *words, runner=runner, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"cutset-runner: error: [^\n]+\n", done.stderr), done.stderr
    assert not list(folder.iterdir())
    return done.stderr


def encoded_ids(ids: NDArray[Any]) -> str:
    return base64.b64encode(ids.astype("<i4").tobytes()).decode()

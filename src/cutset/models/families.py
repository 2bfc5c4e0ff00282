"""Reads a `config.json` in Hugging Face layout into a DecoderSpec. A new family is one function in `FAMILIES`.

Where a file has both an old and a new key, or lacks one, what counts is what transformers 5.23 makes of it;
docs/models.md lists the pairs, `native/runner/families.cpp` reads the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cutset.errors import ArchitectureError, ModelError
from cutset.models.files.fields import Fields, read_json
from cutset.models.rope_config import check_rope, read_rope
from cutset.models.spec import DecoderSpec, MoESpec, RopeSpec

__all__ = ["FAMILIES", "load_spec", "read_json", "spec_from_config"]

MOST_MLPS = 1 << 18  # layers times experts
LAYER_TYPES = {"full_attention": False, "attention": False, "sliding_attention": True}  # whether it has a window
# Fields that say which weights or layers are meant, in ways that nothing here follows.
UNSUPPORTED = ("per_layer_config", "transformers_weights")


def load_spec(directory: Path) -> DecoderSpec:
    """The specification of the model in a directory, with the end tokens of its `generation_config.json` too.

    Raises ModelError where a file is missing or malformed, ArchitectureError for a network that isn't known.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory: give one with config.json and *.safetensors")
    spec = spec_from_config(read_json(directory / "config.json"), str(directory / "config.json"))
    path = directory / "generation_config.json"
    if not path.is_file():
        return spec
    named = Fields(read_json(path), str(path)).token_ids("eos_token_id", spec.vocab_size)
    if not named:
        return spec
    stated = () if spec.eos_assumed else spec.eos_token_ids
    return replace(spec, eos_token_ids=tuple(dict.fromkeys(stated + named)), eos_assumed=False)


def spec_from_config(config: dict[str, Any], source: str = "config.json") -> DecoderSpec:
    """The specification that a configuration describes; `source` names it in errors."""
    family = config.get("model_type")
    read = FAMILIES.get(family) if isinstance(family, str) else None
    if read is None:
        raise ArchitectureError(f"{source}: unknown model_type {family!r}; known are {', '.join(sorted(FAMILIES))}")
    fields = Fields(config, source)
    for name in UNSUPPORTED:
        if config.get(name):
            raise ArchitectureError(f"{source}: {name} is not supported")
    return read(fields)


def _windows(c: Fields, layers: int, window: int, first: int) -> tuple[int, ...]:
    """Windows by layer: `layer_types` where the file has it, else `window` from layer `first` on."""
    kinds = c.values.get("layer_types")
    if kinds is None:
        return tuple(window if i >= first else 0 for i in range(layers)) if window else ()
    known = isinstance(kinds, list) and all(isinstance(kind, str) and kind in LAYER_TYPES for kind in kinds)
    if not known or len(kinds) != layers:
        raise c.wrong("layer_types", f"a list of {layers} times full_attention or sliding_attention")
    sliding = [LAYER_TYPES[kind] for kind in kinds]
    if not any(sliding):
        return ()
    if c.values.get("use_sliding_window") is False:
        raise ArchitectureError(f"{c.source}: layer_types names sliding layers, but use_sliding_window is false")
    size = window or _window(c)
    if not size:
        raise ArchitectureError(f"{c.source}: layer_types names sliding layers, but sliding_window is null")
    return tuple(size if slides else 0 for slides in sliding)


def _window(c: Fields) -> int:
    """`sliding_window`: null is none; it is absent where a file keeps to the families' default."""
    return c.integer("sliding_window", 0 if c.names("sliding_window") else 4096)


def _end_tokens(c: Fields, vocab: int, assumed: int | None) -> dict[str, Any]:
    if c.names("eos_token_id") or assumed is None:
        return {"eos_token_ids": c.token_ids("eos_token_id", vocab)}
    return {"eos_token_ids": (assumed,) if assumed < vocab else (), "eos_assumed": True}


def _common(c: Fields, family: str, *, defaults: dict[str, Any], **more: Any) -> DecoderSpec:
    hidden, layers = c.integer("hidden_size"), c.integer("num_hidden_layers")
    heads = c.integer("num_attention_heads")
    kv_heads = c.integer(
        "num_key_value_heads", heads if c.names("num_key_value_heads") else defaults.get("kv_heads", heads)
    )
    vocab = c.integer("vocab_size")
    if heads % kv_heads:
        raise ArchitectureError(f"{c.source}: {heads} attention heads can't share {kv_heads} key-value heads evenly")
    head_dim = c.integer("head_dim", defaults.get("head_dim", hidden // heads))
    if not c.has("head_dim") and "head_dim" not in defaults and hidden % heads:
        raise ArchitectureError(f"{c.source}: hidden_size {hidden} doesn't divide into {heads} heads; give head_dim")
    if head_dim % 2:
        raise ArchitectureError(f"{c.source}: head_dim {head_dim} is odd: the rotary embedding needs pairs")
    activation = c.values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ArchitectureError(f"{c.source}: unknown hidden_act {activation!r}; known is silu")
    quantization = c.table("quantization_config")
    if quantization is not None and quantization.values.get("quant_method") != "cutset":
        raise ArchitectureError(
            f"{c.source}: a quantised checkpoint of another program; use the float one it came from"
        )
    positions = c.integer("max_position_embeddings", defaults["positions"])
    bos = c.token_ids("bos_token_id", vocab) if c.names("bos_token_id") or "bos" not in defaults else (defaults["bos"],)
    fields: dict[str, Any] = {
        "rope": read_rope(c, defaults.get("theta", 10000.0), positions),
        "tied": c.flag("tie_word_embeddings", defaults.get("tied", False)),
    }
    moe: MoESpec | None = more.get("moe")
    if moe is not None and layers * (moe.experts + moe.shared) > MOST_MLPS:
        raise ArchitectureError(f"{c.source}: {layers} layers of {moe.experts} experts are more than {MOST_MLPS} MLPs")
    fields |= more
    check_rope(fields["rope"], head_dim, c.source)
    return DecoderSpec(
        family=family,
        vocab_size=vocab,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=c.integer("intermediate_size", defaults.get("intermediate")),
        norm_eps=c.number("rms_norm_eps", defaults.get("eps", 1e-6)),
        max_positions=positions,
        bos_token_id=bos[0] if bos else None,
        **_end_tokens(c, vocab, defaults.get("eos")),
        **fields,
    )


def _llama(c: Fields) -> DecoderSpec:
    bias = c.flag("attention_bias")
    defaults = {"positions": 2048, "bos": 1, "eos": 2}
    return _common(c, "llama", defaults=defaults, qkv_bias=bias, o_bias=bias, mlp_bias=c.flag("mlp_bias"))


def _mistral(c: Fields) -> DecoderSpec:
    windows = _windows(c, c.integer("num_hidden_layers"), _window(c), 0)
    defaults = {"positions": 131072, "kv_heads": 8, "bos": 1, "eos": 2}
    return _common(c, "mistral", defaults=defaults, windows=windows)


def _qwen_windows(c: Fields) -> tuple[int, ...]:
    window = _window(c) if c.flag("use_sliding_window") else 0
    return _windows(c, c.integer("num_hidden_layers"), window, c.integer("max_window_layers", 28, least=0))


def _qwen2(c: Fields) -> DecoderSpec:
    defaults = {"positions": 32768, "kv_heads": _qwen_kv_heads(c)}
    return _common(c, "qwen2", defaults=defaults, qkv_bias=True, windows=_qwen_windows(c))


def _qwen_kv_heads(c: Fields) -> int:
    """What an absent num_key_value_heads means: 32, or all heads where those can't share 32, as in a file by hand."""
    heads = c.integer("num_attention_heads")
    return heads if heads % 32 else 32


def _qwen3(c: Fields) -> DecoderSpec:
    bias = c.flag("attention_bias")
    defaults = {"positions": 32768, "head_dim": 128, "kv_heads": _qwen_kv_heads(c)}
    return _common(c, "qwen3", defaults=defaults, qk_norm=True, qkv_bias=bias, o_bias=bias, windows=_qwen_windows(c))


def _qwen3_moe(c: Fields) -> DecoderSpec:
    layers, bias = c.integer("num_hidden_layers"), c.flag("attention_bias")
    step, dense = c.integer("decoder_sparse_step", 1), c.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise c.wrong("mlp_only_layers", "a list of layers")
    window = _window(c) if c.flag("use_sliding_window") else 0  # of all layers: the family has no layer_types
    experts = "num_local_experts" if c.has("num_local_experts") else "num_experts"
    return _common(
        c,
        "qwen3_moe",
        defaults={"positions": 32768, "kv_heads": 4},
        qk_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        windows=(window,) * layers if window else (),
        moe=_moe(c, experts, 128, 8, 768, normalise=False),
        sparse_layers=frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0),
    )


def _moe(c: Fields, experts: str, count: int, top_k: int, width: int, *, normalise: bool, shared: int = 0) -> MoESpec:
    found = c.integer(experts, count)
    picked = c.integer("num_experts_per_tok", top_k)
    if picked > found:
        raise ArchitectureError(f"{c.source}: num_experts_per_tok is {picked}, but there are {found} experts")
    return MoESpec(
        found,
        picked,
        c.integer("moe_intermediate_size", width),
        normalise=c.flag("norm_topk_prob", normalise),
        shared=shared,
        shared_intermediate=c.integer("intermediate_size", width) if shared else 0,
    )


def _minimind(c: Fields) -> DecoderSpec:
    """MiniMind: without Q/K norm and with shared experts until 2025, like Qwen3 since. The file doesn't say which;
    its fields do."""
    hidden, layers = c.integer("hidden_size"), c.integer("num_hidden_layers")
    old = c.has("n_routed_experts") or not (c.has("num_experts") or c.has("head_dim"))
    positions = c.integer("max_position_embeddings", 32768)
    rope = RopeSpec(c.number("rope_theta", 1e6))
    if c.flag("inference_rope_scaling") and positions > 2048:
        rope = RopeSpec(rope.theta, "yarn", 16.0, 2048, half_ramp=True)
    if old:
        width = 64 * math.ceil(int(hidden * 8 / 3) / 64)
    else:
        width = 64 * math.ceil(hidden * math.pi / 64)
    width = c.integer("intermediate_size", width)
    moe = None
    if c.flag("use_moe") and old:
        shared = c.integer("n_shared_experts", 1, least=0)
        if c.values.get("scoring_func", "softmax") != "softmax":
            raise c.wrong("scoring_func", "softmax")
        moe = _moe(c, "n_routed_experts", 4, 2, width, normalise=True, shared=shared)
        if moe.top_k == 1:  # the old gate leaves a single weight as it is
            moe = MoESpec(moe.experts, 1, moe.intermediate, False, moe.shared, moe.shared_intermediate)
    elif c.flag("use_moe"):
        moe = _moe(c, "num_experts", 4, 1, width, normalise=True)
    defaults = {
        "positions": positions,
        "kv_heads": 2 if old else 4,
        "theta": 1e6,
        "tied": True,
        "eps": 1e-5 if old else 1e-6,
        "bos": 1,
        "eos": 2,
        "intermediate": width,
    }
    return _common(
        c,
        "minimind",
        defaults=defaults,
        rope=rope,
        qk_norm=c.flag("qk_norm", not old),
        moe=moe,
        sparse_layers=frozenset(range(layers)) if moe else frozenset(),
    )


FAMILIES: dict[str, Callable[[Fields], DecoderSpec]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "minimind": _minimind,
}

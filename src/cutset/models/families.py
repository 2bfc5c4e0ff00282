"""Reads a `config.json` in Hugging Face layout into a DecoderSpec. A new family is one function in `FAMILIES`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cutset.errors import ArchitectureError, CheckpointError, ModelError
from cutset.models.rope import inverse_frequencies
from cutset.models.spec import DecoderSpec, MoESpec, RopeSpec

__all__ = ["FAMILIES", "load_spec", "read_json", "spec_from_config"]

MOST_JSON_BYTES = 64 << 20

# Sizes beyond these are no model but an attack or a slip; they are checked before anything is allocated.
MOST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "num_hidden_layers": 4096,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "intermediate_size": 1 << 22,
    "moe_intermediate_size": 1 << 22,
    "max_position_embeddings": 1 << 27,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "n_routed_experts": 4096,
    "n_shared_experts": 256,
}
MOST_MLPS = 1 << 18  # layers times experts
MOST_NUMBER = 1e30


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 64 MiB. Raises ModelError for anything else."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelError(f"{path} is larger than {MOST_JSON_BYTES >> 20} MiB: that is no configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def load_spec(directory: Path) -> DecoderSpec:
    """The specification of the model in a directory, end tokens of its `generation_config.json` included.

    Raises ModelError where a file is missing or malformed, ArchitectureError for a network that isn't known.
    """
    if not directory.is_dir():
        raise ModelError(f"{directory} is not a directory: give one with config.json and *.safetensors")
    config = read_json(directory / "config.json")
    generation = directory / "generation_config.json"
    if generation.is_file():
        eos = read_json(generation).get("eos_token_id")
        if eos is not None:
            config["eos_token_id"] = eos
    return spec_from_config(config, str(directory / "config.json"))


def spec_from_config(config: dict[str, Any], source: str = "config.json") -> DecoderSpec:
    """The specification that a configuration describes; `source` names it in errors."""
    family = config.get("model_type")
    read = FAMILIES.get(family) if isinstance(family, str) else None
    if read is None:
        raise ArchitectureError(f"{source}: unknown model_type {family!r}; known are {', '.join(sorted(FAMILIES))}")
    return read(Fields(config, source))


class Fields:
    """Typed access to the fields of a configuration; every error names the field and the file."""

    def __init__(self, values: dict[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def wrong(self, name: str, wanted: str) -> CheckpointError | ArchitectureError:
        return ArchitectureError(f"{self.source}: {name} must be {wanted}, not {self.values.get(name)!r}")

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise ArchitectureError(f"{self.source}: {name} is missing")
            return default
        most = MOST.get(name, 1 << 31)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"an integer from {least} to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise ArchitectureError(f"{self.source}: {name} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_NUMBER:
            raise self.wrong(name, f"a positive number of at most {MOST_NUMBER:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def table(self, name: str) -> Fields | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, f"{self.source}: {name}")


def _rope(c: Fields, theta: float, max_positions: int) -> RopeSpec:
    # transformers 5 writes rope_parameters; before that it was rope_theta beside rope_scaling.
    scaling = c.table("rope_parameters") or c.table("rope_scaling")
    theta = c.number("rope_theta", theta)
    if scaling is None:
        return RopeSpec(theta)
    theta = scaling.number("rope_theta", theta)
    kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
    if scaling.number("partial_rotary_factor", 1.0) != 1.0 or c.number("partial_rotary_factor", 1.0) != 1.0:
        raise ArchitectureError(f"{c.source}: a partial_rotary_factor other than 1 is not supported")
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, kind, scaling.number("factor"))
    if kind == "dynamic":
        return RopeSpec(theta, kind, scaling.number("factor"), original_positions=max_positions)
    original = scaling.integer("original_max_position_embeddings", max_positions)
    if kind == "llama3":
        low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
        if low >= high:
            raise ArchitectureError(f"{scaling.source}: low_freq_factor must be below high_freq_factor")
        return RopeSpec(theta, kind, scaling.number("factor"), original, low_freq_factor=low, high_freq_factor=high)
    if kind == "yarn":
        factor = scaling.number("factor", max_positions / original)
        return RopeSpec(
            theta,
            kind,
            factor,
            original,
            beta_fast=scaling.number("beta_fast", 32.0),
            beta_slow=scaling.number("beta_slow", 1.0),
            truncate=scaling.flag("truncate", True),
            attention_factor=_yarn_attention_factor(scaling, factor),
        )
    raise ArchitectureError(f"{c.source}: unknown rope scaling {kind!r}; known are linear, dynamic, llama3, yarn")


def _check_rope(c: Fields, fields: dict[str, Any], head_dim: int) -> None:
    """Refuses a rotary embedding whose numbers, each allowed, give frequencies that aren't finite."""
    rope: RopeSpec = fields["rope"]
    try:
        with np.errstate(all="ignore"):
            finite = all(
                np.isfinite(inverse_frequencies(rope, head_dim, known)).all()
                for known in (0, 2 * rope.original_positions)
            )
    except (ArithmeticError, ValueError):
        finite = False
    if not finite:
        raise ArchitectureError(f"{c.source}: its {rope.kind} rotary embedding gives frequencies that aren't finite")


def _yarn_attention_factor(scaling: Fields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    if scaling.values.get("mscale") and scaling.values.get("mscale_all_dim"):
        return mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    return mscale(1.0)


def _windows(c: Fields, layers: int, window: int, first: int) -> tuple[int, ...]:
    """Windows by layer: `layer_types` where the file has it, else `window` from layer `first` on."""
    kinds = c.values.get("layer_types")
    if kinds is None:
        return tuple(window if i >= first else 0 for i in range(layers)) if window else ()
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise c.wrong("layer_types", f"a list of {layers} times {' or '.join(known)}")
    if "sliding_attention" not in kinds:
        return ()
    size = c.integer("sliding_window")
    return tuple(size if kind == "sliding_attention" else 0 for kind in kinds)


def _token_ids(c: Fields, name: str, vocab: int, default: int | None) -> tuple[int, ...]:
    value = c.values.get(name, default)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise c.wrong(name, "a token id or a list of them")
    return tuple(i for i in ids if 0 <= i < vocab)  # some files name -1 or a token of a larger vocabulary


def _common(c: Fields, family: str, *, defaults: dict[str, Any], **more: Any) -> DecoderSpec:
    hidden, layers = c.integer("hidden_size"), c.integer("num_hidden_layers")
    heads = c.integer("num_attention_heads")
    kv_heads = c.integer("num_key_value_heads", defaults.get("kv_heads", heads))
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
    bos = _token_ids(c, "bos_token_id", vocab, defaults.get("bos"))
    fields: dict[str, Any] = {
        "rope": _rope(c, defaults.get("theta", 10000.0), positions),
        "tied": c.flag("tie_word_embeddings", defaults.get("tied", False)),
    }
    moe: MoESpec | None = more.get("moe")
    if moe is not None and layers * (moe.experts + moe.shared) > MOST_MLPS:
        raise ArchitectureError(f"{c.source}: {layers} layers of {moe.experts} experts are more than {MOST_MLPS} MLPs")
    _check_rope(c, fields | more, head_dim)
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
        eos_token_ids=_token_ids(c, "eos_token_id", vocab, defaults.get("eos")),
        **(fields | more),
    )


def _llama(c: Fields) -> DecoderSpec:
    bias = c.flag("attention_bias")
    defaults = {"positions": 2048, "bos": 1, "eos": 2}
    return _common(c, "llama", defaults=defaults, qkv_bias=bias, o_bias=bias, mlp_bias=c.flag("mlp_bias"))


def _mistral(c: Fields) -> DecoderSpec:
    # The window is absent in the file only if the file is older than the field, and then it was 4096.
    window = c.integer("sliding_window") if c.has("sliding_window") else 0 if "sliding_window" in c.values else 4096
    windows = _windows(c, c.integer("num_hidden_layers"), window, 0)
    defaults = {"positions": 131072, "kv_heads": 8, "bos": 1, "eos": 2}
    return _common(c, "mistral", defaults=defaults, windows=windows)


def _qwen_windows(c: Fields) -> tuple[int, ...]:
    window = c.integer("sliding_window", 4096) if c.flag("use_sliding_window") else 0
    return _windows(c, c.integer("num_hidden_layers"), window, c.integer("max_window_layers", 28, least=0))


def _qwen2(c: Fields) -> DecoderSpec:
    return _common(c, "qwen2", defaults={"positions": 32768}, qkv_bias=True, windows=_qwen_windows(c))


def _qwen3(c: Fields) -> DecoderSpec:
    bias = c.flag("attention_bias")
    defaults = {"positions": 32768, "head_dim": 128}
    return _common(c, "qwen3", defaults=defaults, qk_norm=True, qkv_bias=bias, o_bias=bias, windows=_qwen_windows(c))


def _qwen3_moe(c: Fields) -> DecoderSpec:
    layers, bias = c.integer("num_hidden_layers"), c.flag("attention_bias")
    step, dense = c.integer("decoder_sparse_step", 1), c.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise c.wrong("mlp_only_layers", "a list of layers")
    window = c.integer("sliding_window", 4096) if c.flag("use_sliding_window") else 0
    return _common(
        c,
        "qwen3_moe",
        defaults={"positions": 32768, "kv_heads": 4},
        qk_norm=True,
        qkv_bias=bias,
        o_bias=bias,
        windows=_windows(c, layers, window, 0),
        moe=_moe(c, "num_experts" if c.has("num_experts") else "num_local_experts", 128, 8, 768, normalise=False),
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

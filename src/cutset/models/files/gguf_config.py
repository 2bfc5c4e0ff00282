"""What a GGUF file's metadata says of its network, as the config.json that the family's reader takes.

The keys are those of llama.cpp's converter; what it leaves out, because llama.cpp knows it by the architecture, is said
here. Beside each architecture stands how its tensors differ from those of the checkpoint they came from.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ArchitectureError
from cutset.models.files.fields import MOST, Fields
from cutset.models.files.gguf import GGUFFile, Strings, TensorInfo
from cutset.models.files.gguf_blocks import cut

__all__ = ["ARCHITECTURES", "Architecture", "Metadata", "config_of", "floats"]

Config = dict[str, Any]
ROPE_FREQUENCIES = "rope_freqs.weight"
ROPE_FACTORS = ("rope_factors_short.weight", "rope_factors_long.weight")
# Tokens that end a turn where the file names none: by their text, if they are no text of users.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|return|>")
CONTROL = 3


class Metadata:
    """Typed access to a file's keys; `own` ones have the architecture's name before them."""

    def __init__(self, file: GGUFFile, tensors: Mapping[str, TensorInfo]) -> None:
        """`tensors` are those of all parts of a file that is split."""
        self.file, self.tensors = file, tensors
        self.fields = Fields(file.metadata, str(file.path))
        self.architecture = self.text("general.architecture")

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Raises ArchitectureError, as the others do."""
        value = self.fields.value(key, default)
        if not isinstance(value, str):
            raise ArchitectureError(f"{self.fields.source}: {key} is missing or no text")
        return value

    def name(self, key: str) -> str:
        """An own key's whole name."""
        return f"{self.architecture}.{key}"

    def has(self, key: str) -> bool:
        """Whether an own key is there."""
        return self.fields.has(self.name(key))

    def integer(self, key: str, default: int | None = None, least: int = 0) -> int:
        """An own whole number; one for each layer counts where all are equal."""
        value = self.fields.value(self.name(key))
        if isinstance(value, np.ndarray):
            if not len(value) or not (value == value[0]).all():
                raise ArchitectureError(
                    f"{self.fields.source}: {self.name(key)} differs by layer, which isn't supported"
                )
            return Fields({self.name(key): value[0].item()}, self.fields.source).integer(self.name(key), least=least)
        return self.fields.integer(self.name(key), default, least)

    def numbers(self, key: str, count: int) -> list[int]:
        """An own list of so many whole numbers; [] where it isn't there."""
        value = self.fields.value(self.name(key))
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iub":
            return []
        if len(value) != count:
            raise ArchitectureError(f"{self.fields.source}: {self.name(key)} has {len(value):,} values, not {count:,}")
        return [int(one) for one in value]

    def number(self, key: str, default: float = 0.0) -> float:
        """An own number; 0 is as good as absent."""
        if self.fields.value(self.name(key)) == 0:
            return default
        return self.fields.number(self.name(key), default)

    def flag(self, key: str, default: bool) -> bool:
        """An own truth value."""
        return self.fields.flag(self.name(key), default)


class Architecture(NamedTuple):
    """A network as llama.cpp knows it: the family that runs it, and what its files do to checkpoints."""

    model_type: str
    more: Callable[[Metadata, Config], Config] = lambda metadata, config: {}  # fields that all don't have
    paired: bool = False  # the rows of q and k that rotate together lie side by side
    shifted: bool = False  # gains of norms have 1 added
    names: Mapping[str, tuple[str, ...]] = {}  # of tensors by role, where they aren't the usual ones


def config_of(metadata: Metadata) -> tuple[Architecture, Config]:
    """The configuration of a file, and what it does to tensors. Raises ArchitectureError."""
    source, name = metadata.fields.source, metadata.architecture
    if name not in ARCHITECTURES:
        nearest = difflib.get_close_matches(name[:80], ARCHITECTURES, 3, 0) or list(ARCHITECTURES)[:3]
        raise ArchitectureError(
            f"{source}: unknown architecture {name!r:.60}; the nearest known are {', '.join(nearest)} "
            f"(of {len(ARCHITECTURES)}, which docs/models.md lists)"
        )
    architecture = ARCHITECTURES[name]
    config = _common(metadata)
    config |= architecture.more(metadata, config)
    return architecture, {"model_type": architecture.model_type} | config


def _common(m: Metadata) -> Config:
    embedding = m.tensors.get("token_embd.weight")
    if embedding is None:
        raise ArchitectureError(f"{m.fields.source}: the tensor token_embd.weight is missing")
    layers, heads = m.integer("block_count", least=1), m.integer("attention.head_count", least=1)
    if layers > MOST["num_hidden_layers"]:
        raise ArchitectureError(
            f"{m.fields.source}: {m.name('block_count')} is {layers:,}; at most {MOST['num_hidden_layers']:,} are read"
        )
    hidden = m.integer("embedding_length", least=1)
    head_dim = m.integer("attention.key_length", hidden // heads, least=1)
    if m.integer("attention.value_length", head_dim) != head_dim:
        raise ArchitectureError(f"{m.fields.source}: heads of values have another size than those of keys")
    if m.integer("nextn_predict_layers", 0):
        raise ArchitectureError(f"{m.fields.source}: layers that predict further tokens are not supported")
    eps = m.number("attention.layer_norm_rms_epsilon")
    if not eps:
        raise ArchitectureError(f"{m.fields.source}: {m.name('attention.layer_norm_rms_epsilon')} is missing")
    config: Config = {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "rms_norm_eps": eps,
        "max_position_embeddings": m.integer("context_length", least=1),
        "tie_word_embeddings": "output.weight" not in m.tensors,
        **_tokens(m, embedding.shape[0]),
    }
    if m.architecture != "lfm2":  # which has one for each layer
        config["num_key_value_heads"] = m.integer("attention.head_count_kv", heads, least=1)
    if m.has("feed_forward_length"):
        config["intermediate_size"] = m.integer("feed_forward_length")
    rotated = m.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim
    config["rope_theta"] = m.number("rope.freq_base", 10000.0)
    scaling = _scaling(m, config)
    return config | ({"rope_scaling": scaling} if scaling else {})


def _tokens(m: Metadata, vocab: int) -> Config:
    """The tokens that begin and end a text: ends of turns too."""
    named = {name: m.fields.value(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom")}
    ids = {name: number for name, number in named.items() if type(number) is int and 0 <= number < vocab}
    ends = [ids[name] for name in ("eos", "eot", "eom") if name in ids]  # one beyond the vocabulary is none
    tokens, kinds = m.fields.value("tokenizer.ggml.tokens"), m.fields.value("tokenizer.ggml.token_type")
    if "eot" not in ids and isinstance(tokens, Strings) and isinstance(kinds, np.ndarray) and len(kinds) == len(tokens):
        wanted = {text.encode() for text in TURN_ENDS}
        ends += [number for number, token in enumerate(tokens) if token in wanted and kinds[number] == CONTROL]
    config: Config = {"eos_token_id": list(dict.fromkeys(ends))} if ends else {}
    return config | ({"bos_token_id": ids["bos"]} if "bos" in ids else {})


def _scaling(m: Metadata, config: Config) -> Config:
    """How the rotary embedding is stretched; {} where it isn't."""
    kind = m.text(m.name("rope.scaling.type"), "")
    factor = m.number("rope.scaling.factor") or m.number("rope.scale_linear")
    if not kind:
        kind = "linear" if factor not in (0.0, 1.0) else "none"
    trained = m.integer("rope.scaling.original_context_length", 0)
    if all(name in m.tensors for name in ROPE_FACTORS):
        short, long = (_factors(m, name).tolist() for name in ROPE_FACTORS)
        if trained:
            config["original_max_position_embeddings"] = trained
        return {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    if ROPE_FREQUENCIES in m.tensors:
        return _stretched_pairs(_factors(m, ROPE_FREQUENCIES), config)
    if kind in ("none", "longrope"):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor} if factor not in (0.0, 1.0) else {}
    if kind != "yarn":
        raise ArchitectureError(
            f"{m.fields.source}: unknown rope scaling {kind!r:.60}; known are linear, yarn, longrope"
        )
    turns = {name: m.number(f"rope.scaling.yarn_{name}") for name in ("beta_fast", "beta_slow")}
    scaling = {"rope_type": "yarn", "factor": factor or 1.0} | {name: value for name, value in turns.items() if value}
    return scaling | ({"original_max_position_embeddings": trained} if trained else {})


def _factors(m: Metadata, name: str) -> NDArray[np.float32]:
    """A tensor of one number for each pair of a head."""
    info = m.tensors[name]
    if math.prod(info.shape) > MOST["head_dim"]:
        raise ArchitectureError(f"{m.fields.source}: {name} has the shape {info.shape}; a number a pair is read")
    return floats(info).reshape(-1)


def _stretched_pairs(factors: NDArray[np.float32], config: Config) -> Config:
    """What one factor for each pair means: Llama 3's formula where it is that, else the factors themselves."""
    if (factors == 1).all():
        return {}
    head_dim = round(config["head_dim"] * config.get("partial_rotary_factor", 1.0))
    waves = 2 * math.pi * np.power(config["rope_theta"], np.arange(0, head_dim, 2) / max(head_dim, 1))
    factor, slow, fast = float(factors.max()), 1.0, 4.0
    for original in (1 << power for power in range(10, 18)):
        if len(waves) != len(factors):
            break
        smooth = (original / waves - slow) / (fast - slow)
        with np.errstate(all="ignore"):
            between = 1 / ((1 - smooth) / factor + smooth)
        expected = np.where(waves < original / fast, 1.0, np.where(waves > original / slow, factor, between))
        if np.allclose(expected, factors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": slow,
                "high_freq_factor": fast,
                "original_max_position_embeddings": original,
            }
    listed = factors.tolist()
    return {"rope_type": "longrope", "short_factor": listed, "long_factor": listed, "attention_factor": 1.0}


def floats(info: TensorInfo) -> NDArray[np.float32]:
    """A tensor's values in float32, in its shape."""
    if not info.kind.dtype:
        return cut(info.kind, info.data).float32().reshape(info.shape)
    if info.kind.dtype == "BF16":
        values: NDArray[np.float32] = (info.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = info.data.view(np.float16 if info.kind.dtype == "F16" else np.float32).astype(np.float32)
    return values.reshape(info.shape)


def _biases(m: Metadata) -> Config:
    """Which biases there are, as the fields of families that may have them."""
    return {"attention_bias": "blk.0.attn_q.bias" in m.tensors, "mlp_bias": "blk.0.ffn_up.bias" in m.tensors}


def _attention_bias(m: Metadata) -> Config:
    return {"attention_bias": any(f"blk.0.attn_{part}.bias" in m.tensors for part in ("q", "qkv"))}


def _llama(m: Metadata, config: Config) -> Config:
    if m.integer("expert_count", 0):
        raise ArchitectureError(f"{m.fields.source}: a llama with experts (Mixtral), which is not supported")
    return _biases(m)


def _qwen3(m: Metadata, config: Config) -> Config:
    return _attention_bias(m)


def _qwen3moe(m: Metadata, config: Config) -> Config:
    return _attention_bias(m) | _expert_counts(m) | {"norm_topk_prob": True}  # as llama.cpp does, whatever a file says


def _expert_counts(m: Metadata) -> Config:
    return {
        "num_experts": m.integer("expert_count", least=1),
        "num_experts_per_tok": m.integer("expert_used_count", least=1),
        "moe_intermediate_size": m.integer("expert_feed_forward_length", least=1),
    }


def _gemma2(m: Metadata, config: Config) -> Config:
    return {
        **_query_scale(m, config, 46),
        "attn_logit_softcapping": m.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": m.number("final_logit_softcapping", 30.0),
        "sliding_window": m.integer("attention.sliding_window", 4096) or None,
    }


def _query_scale(m: Metadata, config: Config, layers_of_27b: int) -> Config:
    """Files don't say what queries are scaled by: by the size of a head, but for the models of 27 G parameters."""
    size = config["hidden_size"] // config["num_attention_heads"]
    return {"query_pre_attn_scalar": size if config["num_hidden_layers"] == layers_of_27b else config["head_dim"]}


def _gemma3(m: Metadata, config: Config) -> Config:
    window, layers = m.integer("attention.sliding_window", 0), config["num_hidden_layers"]
    found = {
        **_query_scale(m, config, 62),
        "rope_theta": m.number("rope.freq_base", 1e6),
        "rope_local_base_freq": m.number("rope.freq_base_swa", 1e4),
        "final_logit_softcapping": m.number("final_logit_softcapping") or None,
        "sliding_window": window or None,
    }
    if not window:
        return found | {"layer_types": ["full_attention"] * layers}
    return found | {"layer_types": _slides(m, layers, 6)}


def _slides(m: Metadata, layers: int, period: int) -> list[str]:
    """The kinds of layers: as the file lists them, or all but every so-manieth slide."""
    period_alone = isinstance(m.fields.value(m.name("attention.sliding_window_pattern")), int)
    listed = [] if period_alone else m.numbers("attention.sliding_window_pattern", layers)
    if not listed:
        period = m.integer("attention.sliding_window_pattern", period, least=1)
        listed = [(layer + 1) % period for layer in range(layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in listed]


def _phi3(m: Metadata, config: Config) -> Config:
    return {"sliding_window": m.integer("attention.sliding_window", 0) or None}


def _smollm3(m: Metadata, config: Config) -> Config:
    return _biases(m) | {"no_rope_layer_interval": 4}


def _granite(m: Metadata, config: Config) -> Config:
    if m.integer("expert_count", 0):
        raise ArchitectureError(f"{m.fields.source}: a granite with experts, which is not supported")
    size = config["hidden_size"] // config["num_attention_heads"]
    found = _biases(m)
    if not m.flag("rope.scaling.finetuned", True):  # Granite 4, which may rotate nothing
        found = {
            "model_type": "granitemoehybrid",
            "attention_bias": found["attention_bias"],
            "num_local_experts": 0,
            "shared_intermediate_size": config.pop("intermediate_size", None),
            "layer_types": ["attention"] * config["num_hidden_layers"],
            "position_embedding_type": "nope",
        }
    return found | {
        "embedding_multiplier": m.number("embedding_scale", 1.0),
        "attention_multiplier": m.number("attention.scale", size**-0.5),
        "residual_multiplier": m.number("residual_scale", 1.0),
        "logits_scaling": m.number("logit_scale", 1.0),
    }


def _olmo2(m: Metadata, config: Config) -> Config:
    """OLMo 3 goes by the name of OLMo 2, with windows."""
    window = m.integer("attention.sliding_window", 0)
    if not window:
        return _attention_bias(m)
    theta = config.pop("rope_theta")
    full = {"rope_type": "default"} | config.pop("rope_scaling", {}) | {"rope_theta": theta}
    return _attention_bias(m) | {
        "model_type": "olmo3",
        "sliding_window": window,
        "layer_types": _slides(m, config["num_hidden_layers"], 4),
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        },
    }


def _glm4(m: Metadata, config: Config) -> Config:
    if any(m.numbers("rope.dimension_sections", 4)):
        raise ArchitectureError(f"{m.fields.source}: a rotary embedding for pictures, which is not supported")
    return _attention_bias(m) | {"partial_rotary_factor": config.get("partial_rotary_factor", 1.0)}


def _mistral3(m: Metadata, config: Config) -> Config:
    """Ministral 3, or Mistral Small 3, which has neither YaRN nor growing queries."""
    growth = m.number("attention.temperature_scale")
    if not growth:
        return {"model_type": "mistral", "sliding_window": None}
    multiplier = m.number("rope.scaling.yarn_log_multiplier", 1.0)
    table = config.pop("rope_scaling", {}) | {
        "rope_theta": config.pop("rope_theta"),
        "mscale": 1.0,
        "mscale_all_dim": multiplier,
        "llama_4_scaling_beta": growth,
    }
    return {"rope_parameters": {"rope_type": "default"} | table}


def _gpt_oss(m: Metadata, config: Config) -> Config:
    counts = _expert_counts(m)
    config.pop("intermediate_size", None)
    scaling = config.get("rope_scaling")
    if scaling:
        config["rope_scaling"] = scaling | {"truncate": False}  # a property of the network, which no key says
    return _attention_bias(m) | {
        "num_local_experts": counts["num_experts"],
        "num_experts_per_tok": counts["num_experts_per_tok"],
        "intermediate_size": counts["moe_intermediate_size"],
        "sliding_window": m.integer("attention.sliding_window", 128),
    }


def _lfm2(m: Metadata, config: Config) -> Config:
    layers = config["num_hidden_layers"]
    heads = m.numbers("attention.head_count_kv", layers) or [m.integer("attention.head_count_kv", least=1)] * layers
    return {
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "norm_eps": config.pop("rms_norm_eps"),
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": m.integer("shortconv.l_cache", least=1),
        "conv_bias": any(name.endswith("shortconv.in_proj.bias") for name in m.tensors),
    }


LFM2_NAMES = {"final_norm": ("token_embd_norm.weight",)}
GPT_OSS_NAMES = {"mlp_norm": ("blk.{layer}.post_attention_norm.weight",)}

ARCHITECTURES = {
    "llama": Architecture("llama", _llama, paired=True),
    "mistral3": Architecture("ministral3", _mistral3, paired=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", _qwen3),
    "qwen3moe": Architecture("qwen3_moe", _qwen3moe),
    "gemma": Architecture("gemma", shifted=True),
    "gemma2": Architecture("gemma2", _gemma2, shifted=True),
    "gemma3": Architecture("gemma3_text", _gemma3, shifted=True),
    "phi3": Architecture("phi3", _phi3),
    "smollm3": Architecture("smollm3", _smollm3, paired=True),
    "granite": Architecture("granite", _granite, paired=True),
    "olmo2": Architecture("olmo2", _olmo2),
    "glm4": Architecture("glm4", _glm4),
    "chatglm": Architecture("glm", _glm4),
    "gpt-oss": Architecture("gpt_oss", _gpt_oss, names=GPT_OSS_NAMES),
    "lfm2": Architecture("lfm2", _lfm2, names=LFM2_NAMES),
}

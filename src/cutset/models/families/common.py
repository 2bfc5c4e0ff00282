"""What the families share: the keys that most configurations have, and those that change no answer.

Where a file has both an old and a new key, or lacks one, what counts is what transformers 5.23 makes of it;
docs/models.md lists the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cutset.errors import ArchitectureError
from cutset.models.families.rope import ROPE_KEYS, USUAL, RopeRules, read_rope
from cutset.models.files.fields import Fields
from cutset.models.files.quantization import METHODS
from cutset.models.spec import MOST_MLPS, Activation, DecoderSpec, MoESpec, RopeSpec

__all__ = [
    "QUANTIZATIONS",
    "Defaults",
    "Family",
    "check_keys",
    "check_quantization",
    "keys",
    "patterned_windows",
    "read_checked",
    "read_decoder",
    "read_experts",
    "read_head_dim",
    "read_sliding",
    "read_window",
    "read_windows",
]

QUANTIZATIONS = ("cutset", *METHODS)  # of which the weights are read
LAYER_TYPES = {"full_attention": False, "attention": False, "sliding_attention": True}  # whether it has a window
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",  # the same formula, written by others
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "relu": "relu",
    "relu2": "relu2",
}


def keys(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# What `read_decoder` reads, and the registry.
READ = frozenset(ROPE_KEYS) | keys(
    """
    model_type architectures vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    intermediate_size rms_norm_eps hidden_act max_position_embeddings tie_word_embeddings bos_token_id eos_token_id
    quantization_config
    """
)
# What says where a file came from, how a model was trained, or what a program reports; sampling parameters, of which
# those in generation_config.json count.
HARMLESS = keys(
    """
    _name_or_path _commit_hash _attn_implementation _attn_implementation_internal _attn_implementation_autoset
    attn_implementation experts_implementation _experts_implementation auto_map transformers_version dtype torch_dtype
    tokenizer_class is_llama_config unsloth_version unsloth_fixed max_sequence_length model_max_length
    pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id prefix
    id2label label2id problem_type num_labels finetuning_task task_specific_params
    initializer_range attention_dropout hidden_dropout dropout resid_pdrop embd_pdrop attn_pdrop gradient_checkpointing
    use_cache cache_implementation return_dict output_attentions output_hidden_states output_scores
    return_dict_in_generate keys_to_ignore_at_inference chunk_size_feed_forward pretraining_tp base_model_tp_plan
    base_model_pp_plan base_model_ep_plan torchscript use_bfloat16 tf_legacy_loss is_decoder flash_attn
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """
)
# What would change an answer and isn't done: the values with which it changes nothing, besides null.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False,),
    "per_layer_config": ({}, [], "", False),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
    "transformers_weights": ("", {}, []),
    "use_sliding_window": (False,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of decoders: how its config.json is read, and what becomes of each key in it.

    A key is read, changes no answer, or is refused; `read` may look at no other than those that are declared.
    """

    model_type: str
    architectures: tuple[str, ...]  # names of its causal language models
    read: Callable[[Fields], DecoderSpec]
    reads: frozenset[str] = frozenset()  # keys, besides those that `read_decoder` reads
    harmless: frozenset[str] = frozenset()  # keys, besides those that are so everywhere
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # keys that are harmless with these values

    @property
    def all_reads(self) -> frozenset[str]:
        """Every key that may be looked at."""
        return READ | self.reads


def check_keys(family: Family, c: Fields) -> None:
    """Raises ArchitectureError for a key that may change the answer and isn't read."""
    known = family.all_reads | family.harmless | HARMLESS
    for name, value in c.values.items():
        if value is None or name in known or value in (*NEUTRAL.get(name, ()), *family.neutral.get(name, ())):
            continue
        raise ArchitectureError(
            f"{c.source}: {name[:60]} is not supported for {family.model_type}; remove it if it changes no answer"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a family takes an absent key for."""

    positions: int
    vocab: int | None = None  # None: it must be there
    heads: int | None = None  # None: it must be there
    kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden / heads
    intermediate: int | None = None  # None: it must be there
    theta: float = 10000.0
    rope: RopeRules = USUAL
    eps: float = 1e-6
    tied: bool = False
    bos: int | None = None
    eos: int | None = None
    activation: Activation = "silu"
    activation_key: str = "hidden_act"
    quantizations: tuple[str, ...] = QUANTIZATIONS  # methods of which it reads the weights


def read_decoder(c: Fields, family: str, defaults: Defaults, **parts: Any) -> DecoderSpec:
    """The specification that the common keys describe; `parts` are fields that the family has read itself.

    Raises ArchitectureError for what is missing, out of range, or asks for a network that isn't known.
    """
    hidden, layers = c.integer("hidden_size"), c.integer("num_hidden_layers")
    vocab = c.integer("vocab_size", defaults.vocab)
    heads, kv_heads, head_dim = _heads(c, hidden, defaults)
    check_quantization(c, defaults.quantizations)
    moe: MoESpec | None = parts.get("moe")
    if moe is not None and layers * (moe.experts + moe.shared) > MOST_MLPS:
        raise ArchitectureError(f"{c.source}: {layers} layers of {moe.experts} experts are more than {MOST_MLPS} MLPs")
    positions = c.integer("max_position_embeddings", defaults.positions)
    rope: RopeSpec = parts.get("rope") or read_rope(c, defaults.theta, head_dim, positions, defaults.rope)
    bos = c.token_ids("bos_token_id", vocab)
    if not c.names("bos_token_id") and defaults.bos is not None and defaults.bos < vocab:
        bos = (defaults.bos,)
    values: dict[str, Any] = {
        "rope": rope,
        "tied": c.flag("tie_word_embeddings", defaults.tied),
        "intermediate": c.integer("intermediate_size", defaults.intermediate),
        "norm_eps": c.number("rms_norm_eps", defaults.eps),
        "activation": read_activation(c, defaults),
        "bos_token_id": bos[0] if bos else None,
        **_end_tokens(c, vocab, defaults.eos),
        **parts,
    }
    if not any(values.get("windows", ())):
        values["windows"] = ()
    return DecoderSpec(
        family=family,
        vocab_size=vocab,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=positions,
        **values,
    )


def check_quantization(c: Fields, known: tuple[str, ...] = QUANTIZATIONS) -> None:
    """Raises ArchitectureError for a quantisation by a method that isn't known."""
    quantization = c.table("quantization_config")
    method = None if quantization is None else quantization.value("quant_method")
    if quantization is not None and method not in known:
        raise ArchitectureError(
            f"{c.source}: a quantised checkpoint of another program, by the method {str(method)!r:.60}, of which "
            f"nothing is known (known are {', '.join(sorted(known))}); use the float one it came from"
        )


def read_activation(c: Fields, defaults: Defaults) -> Activation:
    """The function of an MLP's gate."""
    name = c.value(defaults.activation_key)
    if name is None:
        return defaults.activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ArchitectureError(f"{c.source}: unknown {defaults.activation_key} {name!r:.60}; known are {known}")
    return ACTIVATIONS[name]


def read_head_dim(c: Fields, defaults: Defaults) -> int:
    """The size of a head, for a family that needs it before `read_decoder`, which checks it."""
    return _heads(c, c.integer("hidden_size"), defaults)[2]


def _heads(c: Fields, hidden: int, defaults: Defaults) -> tuple[int, int, int]:
    """Heads, key-value heads and the size of one."""
    heads = c.integer("num_attention_heads", defaults.heads)
    absent = heads if c.names("num_key_value_heads") or defaults.kv_heads is None else defaults.kv_heads
    kv_heads = c.integer("num_key_value_heads", absent)
    if heads % kv_heads:
        raise ArchitectureError(f"{c.source}: {heads} attention heads can't share {kv_heads} key-value heads evenly")
    head_dim = c.integer("head_dim", defaults.head_dim or hidden // heads)
    if not c.has("head_dim") and defaults.head_dim is None and hidden % heads:
        raise ArchitectureError(f"{c.source}: hidden_size {hidden} doesn't divide into {heads} heads; give head_dim")
    if head_dim % 2:
        raise ArchitectureError(f"{c.source}: head_dim {head_dim} is odd: the rotary embedding needs pairs")
    return heads, kv_heads, head_dim


def _end_tokens(c: Fields, vocab: int, assumed: int | None) -> dict[str, Any]:
    if c.names("eos_token_id") or assumed is None:
        return {"eos_token_ids": c.token_ids("eos_token_id", vocab)}
    return {"eos_token_ids": (assumed,) if assumed < vocab else (), "eos_assumed": True}


def read_window(c: Fields) -> int:
    """`sliding_window` in tokens: null is none, 0; it is absent where a file keeps to the families' default."""
    return c.integer("sliding_window", 0 if c.names("sliding_window") else 4096)


def read_windows(c: Fields, window: int, first: int) -> tuple[int, ...]:
    """Windows by layer: `layer_types` where the file has it, else `window` from layer `first` on."""
    sliding = read_sliding(c, lambda i: i >= first and window > 0)
    if not c.has("layer_types") or not any(sliding):
        return tuple(window if slides else 0 for slides in sliding)
    if c.value("use_sliding_window") is False:
        raise ArchitectureError(f"{c.source}: layer_types names sliding layers, but use_sliding_window is false")
    size = window or read_window(c)
    if not size:
        raise ArchitectureError(f"{c.source}: layer_types names sliding layers, but sliding_window is null")
    return tuple(size if slides else 0 for slides in sliding)


def read_sliding(c: Fields, absent: Callable[[int], bool]) -> tuple[bool, ...]:
    """Whether each layer slides: by `layer_types` where the file has it, else by `absent`, which is told its number."""
    layers, kinds = c.integer("num_hidden_layers"), c.value("layer_types")
    if kinds is None:
        return tuple(absent(i) for i in range(layers))
    known = isinstance(kinds, list) and all(isinstance(kind, str) and kind in LAYER_TYPES for kind in kinds)
    if not known or len(kinds) != layers:
        raise c.wrong("layer_types", f"a list of {layers} times full_attention or sliding_attention")
    return tuple(LAYER_TYPES[kind] for kind in kinds)


def patterned_windows(c: Fields, sliding: tuple[bool, ...]) -> tuple[int, ...]:
    """Windows of a family whose layers slide by a pattern. Raises ArchitectureError where the window is null."""
    window = read_window(c)
    if any(sliding) and not window:
        raise ArchitectureError(f"{c.source}: some layers slide, but sliding_window is null")
    return tuple(window if slides else 0 for slides in sliding)


def read_experts(
    c: Fields, count_key: str, count: int, top_k: int, width: int, *, normalise: bool, shared: int = 0
) -> MoESpec:
    """A mixture of experts, of which the key `count_key` says how many; the numbers are what absent keys mean."""
    found = c.integer(count_key, count)
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


def read_checked(family: Family, c: Fields) -> DecoderSpec:
    """What a family reads of a configuration whose every key is known to it. Raises ArchitectureError."""
    check_keys(family, c)
    spec = family.read(c)
    undeclared = c.asked - family.all_reads
    assert not undeclared, f"{family.model_type} reads keys that it doesn't declare: {undeclared}"
    return spec

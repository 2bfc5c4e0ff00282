"""Gemma 4's decoder: full layers with heads and a rotary embedding of their own, keys and values that layers share or
that are equal, and what each layer is told of a token besides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cutset.errors import ArchitectureError
from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_head_dim, read_sliding
from cutset.models.families.gemma2 import NAMES, read_cap
from cutset.models.families.rope import ROPE_KEYS, read_rope
from cutset.models.files.fields import MOST, Fields
from cutset.models.spec import (
    LAYER,
    PLACE,
    SHARED_PLACE,
    DecoderSpec,
    LayerInputSpec,
    MoESpec,
    RopeSpec,
    Stacked,
    TensorName,
)

# The MLP stands beside the experts: a shared one.
MIXTURE_NAMES = replace(
    NAMES,
    router=(TensorName(LAYER + "router.proj.weight", PLACE + "router"),),
    shared_gate_up=(
        TensorName(LAYER + "mlp.gate_proj.weight", SHARED_PLACE + "w_gate"),
        TensorName(LAYER + "mlp.up_proj.weight", SHARED_PLACE + "w_up"),
    ),
    shared_down=(TensorName(LAYER + "mlp.down_proj.weight", SHARED_PLACE + "w_down"),),
)
STACKED = (
    Stacked("expert_gate_up", LAYER + "experts.gate_up_proj"),
    Stacked("expert_down", LAYER + "experts.down_proj"),
)
POSITIONS = 131072
KINDS = ("full_attention", "sliding_attention")
ROPES: dict[str, dict[str, Any]] = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
MOST_LAYER_WIDTH = 1 << 14
DEFAULTS = Defaults(
    positions=POSITIONS,
    vocab=262144,
    heads=8,
    kv_heads=4,
    head_dim=256,
    intermediate=9216,
    tied=True,
    bos=2,
    eos=1,
    activation="gelu_tanh",
    activation_key="hidden_activation",
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias, layers = c.flag("attention_bias"), c.integer("num_hidden_layers")
    sliding = read_sliding(c, lambda i: (i + 1) % 6 != 0)
    sliding = (*sliding[:-1], False)  # the last one always sees all
    head_sizes = _head_sizes(c, sliding)
    kv_layers = _kv_layers(c, sliding)
    shared = [kv_layers[layer] != layer for layer in range(layers)]
    width, wide = c.integer("intermediate_size", DEFAULTS.intermediate), c.flag("use_double_wide_mlp")
    equal = c.flag("attention_k_eq_v")
    moe = _experts(c, width) if c.flag("enable_moe_block") else None
    window = c.integer("sliding_window", 512)
    return read_decoder(
        c,
        "gemma4_text",
        DEFAULTS,
        **_ropes(c, sliding, head_sizes),
        head_sizes=head_sizes if len(set(head_sizes)) > 1 or head_sizes[0] != _usual(c) else (),
        intermediates=tuple(2 * width if one else width for one in shared) if wide and any(shared) else (),
        kv_layers=kv_layers if any(shared) else (),
        equal_kv_layers=frozenset(
            layer for layer in range(layers) if equal and not sliding[layer] and not shared[layer]
        ),
        v_norm=True,
        layer_scales=True,
        layer_inputs=_layer_inputs(c),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
        output_norms=True,
        embedding_scale=c.integer("hidden_size") ** 0.5,
        attention_scale=1.0,
        logit_softcap=read_cap(c, "final_logit_softcapping", 0.0),
        windows=tuple(window if slides else 0 for slides in sliding),
        moe=moe,
        sparse_layers=frozenset(range(layers) if moe else ()),
        names=NAMES if moe is None else MIXTURE_NAMES,
        stacked=() if moe is None else STACKED,
        # Files may have them where a layer uses the keys and values of another.
        other_parts=tuple(
            f"model.layers.{layer}.self_attn.{part}."
            for layer in range(layers)
            if shared[layer]
            for part in ("k_proj", "v_proj", "k_norm", "v_norm")
        ),
    )


def _usual(c: Fields) -> tuple[int, int]:
    return c.integer("num_key_value_heads", DEFAULTS.kv_heads), read_head_dim(c, DEFAULTS)


def _head_sizes(c: Fields, sliding: tuple[bool, ...]) -> tuple[tuple[int, int], ...]:
    """Key-value heads and the size of one, of each layer: by `per_layer_config` where the file has it, else by what it
    says of full layers."""
    usual, heads = _usual(c), c.integer("num_attention_heads", DEFAULTS.heads)
    kv_heads = c.integer("num_global_key_value_heads", usual[0], most=MOST["num_key_value_heads"])
    whole = kv_heads if c.flag("attention_k_eq_v") else usual[0]
    size = c.integer("global_head_dim", 512, most=MOST["head_dim"])
    found = [usual if slides else (whole, size) for slides in sliding]
    if c.names("per_layer_config"):
        table = c.table("per_layer_config") or Fields({}, c.source)
        digits = len(str(len(sliding) - 1))  # files pad the numbers with zeros
        named = [{str(layer), f"{layer:0{digits}}"} for layer in range(len(sliding))]
        table.refuse_unknown([name for names in named for name in names])
        found = []
        for layer, names in enumerate(named):
            there = [name for name in sorted(names) if table.has(name)]
            if len(there) > 1:
                raise ArchitectureError(f"{table.source} has layer {layer} twice")
            own = (table.table(there[0]) if there else None) or Fields({}, table.source)
            own.refuse_unknown(("head_dim", "num_key_value_heads"))
            found.append((own.integer("num_key_value_heads", usual[0]), own.integer("head_dim", usual[1])))
    for layer, (kv_heads, size) in enumerate(found):
        if heads % kv_heads or size % 2:
            raise ArchitectureError(
                f"{c.source}: layer {layer}: {heads} heads can't share {kv_heads} evenly, or a head of {size} is odd"
            )
    for kind in (True, False):
        if len({found[layer] for layer, slides in enumerate(sliding) if slides == kind}) > 1:
            raise ArchitectureError(f"{c.source}: per_layer_config: layers of one of layer_types differ in their heads")
    return tuple(found)


def _kv_layers(c: Fields, sliding: tuple[bool, ...]) -> tuple[int, ...]:
    """The layer whose keys and values each layer uses: of the last ones, the nearest of their type before them."""
    layers = len(sliding)
    first = layers - c.integer("num_kv_shared_layers", 0, least=0, most=layers - 1)
    own = {slides: layer for layer, slides in enumerate(sliding[:first])}
    if not set(sliding) <= own.keys():
        raise ArchitectureError(f"{c.source}: num_kv_shared_layers leaves no layer of a type with keys of its own")
    return tuple(layer if layer < first else own[slides] for layer, slides in enumerate(sliding))


def _ropes(c: Fields, sliding: tuple[bool, ...], head_sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """The rotary tables: one for each type of layer, over heads of its size."""
    for name in ROPE_KEYS:
        if name != "rope_parameters" and c.has(name):
            raise ArchitectureError(f"{c.source}: {name} is not supported for gemma4_text; use rope_parameters")
    given = c.table("rope_parameters") or Fields(dict(ROPES), c.source)
    given.refuse_unknown(KINDS)
    positions = c.integer("max_position_embeddings", POSITIONS)
    found: list[RopeSpec] = []
    for kind, slides in zip(KINDS, (False, True), strict=True):
        if slides not in sliding:
            continue
        table = given.table(kind)
        if table is None:
            raise ArchitectureError(f"{given.source}: {kind} is missing")
        size = head_sizes[sliding.index(slides)][1]
        rope = read_rope(Fields({"rope_parameters": table.values}, c.source), 1e4, size, positions)
        found.append(replace(rope, reach=0))
    if len(found) == 1:
        return {"rope": found[0]}
    return {"rope": found[0], "other_ropes": (found[1],), "rope_tables": tuple(int(slides) for slides in sliding)}


def _experts(c: Fields, width: int) -> MoESpec:
    count, picked = c.integer("num_experts"), c.integer("top_k_experts")
    if picked > count:
        raise ArchitectureError(f"{c.source}: top_k_experts is {picked}, but there are {count} experts")
    return MoESpec(
        count,
        picked,
        c.integer("moe_intermediate_size"),
        normalise=True,
        shared=1,
        shared_intermediate=width,
        own_norms=True,
        router_scale=c.integer("hidden_size") ** -0.5,
    )


def _layer_inputs(c: Fields) -> LayerInputSpec | None:
    width = c.integer("hidden_size_per_layer_input", 256, least=0, most=MOST_LAYER_WIDTH)
    vocab, rows = c.integer("vocab_size", DEFAULTS.vocab), c.integer("vocab_size_per_layer_input", 262144)
    if not width:
        return None
    if not vocab <= rows <= MOST["vocab_size"]:
        raise c.wrong("vocab_size_per_layer_input", f"from vocab_size, {vocab}, to {MOST['vocab_size']}")
    return LayerInputSpec(rows, width, width**0.5, c.integer("hidden_size") ** -0.5, 2.0**-0.5)


FAMILY = Family(
    model_type="gemma4_text",
    architectures=("Gemma4ForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias hidden_activation final_logit_softcapping sliding_window layer_types attention_k_eq_v
        global_head_dim num_global_key_value_heads per_layer_config num_kv_shared_layers use_double_wide_mlp
        hidden_size_per_layer_input vocab_size_per_layer_input enable_moe_block num_experts
        top_k_experts moe_intermediate_size
        """
    ),
    neutral={"use_bidirectional_attention": (False, "vision")},  # of pictures' tokens alone
)

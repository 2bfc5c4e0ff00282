"""Granite 4 in its dense form: attention in all layers, and the MLP that its mixtures share, alone."""

from __future__ import annotations

from dataclasses import replace

from cutset.errors import ArchitectureError
from cutset.models.families.common import Family, keys, read_decoder
from cutset.models.families.granite import DEFAULTS, FACTORS, read_factors
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName, TensorNames

NAMES = TensorNames(
    gate_up=(TensorName(LAYER + "shared_mlp.input_linear.weight", PLACE + "w_gate_up"),),
    down=(TensorName(LAYER + "shared_mlp.output_linear.weight", PLACE + "w_down"),),
)
ATTENTION, MAMBA = ("attention", "full_attention"), ("mamba", "linear_attention")


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError, for layers of Mamba and for experts too."""
    experts = c.integer("num_local_experts", 8, least=0)
    if experts:
        absent = "" if c.has("num_local_experts") else " (that many where it is absent)"
        raise ArchitectureError(
            f"{c.source}: num_local_experts is {experts}{absent}; of this family only the dense form is supported, 0"
        )
    layers, bias = c.integer("num_hidden_layers"), c.flag("attention_bias")
    _check_layers(c, layers)
    return read_decoder(
        c,
        "granitemoehybrid",
        replace(DEFAULTS, intermediate=1),  # of experts, which there are none of
        qkv_bias=bias,
        o_bias=bias,
        intermediate=c.integer("shared_intermediate_size", 1024),
        rope_tables=() if _rotates(c) else (-1,) * layers,
        names=NAMES,
        **read_factors(c),
    )


def _check_layers(c: Fields, layers: int) -> None:
    """Raises ArchitectureError unless all layers attend. The older name counts, as in transformers."""
    key = "layers_block_type" if c.has("layers_block_type") else "layer_types"
    kinds = c.value(key)
    if kinds is None:
        raise ArchitectureError(f"{c.source}: layer_types is absent: all layers are Mamba's, which is not supported")
    known = isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)
    if not known or len(kinds) != layers:
        raise c.wrong(key, f"a list of {layers} times attention")
    for number, kind in enumerate(kinds):
        if kind in MAMBA:
            raise ArchitectureError(f"{c.source}: {key}: layer {number} is Mamba's, which is not supported")
        if kind not in ATTENTION:
            raise ArchitectureError(f"{c.source}: {key}: unknown kind {kind!r:.60}; known is attention")


def _rotates(c: Fields) -> bool:
    kind = c.value("position_embedding_type")
    if kind not in (None, "nope", "rope"):
        raise c.wrong("position_embedding_type", "rope, nope or null")
    return bool(kind == "rope")


FAMILY = Family(
    model_type="granitemoehybrid",
    architectures=("GraniteMoeHybridForCausalLM",),
    read=read,
    reads=FACTORS
    | keys(
        """
        attention_bias num_local_experts shared_intermediate_size position_embedding_type layer_types layers_block_type
        """
    ),
    # Of Mamba and of experts, which there are none of; how it was trained.
    harmless=keys(
        """
        mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand mamba_chunk_size
        mamba_conv_bias mamba_proj_bias time_step_limit num_experts_per_tok output_router_logits router_aux_loss_coef
        init_method
        """
    ),
    neutral={"normalization_function": ("rmsnorm",)},
)

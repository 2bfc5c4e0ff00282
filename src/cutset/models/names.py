"""Where the parameters of a decoder are stored: names in a checkpoint, places in an exchange file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Names", "Stacked", "TensorName", "TensorNames"]


class Stacked(NamedTuple):
    """A tensor in which a checkpoint may have a parameter of all experts of a layer, (experts, rows, columns).

    Its rows may also lie in `checkpoint`_blocks and _scales, in MXFP4. cutset.models.files.stacked reads it.
    """

    role: str  # the parameter: a field of TensorNames
    checkpoint: str  # a template with `{layer}`
    transposed: bool = False  # (experts, columns, rows); MXFP4 never is
    interleaved: bool = False  # rows of gate and up take turns

    def at(self, layer: int) -> str:
        """Its name in a layer."""
        return self.checkpoint.replace("{layer}", str(layer))


class TensorName(NamedTuple):
    """Templates with `{layer}` and `{expert}`: the name in a checkpoint, the place in an exchange file."""

    checkpoint: str
    place: str

    def at(self, layer: int, expert: int) -> TensorName:
        """Name and place of one layer and expert."""
        return TensorName(
            *(text.replace("{layer}", str(layer)).replace("{expert}", str(expert)) for text in (self[0], self[1]))
        )


Names = tuple[TensorName, ...]

LAYER, PLACE = "model.layers.{layer}.", "layers/{layer}/"
EXPERT, EXPERT_PLACE = f"{LAYER}mlp.experts.{{expert}}.", f"{PLACE}experts/{{expert}}/"
SHARED, SHARED_PLACE = f"{LAYER}mlp.shared_experts.{{expert}}.", f"{PLACE}shared_experts/{{expert}}/"


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Where each parameter of a decoder is stored: by default under the names of Llama, which most families took over.

    Several names are several tensors, whose rows are stacked: `qkv` has three of them, or one that holds all rows,
    `gate_up` two or one. A layer counts from 0; so do experts, and shared experts on their own.
    """

    embedding: Names = (TensorName("model.embed_tokens.weight", "tok_embedding"),)
    attention_output_norm: Names = (TensorName(LAYER + "attention_output_norm.weight", PLACE + "rms_attn_output"),)
    mlp_output_norm: Names = (TensorName(LAYER + "mlp_output_norm.weight", PLACE + "rms_ffn_output"),)
    sinks: Names = (TensorName(LAYER + "self_attn.sinks", PLACE + "sinks"),)
    final_norm: Names = (TensorName("model.norm.weight", "final_rms"),)
    lm_head: Names = (TensorName("lm_head.weight", "lm_head"),)
    attention_norm: Names = (TensorName(LAYER + "input_layernorm.weight", PLACE + "rms_attn"),)
    mlp_norm: Names = (TensorName(LAYER + "post_attention_layernorm.weight", PLACE + "rms_ffn"),)
    qkv: Names = (
        TensorName(LAYER + "self_attn.q_proj.weight", PLACE + "wq"),
        TensorName(LAYER + "self_attn.k_proj.weight", PLACE + "wk"),
        TensorName(LAYER + "self_attn.v_proj.weight", PLACE + "wv"),
    )
    qkv_bias: Names = (
        TensorName(LAYER + "self_attn.q_proj.bias", PLACE + "bq"),
        TensorName(LAYER + "self_attn.k_proj.bias", PLACE + "bk"),
        TensorName(LAYER + "self_attn.v_proj.bias", PLACE + "bv"),
    )
    q_norm: Names = (TensorName(LAYER + "self_attn.q_norm.weight", PLACE + "q_norm"),)
    k_norm: Names = (TensorName(LAYER + "self_attn.k_norm.weight", PLACE + "k_norm"),)
    o: Names = (TensorName(LAYER + "self_attn.o_proj.weight", PLACE + "wo"),)
    o_bias: Names = (TensorName(LAYER + "self_attn.o_proj.bias", PLACE + "bo"),)
    layer_scale: Names = (TensorName(LAYER + "layer_scalar", PLACE + "layer_scale"),)
    # Of what layers are told of a token; see LayerInputSpec.
    layer_embedding: Names = (TensorName("model.embed_tokens_per_layer.weight", "layer_embedding"),)
    layer_product: Names = (TensorName("model.per_layer_model_projection.weight", "layer_product"),)
    layer_product_norm: Names = (TensorName("model.per_layer_projection_norm.weight", "rms_layer_product"),)
    layer_gate: Names = (TensorName(LAYER + "per_layer_input_gate.weight", PLACE + "layer_gate"),)
    layer_out: Names = (TensorName(LAYER + "per_layer_projection.weight", PLACE + "layer_out"),)
    layer_output_norm: Names = (TensorName(LAYER + "post_per_layer_input_norm.weight", PLACE + "rms_layer_output"),)
    # Of layers with a state instead of attention:
    in_proj: Names = (TensorName(LAYER + "conv.in_proj.weight", PLACE + "w_in"),)
    in_proj_bias: Names = (TensorName(LAYER + "conv.in_proj.bias", PLACE + "b_in"),)
    conv: Names = (TensorName(LAYER + "conv.conv.weight", PLACE + "conv"),)
    conv_bias: Names = (TensorName(LAYER + "conv.conv.bias", PLACE + "conv_bias"),)
    out_proj: Names = (TensorName(LAYER + "conv.out_proj.weight", PLACE + "w_out"),)
    out_proj_bias: Names = (TensorName(LAYER + "conv.out_proj.bias", PLACE + "b_out"),)
    decay: Names = (TensorName(LAYER + "linear_attn.A_log", PLACE + "decay"),)
    decay_bias: Names = (TensorName(LAYER + "linear_attn.dt_bias", PLACE + "decay_bias"),)
    delta_gain: Names = (TensorName(LAYER + "linear_attn.norm.weight", PLACE + "rms_delta"),)
    router: Names = (TensorName(LAYER + "mlp.gate.weight", PLACE + "router"),)
    router_bias: Names = (TensorName(LAYER + "mlp.gate.bias", PLACE + "router_bias"),)
    # Of experts that have norms of their own; see MoESpec.
    router_norm: Names = (TensorName(LAYER + "router.scale", PLACE + "rms_router"),)
    expert_norm: Names = (TensorName(LAYER + "pre_feedforward_layernorm_2.weight", PLACE + "rms_expert"),)
    expert_output_norm: Names = (
        TensorName(LAYER + "post_feedforward_layernorm_2.weight", PLACE + "rms_expert_output"),
    )
    shared_output_norm: Names = (
        TensorName(LAYER + "post_feedforward_layernorm_1.weight", PLACE + "rms_shared_output"),
    )
    expert_scale: Names = (TensorName(LAYER + "router.per_expert_scale", PLACE + "expert_scale"),)
    shared_gate: Names = (TensorName(LAYER + "mlp.shared_expert_gate.weight", PLACE + "shared_gate"),)
    gate_up: Names = (
        TensorName(LAYER + "mlp.gate_proj.weight", PLACE + "w_gate"),
        TensorName(LAYER + "mlp.up_proj.weight", PLACE + "w_up"),
    )
    gate_up_bias: Names = (
        TensorName(LAYER + "mlp.gate_proj.bias", PLACE + "b_gate"),
        TensorName(LAYER + "mlp.up_proj.bias", PLACE + "b_up"),
    )
    down: Names = (TensorName(LAYER + "mlp.down_proj.weight", PLACE + "w_down"),)
    down_bias: Names = (TensorName(LAYER + "mlp.down_proj.bias", PLACE + "b_down"),)
    expert_gate_up: Names = (
        TensorName(EXPERT + "gate_proj.weight", EXPERT_PLACE + "w_gate"),
        TensorName(EXPERT + "up_proj.weight", EXPERT_PLACE + "w_up"),
    )
    expert_down: Names = (TensorName(EXPERT + "down_proj.weight", EXPERT_PLACE + "w_down"),)
    # A row for each expert.
    expert_gate_up_bias: Names = (TensorName(LAYER + "mlp.experts.gate_up_bias", PLACE + "expert_b_gate_up"),)
    expert_down_bias: Names = (TensorName(LAYER + "mlp.experts.down_bias", PLACE + "expert_b_down"),)
    shared_gate_up: Names = (
        TensorName(SHARED + "gate_proj.weight", SHARED_PLACE + "w_gate"),
        TensorName(SHARED + "up_proj.weight", SHARED_PLACE + "w_up"),
    )
    shared_down: Names = (TensorName(SHARED + "down_proj.weight", SHARED_PLACE + "w_down"),)

"""Qwen3.5's mixture of experts: every layer has one, with a shared expert that has a gate of its own."""

from __future__ import annotations

from dataclasses import replace

from cutset.models.families.common import Defaults, Family, keys, read_experts
from cutset.models.families.qwen3_5_text import HARMLESS_KEYS, LINEAR_KEYS, NAMES, NEUTRAL_KEYS, ROPE, read_qwen
from cutset.models.files.fields import MOST, Fields
from cutset.models.spec import LAYER, DecoderSpec, Stacked, TensorName
from cutset.models.spec import SHARED_PLACE as PLACE

SHARED = LAYER + "mlp.shared_expert."
MIXTURE_NAMES = replace(
    NAMES,
    shared_gate_up=(
        TensorName(SHARED + "gate_proj.weight", PLACE + "w_gate"),
        TensorName(SHARED + "up_proj.weight", PLACE + "w_up"),
    ),
    shared_down=(TensorName(SHARED + "down_proj.weight", PLACE + "w_down"),),
)
STACKED = (
    Stacked("expert_gate_up", LAYER + "mlp.experts.gate_up_proj"),
    Stacked("expert_down", LAYER + "mlp.experts.down_proj"),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    width = c.integer("shared_expert_intermediate_size", 512, most=MOST["intermediate_size"])
    moe = read_experts(c, "num_experts", 256, 8, 512, normalise=True)
    moe = replace(moe, normalise=True, shared=1, shared_intermediate=width, shared_gate=True)
    return read_qwen(
        c,
        "qwen3_5_moe_text",
        Defaults(positions=32768, kv_heads=2, head_dim=256, intermediate=width, rope=ROPE),
        moe=moe,
        sparse_layers=frozenset(range(c.integer("num_hidden_layers"))),
        names=MIXTURE_NAMES,
        stacked=STACKED,
    )


FAMILY = Family(
    model_type="qwen3_5_moe_text",
    architectures=("Qwen3_5MoeForCausalLM",),
    read=read,
    reads=LINEAR_KEYS
    | keys("num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob shared_expert_intermediate_size"),
    harmless=HARMLESS_KEYS | keys("output_router_logits router_aux_loss_coef"),
    neutral=NEUTRAL_KEYS,
)

"""gpt-oss (OpenAI 2025, arXiv:2508.10925): sinks, a window in every other layer, a clamped SwiGLU, experts in MXFP4."""

from __future__ import annotations

from cutset.errors import ArchitectureError
from cutset.models.families.common import (
    QUANTIZATIONS,
    Defaults,
    Family,
    keys,
    read_decoder,
    read_head_dim,
    read_sliding,
)
from cutset.models.families.rope import read_rope
from cutset.models.files.fields import Fields
from cutset.models.spec import (
    EXPERT,
    EXPERT_PLACE,
    LAYER,
    PLACE,
    DecoderSpec,
    MoESpec,
    Stacked,
    TensorName,
    TensorNames,
)

EXPERTS = LAYER + "mlp.experts."
NAMES = TensorNames(
    router=(TensorName(LAYER + "mlp.router.weight", PLACE + "router"),),
    router_bias=(TensorName(LAYER + "mlp.router.bias", PLACE + "router_bias"),),
    expert_gate_up=(TensorName(EXPERT + "gate_up_proj.weight", EXPERT_PLACE + "w_gate_up"),),
    expert_gate_up_bias=(TensorName(EXPERTS + "gate_up_bias", PLACE + "expert_b_gate_up"),),
    expert_down_bias=(TensorName(EXPERTS + "down_proj_bias", PLACE + "expert_b_down"),),
)
STACKED = (
    Stacked("expert_gate_up", EXPERTS + "gate_up_proj", transposed=True, interleaved=True),
    Stacked("expert_down", EXPERTS + "down_proj", transposed=True),
    Stacked("expert_gate_up_bias", EXPERTS + "gate_up_proj_bias", interleaved=True),
)
ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias, layers = c.flag("attention_bias", True), c.integer("num_hidden_layers")
    defaults = Defaults(
        positions=131072,
        vocab=201088,
        heads=64,
        kv_heads=8,
        head_dim=None if c.names("head_dim") else 64,
        intermediate=2880,
        theta=150000.0,
        eps=1e-5,
        quantizations=(*QUANTIZATIONS, "mxfp4"),
    )
    window = c.integer("sliding_window", 0 if c.names("sliding_window") else 128)
    sliding = read_sliding(c, lambda i: i % 2 == 0)
    if any(sliding) and not window:
        raise ArchitectureError(f"{c.source}: some layers slide, but sliding_window is null")
    return read_decoder(
        c,
        "gpt_oss",
        defaults,
        rope=read_rope(_with_rope(c), defaults.theta, read_head_dim(c, defaults), _positions(c, defaults)),
        qkv_bias=bias,
        o_bias=bias,
        sinks=True,
        activation="clamped",
        activation_limit=c.number("swiglu_limit", 7.0),
        activation_alpha=c.number("swiglu_alpha", 1.702),
        windows=tuple(window if slides else 0 for slides in sliding),
        moe=_experts(c),
        sparse_layers=frozenset(range(layers)),
        router_bias=True,
        expert_bias=True,
        names=NAMES,
        stacked=STACKED,
    )


def _positions(c: Fields, defaults: Defaults) -> int:
    return c.integer("max_position_embeddings", defaults.positions)


def _with_rope(c: Fields) -> Fields:
    """The configuration with what its rotary embedding is where it says nothing."""
    if c.value("rope_scaling") or c.has("rope_parameters"):
        return c
    return Fields({**c.values, "rope_parameters": ROPE}, c.source)


def _experts(c: Fields) -> MoESpec:
    """A softmax over the picked experts is that over all, divided by their sum."""
    count = c.integer("num_local_experts", c.integer("num_experts", 128))
    if c.integer("num_experts", count) != count:
        raise ArchitectureError(f"{c.source}: num_experts and num_local_experts differ")
    picked = c.integer("num_experts_per_tok", 4)
    if picked > count:
        raise ArchitectureError(f"{c.source}: num_experts_per_tok is {picked}, but there are {count} experts")
    return MoESpec(count, picked, c.integer("intermediate_size", 2880), normalise=True)


FAMILY = Family(
    model_type="gpt_oss",
    architectures=("GptOssForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias sliding_window layer_types num_local_experts num_experts num_experts_per_tok
        swiglu_limit swiglu_alpha
        """
    ),
    # Of the first files: other words for num_experts_per_tok and the trained length, which lies in the rotary table.
    harmless=keys("experts_per_token initial_context_length output_router_logits router_aux_loss_coef"),
)

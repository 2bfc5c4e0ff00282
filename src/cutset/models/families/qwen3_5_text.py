"""Qwen3.5, dense: three layers of the gated delta rule to one of attention with gates; norms are stored around zero."""

from __future__ import annotations

from typing import Any

from cutset.errors import ArchitectureError
from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.families.rope import RopeRules
from cutset.models.files.fields import MOST, Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, DeltaSpec, TensorName, TensorNames

__all__ = ["HARMLESS_KEYS", "LINEAR_KEYS", "NAMES", "NEUTRAL_KEYS", "OTHER_PARTS", "ROPE", "read_qwen"]

MOST_TAPS = 1 << 10
KINDS = ("linear_attention", "full_attention")
DELTA = LAYER + "linear_attn."
NAMES = TensorNames(
    in_proj=(
        TensorName(DELTA + "in_proj_qkv.weight", PLACE + "w_in"),
        TensorName(DELTA + "in_proj_z.weight", PLACE + "w_z"),
        TensorName(DELTA + "in_proj_b.weight", PLACE + "w_b"),
        TensorName(DELTA + "in_proj_a.weight", PLACE + "w_a"),
    ),
    conv=(TensorName(DELTA + "conv1d.weight", PLACE + "conv"),),
    out_proj=(TensorName(DELTA + "out_proj.weight", PLACE + "w_out"),),
)
ROPE = RopeRules(partial=0.25, more=keys("mrope_section mrope_interleaved"))  # of text all positions are one
OTHER_PARTS = ("mtp.", "visual.", "model.visual.")  # layers that draft, and pictures
LINEAR_KEYS = keys(
    """
    attention_bias layer_types full_attention_interval linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim
    linear_num_key_heads linear_num_value_heads
    """
)
HARMLESS_KEYS = keys("mtp_num_hidden_layers mtp_use_dedicated_embeddings mamba_ssm_dtype")
NEUTRAL_KEYS: dict[str, tuple[Any, ...]] = {"attn_output_gate": (True,), "mlp_only_layers": ([],)}


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_qwen(
        c, "qwen3_5_text", Defaults(positions=32768, kv_heads=4, head_dim=256, intermediate=12288, rope=ROPE)
    )


def read_qwen(c: Fields, family: str, defaults: Defaults, **parts: Any) -> DecoderSpec:
    """What the dense model and the mixture have in common; `parts` as in `read_decoder`. Raises ArchitectureError."""
    linear = frozenset(layer for layer, kind in enumerate(_kinds(c)) if kind == "linear_attention")
    bias, most = c.flag("attention_bias"), MOST["num_attention_heads"]
    mixer = DeltaSpec(
        key_heads=c.integer("linear_num_key_heads", 16, most=most),
        value_heads=c.integer("linear_num_value_heads", 32, most=most),
        key_dim=c.integer("linear_key_head_dim", 128, most=MOST["head_dim"]),
        value_dim=c.integer("linear_value_head_dim", 128, most=MOST["head_dim"]),
        taps=c.integer("linear_conv_kernel_dim", 4, most=MOST_TAPS),
    )
    if mixer.value_heads % mixer.key_heads:
        raise ArchitectureError(
            f"{c.source}: linear_num_value_heads {mixer.value_heads} is no multiple of linear_num_key_heads "
            f"{mixer.key_heads}"
        )
    shared: dict[str, Any] = {
        "qk_norm": True,
        "norm_offset": 1.0,
        "gated_attention": True,
        "qkv_bias": bias,
        "o_bias": bias,
        "recurrent": mixer if linear else None,
        "recurrent_layers": linear,
        "names": NAMES,
        "other_parts": OTHER_PARTS,
    }
    spec = read_decoder(c, family, defaults, **(shared | parts))
    if spec.activation != "silu":  # the convolutions have the same
        raise c.wrong("hidden_act", "silu")
    return spec


def _kinds(c: Fields) -> list[str]:
    """The kind of each layer: `layer_types`, else attention in every fourth or so."""
    layers, kinds = c.integer("num_hidden_layers"), c.value("layer_types")
    if kinds is None:
        interval = c.integer("full_attention_interval", 4)
        return [KINDS[(layer + 1) % interval == 0] for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in KINDS for kind in kinds):
        raise c.wrong("layer_types", f"a list of {layers} times {' or '.join(KINDS)}")
    return kinds


FAMILY = Family(
    model_type="qwen3_5_text",
    architectures=("Qwen3_5ForCausalLM",),
    read=read,
    reads=LINEAR_KEYS,
    harmless=HARMLESS_KEYS,
    neutral=NEUTRAL_KEYS,
)

"""Gemma 2: norms before and after sublayers, capped scores and logits, a window in every other layer."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, patterned_windows, read_decoder, read_sliding
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName, TensorNames

__all__ = ["NAMES"]

NAMES = TensorNames(
    attention_output_norm=(TensorName(LAYER + "post_attention_layernorm.weight", PLACE + "rms_attn_output"),),
    mlp_norm=(TensorName(LAYER + "pre_feedforward_layernorm.weight", PLACE + "rms_ffn"),),
    mlp_output_norm=(TensorName(LAYER + "post_feedforward_layernorm.weight", PLACE + "rms_ffn_output"),),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    defaults = Defaults(
        positions=8192,
        kv_heads=4,
        head_dim=256,
        tied=True,
        bos=2,
        eos=1,
        activation="gelu_tanh",
        activation_key="hidden_activation",
    )
    return read_decoder(
        c,
        "gemma2",
        defaults,
        qkv_bias=bias,
        o_bias=bias,
        output_norms=True,
        norm_offset=1.0,
        embedding_scale=c.integer("hidden_size") ** 0.5,
        attention_scale=c.number("query_pre_attn_scalar", 256.0) ** -0.5,
        attention_softcap=read_cap(c, "attn_logit_softcapping", 50.0),
        logit_softcap=read_cap(c, "final_logit_softcapping", 30.0),
        windows=patterned_windows(c, read_sliding(c, lambda i: i % 2 == 0)),
        names=NAMES,
    )


def read_cap(c: Fields, name: str, absent: float) -> float:
    """A soft cap; null is none, 0."""
    return c.number(name, 0.0 if c.names(name) else absent)


FAMILY = Family(
    model_type="gemma2",
    architectures=("Gemma2ForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias hidden_activation query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping
        sliding_window layer_types
        """
    ),
    harmless=keys("sliding_window_size"),  # of the first files, beside sliding_window
    neutral={"use_bidirectional_attention": (False,)},
)

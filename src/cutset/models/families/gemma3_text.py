"""Gemma 3's decoder: norms of q and k, and a window and another rotary base in five of six layers."""

from __future__ import annotations

from dataclasses import replace

from cutset.models.families.common import (
    Defaults,
    Family,
    keys,
    patterned_windows,
    read_decoder,
    read_head_dim,
    read_sliding,
)
from cutset.models.families.gemma2 import NAMES, read_cap
from cutset.models.families.rope import read_layer_ropes
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

POSITIONS = 131072


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    defaults = Defaults(
        positions=POSITIONS,
        vocab=262208,  # the published files leave out what is so in most of them
        heads=8,
        kv_heads=4,
        head_dim=256,
        tied=True,
        bos=2,
        eos=1,
        activation="gelu_tanh",
        activation_key="hidden_activation",
    )
    pattern = c.integer("sliding_window_pattern", 6)
    sliding = read_sliding(c, lambda i: (i + 1) % pattern != 0)
    thetas = {
        "full_attention": c.number("rope_theta", 1e6),
        "sliding_attention": c.number("rope_local_base_freq", 1e4),
    }
    positions = c.integer("max_position_embeddings", POSITIONS)
    ropes = read_layer_ropes(c, thetas, sliding, read_head_dim(c, defaults), positions)
    # Its max_position_embeddings is what the stretched embedding reaches, whatever the factor.
    ropes["rope"] = replace(ropes["rope"], reach=0)
    return read_decoder(
        c,
        "gemma3_text",
        defaults,
        **ropes,
        qkv_bias=bias,
        o_bias=bias,
        qk_norm=True,
        output_norms=True,
        norm_offset=1.0,
        embedding_scale=c.integer("hidden_size") ** 0.5,
        attention_scale=c.number("query_pre_attn_scalar", 256.0) ** -0.5,
        logit_softcap=read_cap(c, "final_logit_softcapping", 0.0),
        windows=patterned_windows(c, sliding),
        names=NAMES,
    )


FAMILY = Family(
    model_type="gemma3_text",
    architectures=("Gemma3ForCausalLM",),
    read=read,
    reads=keys(
        """
        attention_bias hidden_activation query_pre_attn_scalar final_logit_softcapping sliding_window layer_types
        sliding_window_pattern rope_local_base_freq
        """
    ),
    # Neither transformers nor the published models cap its scores. A saved file has its pattern as layer_types.
    harmless=keys("attn_logit_softcapping _sliding_window_pattern"),
    neutral={"use_bidirectional_attention": (False,)},
)

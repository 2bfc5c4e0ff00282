"""OLMo 2: norms after sublayers instead of before, and of q and k whole."""

from __future__ import annotations

from typing import Any

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName, TensorNames

__all__ = ["DEFAULTS", "parts"]

DEFAULTS = Defaults(positions=2048, eps=1e-5, eos=50279)
NAMES = TensorNames(
    attention_output_norm=(TensorName(LAYER + "post_attention_layernorm.weight", PLACE + "rms_attn_output"),),
    mlp_output_norm=(TensorName(LAYER + "post_feedforward_layernorm.weight", PLACE + "rms_ffn_output"),),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_decoder(c, "olmo2", DEFAULTS, **parts(c))


def parts(c: Fields) -> dict[str, Any]:
    """What OLMo 2 and 3 have in common."""
    bias = c.flag("attention_bias")
    return {
        "qkv_bias": bias,
        "o_bias": bias,
        "qk_norm": True,
        "whole_norms": True,
        "input_norms": False,
        "output_norms": True,
        "names": NAMES,
    }


FAMILY = Family(
    model_type="olmo2",
    architectures=("Olmo2ForCausalLM",),
    read=read,
    reads=keys("attention_bias"),
)

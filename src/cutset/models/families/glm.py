"""GLM-4 of 2024: neighbouring elements of half a head are rotated, gate and up are fused."""

from __future__ import annotations

from typing import Any

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.families.rope import RopeRules
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName, TensorNames

__all__ = ["NAMES", "read_glm"]

NAMES = TensorNames(gate_up=(TensorName(LAYER + "mlp.gate_up_proj.weight", PLACE + "w_gate_up"),))
DEFAULTS = Defaults(positions=131072, kv_heads=2, head_dim=128, eps=0.00000015625, rope=RopeRules(partial=0.5))
ENDS = (151329, 151336, 151338)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_glm(c, "glm", names=NAMES)


def read_glm(c: Fields, family: str, **parts: Any) -> DecoderSpec:
    """What the families of GLM have in common; `parts` as in `read_decoder`. Raises ArchitectureError."""
    if not c.has("eos_token_id"):
        vocab = c.integer("vocab_size")
        parts |= {"eos_token_ids": tuple(end for end in ENDS if end < vocab), "eos_assumed": True}
    bias = c.flag("attention_bias", True)
    return read_decoder(c, family, DEFAULTS, rope_interleaved=True, qkv_bias=bias, **parts)


FAMILY = Family(
    model_type="glm",
    architectures=("GlmForCausalLM",),
    read=read,
    reads=keys("attention_bias"),
)

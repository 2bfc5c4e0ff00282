"""Granite 3, dense: Llama with factors of the embedding, the scores, what sublayers give, and the logits."""

from __future__ import annotations

from typing import Any

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

__all__ = ["DEFAULTS", "FACTORS", "read_factors"]

DEFAULTS = Defaults(positions=2048, bos=1, eos=2)
FACTORS = keys("embedding_multiplier attention_multiplier residual_multiplier logits_scaling")
LEAST_FACTOR = 1e-30


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    biases = {"qkv_bias": bias, "o_bias": bias, "mlp_bias": c.flag("mlp_bias")}
    return read_decoder(c, "granite", DEFAULTS, **biases, **read_factors(c))


def read_factors(c: Fields) -> dict[str, Any]:
    """The factors, as parts of a DecoderSpec. An absent one is 1, also that of the scores."""

    def factor(name: str) -> float:
        value = c.number(name, 1.0)
        if value < LEAST_FACTOR:
            raise c.wrong(name, f"at least {LEAST_FACTOR:g}")
        return value

    return {
        "embedding_scale": factor("embedding_multiplier"),
        "attention_scale": factor("attention_multiplier"),
        "residual_scale": factor("residual_multiplier"),
        "logit_scale": 1 / factor("logits_scaling"),
    }


FAMILY = Family(
    model_type="granite",
    architectures=("GraniteForCausalLM",),
    read=read,
    reads=FACTORS | keys("attention_bias mlp_bias"),
)

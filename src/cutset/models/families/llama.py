"""Llama, and what is built like it under its name (SmolLM2, TinyLlama, the bundled model)."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    defaults = Defaults(positions=2048, bos=1, eos=2)
    return read_decoder(c, "llama", defaults, qkv_bias=bias, o_bias=bias, mlp_bias=c.flag("mlp_bias"))


FAMILY = Family(
    model_type="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),
    read=read,
    reads=keys("attention_bias mlp_bias"),
    harmless=keys("sliding_window layer_types"),  # Llama has no windows; transformers doesn't look at them either
)

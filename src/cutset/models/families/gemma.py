"""Gemma: gains stored around zero, GeGLU, an embedding scaled by the square root of its size."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    defaults = Defaults(positions=8192, kv_heads=16, head_dim=256, tied=True, bos=2, eos=1, activation="gelu_tanh")
    if c.value("hidden_act") == "gelu":  # of the first files, which mean the other formula
        c = Fields({**c.values, "hidden_act": "gelu_pytorch_tanh"}, c.source)
    return read_decoder(
        c,
        "gemma",
        defaults,
        qkv_bias=bias,
        o_bias=bias,
        norm_offset=1.0,
        embedding_scale=c.integer("hidden_size") ** 0.5,
    )


FAMILY = Family(
    model_type="gemma",
    architectures=("GemmaForCausalLM",),
    read=read,
    reads=keys("attention_bias"),
    harmless=keys("hidden_activation"),  # transformers looks at hidden_act alone
    neutral={"use_bidirectional_attention": (False,)},
)

"""Qwen3, dense: norms of q and k, heads of 128 whatever the hidden size."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.families.qwen2 import WINDOW_KEYS, absent_kv_heads, upper_windows
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    bias = c.flag("attention_bias")
    defaults = Defaults(positions=32768, head_dim=128, kv_heads=absent_kv_heads(c))
    return read_decoder(c, "qwen3", defaults, qk_norm=True, qkv_bias=bias, o_bias=bias, windows=upper_windows(c))


FAMILY = Family(
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM",),
    read=read,
    reads=WINDOW_KEYS | keys("attention_bias"),
)

"""Qwen2 and Qwen2.5, dense: biases of q, k and v, windows in the upper layers where they are switched on."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_window, read_windows
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

WINDOW_KEYS = keys("sliding_window use_sliding_window max_window_layers layer_types")


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    defaults = Defaults(positions=32768, kv_heads=absent_kv_heads(c))
    return read_decoder(c, "qwen2", defaults, qkv_bias=True, windows=upper_windows(c))


def upper_windows(c: Fields) -> tuple[int, ...]:
    """Windows by layer: from `max_window_layers` on, unless `layer_types` says more."""
    window = read_window(c) if c.flag("use_sliding_window") else 0
    return read_windows(c, window, c.integer("max_window_layers", 28, least=0))


def absent_kv_heads(c: Fields) -> int:
    """What an absent num_key_value_heads means: 32, or all heads where those can't share 32, as in a file by hand."""
    heads = c.integer("num_attention_heads")
    return heads if heads % 32 else 32


FAMILY = Family(
    model_type="qwen2",
    architectures=("Qwen2ForCausalLM",),
    read=read,
    reads=WINDOW_KEYS,
    harmless=keys("use_mrope"),  # of its vision models: positions of text are the same either way
)

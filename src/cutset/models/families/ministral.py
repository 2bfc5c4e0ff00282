"""Ministral 8B of 2024: Mistral whose windows may differ by layer. Ministral 3 has a file of its own."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_window, read_windows
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    defaults = Defaults(positions=131072, kv_heads=8, bos=1, eos=2)
    return read_decoder(c, "ministral", defaults, windows=read_windows(c, read_window(c), 0))


FAMILY = Family(
    model_type="ministral",
    architectures=("MinistralForCausalLM",),
    read=read,
    reads=keys("sliding_window use_sliding_window layer_types"),
)

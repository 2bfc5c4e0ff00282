"""Qwen3.5's mixture of experts with pictures, of which the text part runs."""

from __future__ import annotations

from cutset.models.families import qwen3_5_moe_text
from cutset.models.families.common import Family
from cutset.models.families.qwen3_5 import PICTURE_KEYS
from cutset.models.families.text_part import TEXT_KEYS, read_text
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_text(c, qwen3_5_moe_text.FAMILY, tied=False, parts=("mtp.", "visual."))


FAMILY = Family(
    model_type="qwen3_5_moe",
    architectures=("Qwen3_5MoeForConditionalGeneration",),
    read=read,
    reads=TEXT_KEYS,
    harmless=PICTURE_KEYS,
)

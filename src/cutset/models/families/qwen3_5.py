"""Qwen3.5 with pictures, of which the text part runs."""

from __future__ import annotations

from cutset.models.families import qwen3_5_text
from cutset.models.families.common import Family, keys
from cutset.models.families.text_part import OTHER_KEYS, TEXT_KEYS, read_text
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

__all__ = ["PICTURE_KEYS"]

PICTURE_KEYS = OTHER_KEYS | keys("video_token_id vision_start_token_id vision_end_token_id language_model_only")


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_text(c, qwen3_5_text.FAMILY, tied=False, parts=("mtp.", "visual."))


FAMILY = Family(
    model_type="qwen3_5",
    architectures=("Qwen3_5ForConditionalGeneration",),
    read=read,
    reads=TEXT_KEYS,
    harmless=PICTURE_KEYS,
)

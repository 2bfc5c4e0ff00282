"""Gemma 3 with pictures, of which the text part runs."""

from __future__ import annotations

from cutset.models.families import gemma3_text
from cutset.models.families.common import Family
from cutset.models.families.text_part import OTHER_KEYS, TEXT_KEYS, read_text
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_text(c, gemma3_text.FAMILY, tied=True)


FAMILY = Family(
    model_type="gemma3",
    architectures=("Gemma3ForConditionalGeneration",),
    read=read,
    reads=TEXT_KEYS,
    harmless=OTHER_KEYS,
)

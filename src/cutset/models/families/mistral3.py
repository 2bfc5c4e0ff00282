"""Mistral Small 3.1 and Ministral 3 with pictures, of which the text part runs: a Mistral, or a Ministral 3."""

from __future__ import annotations

from cutset.models.families import ministral3, mistral
from cutset.models.families.common import Family, keys
from cutset.models.families.text_part import OTHER_KEYS, TEXT_KEYS, read_text
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    text = c.table("text_config")
    newer = text is not None and text.value("model_type") == "ministral3"
    return read_text(c, ministral3.FAMILY if newer else mistral.FAMILY, tied=True)


FAMILY = Family(
    model_type="mistral3",
    architectures=("Mistral3ForConditionalGeneration",),
    read=read,
    reads=TEXT_KEYS,
    harmless=OTHER_KEYS | keys("vision_feature_layer spatial_merge_size"),
)

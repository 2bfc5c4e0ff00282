"""Gemma 4 with pictures and sound, of which the text part runs."""

from __future__ import annotations

from cutset.models.families import gemma4_text
from cutset.models.families.common import Family, keys
from cutset.models.families.text_part import OTHER_KEYS, TEXT_KEYS, read_text
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

PARTS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.")


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_text(c, gemma4_text.FAMILY, tied=True, parts=PARTS)


FAMILY = Family(
    model_type="gemma4",
    architectures=("Gemma4ForConditionalGeneration",),
    read=read,
    reads=TEXT_KEYS,
    harmless=OTHER_KEYS
    | keys(
        """
        audio_config audio_token_id boa_token_id eoa_token_id eoa_token_index video_token_id
        vision_soft_tokens_per_image
        """
    ),
)

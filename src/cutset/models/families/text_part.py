"""The text part of a model that also takes pictures: its configuration lies inside, its tensors have longer names."""

from __future__ import annotations

import re
from dataclasses import fields, replace

from cutset.errors import ArchitectureError
from cutset.models.families.common import Family, check_quantization, keys, read_checked
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec, TensorName, TensorNames

__all__ = ["OTHER_KEYS", "TEXT_KEYS", "read_text"]

TEXT_KEYS = keys("text_config")  # what `read_text` reads besides the keys that everybody does
# What is about the other parts, and the tokens that stand for a picture, which a prompt of text has none of.
OTHER_KEYS = keys(
    """
    vision_config projector_hidden_act projector_bias multimodal_projector_bias mm_tokens_per_image
    boi_token_index eoi_token_index image_token_index boi_token_id eoi_token_id image_token_id
    """
)
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")


def read_text(c: Fields, family: Family, *, tied: bool, parts: tuple[str, ...] = OTHER_PARTS) -> DecoderSpec:
    """The text part of a model that has others, a decoder of `family` by its `text_config`.

    `tied` is what an absent tie_word_embeddings means, which counts outside; `parts` are the others' tensors by prefix.
    Raises ArchitectureError.
    """
    check_quantization(c)
    text = c.table("text_config")
    if text is None:
        raise ArchitectureError(f"{c.source}: text_config is missing")
    if text.value("model_type", family.model_type) != family.model_type:
        raise text.wrong("model_type", family.model_type)
    spec = read_checked(family, text)
    inner = spec.names
    roles = {field.name: getattr(inner, field.name) for field in fields(inner)}
    outer = {role: tuple(_in_part(name) for name in names) for role, names in roles.items()}
    ends = c.token_ids("eos_token_id", spec.vocab_size)
    stated = ends + (() if spec.eos_assumed else spec.eos_token_ids)
    return replace(
        spec,
        family=c.value("model_type", spec.family),
        tied=c.flag("tie_word_embeddings", tied),
        names=TensorNames(**outer),
        other_names=(("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model.")),
        stacked=tuple(one._replace(checkpoint=_inside(one.checkpoint)) for one in spec.stacked),
        other_parts=(*map(_inside, spec.other_parts), *parts, *(f"model.{part}" for part in parts)),
        eos_token_ids=tuple(dict.fromkeys(stated)) if ends else spec.eos_token_ids,
        eos_assumed=spec.eos_assumed and not ends,
    )


def _in_part(name: TensorName) -> TensorName:
    return name._replace(checkpoint=_inside(name.checkpoint))


def _inside(name: str) -> str:
    return re.sub(r"^model\.", "model.language_model.", name)

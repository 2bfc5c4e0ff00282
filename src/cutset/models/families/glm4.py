"""GLM-4-0414: GLM with norms of what attention and MLP give too."""

from __future__ import annotations

from dataclasses import replace

from cutset.models.families.common import Family, keys
from cutset.models.families.glm import NAMES, read_glm
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName

NAMES_OF_GLM4 = replace(
    NAMES,
    attention_output_norm=(TensorName(LAYER + "post_self_attn_layernorm.weight", PLACE + "rms_attn_output"),),
    mlp_output_norm=(TensorName(LAYER + "post_mlp_layernorm.weight", PLACE + "rms_ffn_output"),),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    return read_glm(c, "glm4", names=NAMES_OF_GLM4, output_norms=True)


FAMILY = Family(
    model_type="glm4",
    architectures=("Glm4ForCausalLM",),
    read=read,
    reads=keys("attention_bias"),
)

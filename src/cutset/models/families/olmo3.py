"""OLMo 3: OLMo 2 with windows in three of four layers; only the others' rotary embedding is stretched."""

from __future__ import annotations

from cutset.models.families.common import (
    Family,
    keys,
    patterned_windows,
    read_decoder,
    read_head_dim,
    read_sliding,
)
from cutset.models.families.olmo2 import DEFAULTS, parts
from cutset.models.families.rope import read_layer_ropes
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec

THETA = 5e5


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    sliding = read_sliding(c, lambda i: (i + 1) % 4 != 0)
    # A rope_theta beside the tables is that of full attention alone.
    thetas = {"full_attention": c.number("rope_theta", THETA), "sliding_attention": THETA}
    positions = c.integer("max_position_embeddings", DEFAULTS.positions)
    ropes = read_layer_ropes(c, thetas, sliding, read_head_dim(c, DEFAULTS), positions)
    return read_decoder(c, "olmo3", DEFAULTS, **ropes, **parts(c), windows=patterned_windows(c, sliding))


FAMILY = Family(
    model_type="olmo3",
    architectures=("Olmo3ForCausalLM",),
    read=read,
    reads=keys("attention_bias sliding_window layer_types"),
)

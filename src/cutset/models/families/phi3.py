"""Phi-3 and Phi-4: Llama with fused products, partial rotary embedding, and LongRoPE."""

from __future__ import annotations

from cutset.models.families.common import Defaults, Family, keys, read_decoder
from cutset.models.families.rope import RopeRules
from cutset.models.files.fields import Fields
from cutset.models.spec import LAYER, PLACE, DecoderSpec, TensorName, TensorNames

NAMES = TensorNames(
    qkv=(TensorName(LAYER + "self_attn.qkv_proj.weight", PLACE + "wqkv"),),
    gate_up=(TensorName(LAYER + "mlp.gate_up_proj.weight", PLACE + "w_gate_up"),),
)
DEFAULTS = Defaults(
    positions=4096,
    eps=1e-5,
    bos=1,
    eos=32000,
    rope=RopeRules(
        partial=1.0,
        # Its first files have other names for LongRoPE.
        kinds={"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"},
        original=4096,
    ),
)


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    layers, window = c.integer("num_hidden_layers"), c.integer("sliding_window", 0)
    return read_decoder(c, "phi3", DEFAULTS, windows=(window,) * layers, names=NAMES)


FAMILY = Family(
    model_type="phi3",
    architectures=("Phi3ForCausalLM",),
    read=read,
    reads=keys("sliding_window"),
    # Switches that published files have, and no program looks at.
    neutral={"interpolate_factor": (1,), "full_attn_mod": (1,), "lm_head_bias": (False,)},
)

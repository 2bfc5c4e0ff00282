"""MiniMind: without Q/K norm and with shared experts until 2025, like Qwen3 since.

The file doesn't say which of the two it is; its fields do.
"""

from __future__ import annotations

import math
from dataclasses import replace

from cutset.models.families.common import Defaults, Family, keys, read_decoder, read_experts
from cutset.models.families.rope import finite_alone, plain_rope, rope_of, yarn_frequencies
from cutset.models.files.fields import Fields
from cutset.models.spec import DecoderSpec, MoESpec

ORIGINAL, FACTOR = 2048, 16.0  # positions that its stretched embedding was trained on, and how far it's stretched


def read(c: Fields) -> DecoderSpec:
    """Raises ArchitectureError."""
    hidden, layers = c.integer("hidden_size"), c.integer("num_hidden_layers")
    old = c.has("n_routed_experts") or not (c.has("num_experts") or c.has("head_dim"))
    width = 64 * math.ceil(int(hidden * 8 / 3) / 64) if old else 64 * math.ceil(hidden * math.pi / 64)
    width = c.integer("intermediate_size", width)
    moe = _experts(c, width, old) if c.flag("use_moe") else None
    defaults = Defaults(
        positions=32768,
        kv_heads=2 if old else 4,
        intermediate=width,
        theta=1e6,
        eps=1e-5 if old else 1e-6,
        tied=True,
        bos=1,
        eos=2,
    )
    spec = read_decoder(
        c,
        "minimind",
        defaults,
        qk_norm=c.flag("qk_norm", not old),
        moe=moe,
        sparse_layers=frozenset(range(layers)) if moe else frozenset(),
    )
    # Whatever the file says of scaling: its own program looks at these two alone.
    stretched = c.flag("inference_rope_scaling") and spec.max_positions > ORIGINAL
    theta, size = c.number("rope_theta", 1e6), spec.head_dim
    with finite_alone(c.source, "yarn" if stretched else "default"):
        if not stretched:
            return replace(spec, rope=plain_rope(theta, size))
        # Its ramp ends at the last pair; the others' at twice that.
        frequencies = yarn_frequencies(theta, size, FACTOR, ORIGINAL, (32.0, 1.0), size // 2 - 1)
        return replace(spec, rope=rope_of(frequencies))


def _experts(c: Fields, width: int, old: bool) -> MoESpec:
    if not old:
        return read_experts(c, "num_experts", 4, 1, width, normalise=True)
    if c.value("scoring_func", "softmax") != "softmax":
        raise c.wrong("scoring_func", "softmax")
    shared = c.integer("n_shared_experts", 1, least=0)
    moe = read_experts(c, "n_routed_experts", 4, 2, width, normalise=True, shared=shared)
    return replace(moe, normalise=moe.normalise and moe.top_k > 1)  # the gate leaves a single weight as it is


FAMILY = Family(
    model_type="minimind",
    architectures=("MiniMindForCausalLM",),
    read=read,
    reads=keys(
        """
        qk_norm inference_rope_scaling use_moe num_experts n_routed_experts n_shared_experts num_experts_per_tok
        moe_intermediate_size norm_topk_prob scoring_func
        """
    ),
    harmless=keys("aux_loss_alpha seq_aux router_aux_loss_coef output_router_logits"),
)

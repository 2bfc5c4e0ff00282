"""What a configuration says of the rotary embedding. Which of two keys counts is what transformers 5.23 makes of them:

- `rope_scaling`, the older name, before `rope_parameters`, unless it is empty; of the other nothing is taken then.
- `rope_theta` and `partial_rotary_factor` inside before those beside it.
- `rope_type` before `type`.
- `original_max_position_embeddings` beside it before the one inside.
"""

from __future__ import annotations

import math

import numpy as np

from cutset.errors import ArchitectureError
from cutset.models.files.fields import Fields
from cutset.models.run.rope import inverse_frequencies
from cutset.models.spec import MOST_POSITIONS, RopeSpec

__all__ = ["check_rope", "read_rope"]

ORIGINAL = "original_max_position_embeddings"
LAYER_TYPES = ("full_attention", "sliding_attention")


def read_rope(c: Fields, theta: float, max_positions: int) -> RopeSpec:
    """The rotary embedding of a configuration; `theta` where it says nothing. Raises ArchitectureError."""
    scaling = c.table("rope_scaling" if c.values.get("rope_scaling") else "rope_parameters") or Fields({}, c.source)
    theta = scaling.number("rope_theta", c.number("rope_theta", theta))
    if any(scaling.names(kind) for kind in LAYER_TYPES):
        raise ArchitectureError(f"{scaling.source} differs by type of layer, which is not supported")
    if scaling.number("partial_rotary_factor", c.number("partial_rotary_factor", 1.0)) != 1.0:
        raise ArchitectureError(f"{c.source}: a partial_rotary_factor other than 1 is not supported")
    kind = scaling.values.get("rope_type", scaling.values.get("type", "default"))
    if kind == "default":
        return RopeSpec(theta)
    if kind in ("linear", "dynamic"):
        return RopeSpec(theta, kind, scaling.number("factor"), original_positions=max_positions)
    original = c.integer(ORIGINAL, scaling.integer(ORIGINAL, max_positions))
    if kind == "llama3":
        low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
        if low >= high:
            raise ArchitectureError(f"{scaling.source}: low_freq_factor must be below high_freq_factor")
        return RopeSpec(theta, kind, scaling.number("factor"), original, low_freq_factor=low, high_freq_factor=high)
    if kind == "yarn":
        factor = scaling.number("factor", max_positions / original)
        return RopeSpec(
            theta,
            kind,
            factor,
            original,
            beta_fast=scaling.number("beta_fast", 32.0),
            beta_slow=scaling.number("beta_slow", 1.0),
            truncate=scaling.flag("truncate", not scaling.names("truncate")),  # null is false there
            attention_factor=_yarn_attention_factor(scaling, factor),
        )
    raise ArchitectureError(f"{c.source}: unknown rope scaling {kind!r}; known are linear, dynamic, llama3, yarn")


def _yarn_attention_factor(scaling: Fields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    if scaling.values.get("mscale") and scaling.values.get("mscale_all_dim"):
        return mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    return mscale(1.0)


def check_rope(rope: RopeSpec, head_dim: int, source: str) -> None:
    """Refuses a rotary embedding whose numbers, each allowed, give frequencies that aren't finite."""
    try:
        with np.errstate(all="ignore"):
            finite = all(
                np.isfinite(inverse_frequencies(rope, head_dim, limit)).all()
                for limit in (0, 2 * rope.original_positions, MOST_POSITIONS)
            )
    except (ArithmeticError, ValueError):
        finite = False
    if not finite:
        raise ArchitectureError(f"{source}: its {rope.kind} rotary embedding gives frequencies that aren't finite")

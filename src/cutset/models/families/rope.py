"""What a configuration says of the rotary embedding. Which of two keys counts is what transformers 5.23 makes of them:

- `rope_scaling`, the older name, before `rope_parameters`, unless it is empty; of the other nothing is taken then.
- `rope_theta` and `partial_rotary_factor` inside before those beside it.
- `rope_type` before `type`.
- `original_max_position_embeddings` beside it before the one inside.

Families whose layers differ by type (`read_layer_ropes`) have a table of each type inside of `rope_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ArchitectureError
from cutset.models.files.fields import MOST_NUMBER, Fields
from cutset.models.run.rope import dynamic_frequencies, plain_frequencies, plain_waves
from cutset.models.spec import MOST_POSITIONS, DynamicRope, LongRope, RopeSpec

__all__ = [
    "ROPE_KEYS",
    "USUAL",
    "RopeRules",
    "finite_alone",
    "plain_rope",
    "read_layer_ropes",
    "read_rope",
    "rope_of",
    "rope_table",
    "yarn_frequencies",
]

Floats = NDArray[np.float32]

ORIGINAL = "original_max_position_embeddings"
ROPE_KEYS = ("rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor", ORIGINAL)  # of a configuration
LAYER_TYPES = ("full_attention", "sliding_attention")
# Keys inside of rope_scaling: those that are read, of whatever kind, and those that change nothing here.
KNOWN = {"rope_theta", "partial_rotary_factor", "rope_type", "type", "factor", ORIGINAL}
KNOWN |= {"low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate", "attention_factor"}
KNOWN |= {"mscale", "mscale_all_dim", "finetuned", "short_factor", "long_factor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeRules:
    """What a family makes of the rotary keys otherwise than others do."""

    partial: float | None = None  # what an absent partial_rotary_factor means; None: it turns whole heads alone
    kinds: Mapping[str, str] | None = None  # its formulas by the names that it has for them; None: all, by their own
    original: int | None = None  # what the trained length is where it isn't beside the table, which doesn't count then
    absent: Mapping[str, Any] = field(default_factory=dict)  # what rope_parameters are where they are absent
    more: frozenset[str] = frozenset()  # keys of the table that the family reads itself


USUAL = RopeRules()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a formula is given: the configuration, its table of rope parameters, and sizes."""

    config: Fields
    scaling: Fields
    theta: float
    head_dim: int
    positions: int
    partial: float = 1.0  # of a head is rotated
    trained: int | None = None

    @property
    def original(self) -> int:
        """The trained length, in positions."""
        if self.trained is not None:
            return self.config.integer(ORIGINAL, self.trained)
        return self.config.integer(ORIGINAL, self.scaling.integer(ORIGINAL, self.positions))

    @property
    def rotated(self) -> int:
        """Elements of a head that are rotated; where that is odd, one more is."""
        return int(self.head_dim * self.partial)

    @property
    def even(self) -> int:
        """The same for formulas that have none for an odd number. Raises ArchitectureError."""
        if self.rotated % 2:
            raise ArchitectureError(
                f"{self.config.source}: partial_rotary_factor {self.partial:g} gives {self.rotated} rotated elements, "
                "an odd number, which this rotary embedding isn't defined for"
            )
        return self.rotated

    def plain(self) -> Floats:
        """The frequencies before they are stretched."""
        return plain_frequencies(self.theta, self.rotated)


def plain_rope(theta: float, head_dim: int) -> RopeSpec:
    """The embedding of `theta` that isn't stretched."""
    return rope_of(plain_frequencies(theta, head_dim))


def rope_table(c: Fields, rules: RopeRules) -> Fields:
    """The table of rope parameters that counts."""
    if c.value("rope_scaling"):
        table = c.table("rope_scaling")
    else:
        table = c.table("rope_parameters")
    return Fields(dict(rules.absent), c.source) if table is None else table


def read_rope(c: Fields, theta: float, head_dim: int, max_positions: int, rules: RopeRules = USUAL) -> RopeSpec:
    """The rotary embedding of a configuration; `theta` where it says nothing.

    Raises ArchitectureError for what isn't known, or gives frequencies that aren't finite.
    """
    scaling = rope_table(c, rules)
    theta = scaling.number("rope_theta", c.number("rope_theta", theta))
    if any(scaling.names(kind) for kind in LAYER_TYPES):
        raise ArchitectureError(f"{scaling.source} differs by type of layer, which is not supported")
    kind = _kind(c, scaling, rules)
    partial = _partial(c, scaling, rules)
    if partial != 1.0 and rules.partial is None and kind != "proportional":
        raise ArchitectureError(f"{c.source}: a partial_rotary_factor other than 1 is not supported")
    scaling.refuse_unknown(KNOWN | rules.more)
    asked = Asked(c, scaling, theta, head_dim, max_positions, partial, rules.original)
    if not asked.rotated:
        raise ArchitectureError(f"{c.source}: partial_rotary_factor {partial:g} leaves nothing of a head to rotate")
    with finite_alone(c.source, kind):
        return KINDS[kind](asked)


def _kind(c: Fields, scaling: Fields, rules: RopeRules) -> str:
    """The name in KINDS of the formula that is asked for."""
    kinds = {name: name for name in KINDS} if rules.kinds is None else rules.kinds
    kind = scaling.value("rope_type", scaling.value("type", "default"))
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(name for name in kinds if name != "default")
        raise ArchitectureError(f"{c.source}: unknown rope scaling {kind!r:.60}; known are {known}")
    return kinds[kind]


def _partial(c: Fields, scaling: Fields, rules: RopeRules) -> float:
    """How much of a head is rotated. Null is all of it."""
    default = 1.0 if c.names("partial_rotary_factor") or rules.partial is None else rules.partial
    partial = scaling.number("partial_rotary_factor", c.number("partial_rotary_factor", default))
    if partial > 1:
        where = scaling if scaling.has("partial_rotary_factor") else c
        raise where.wrong("partial_rotary_factor", "above 0 and at most 1")
    return partial


def read_layer_ropes(
    c: Fields, thetas: dict[str, float], sliding: Sequence[bool], head_dim: int, max_positions: int
) -> dict[str, Any]:
    """The parts `rope`, `other_ropes` and `rope_tables` of a DecoderSpec whose sliding layers rotate otherwise than the
    full ones; `thetas` has the base of each type, `sliding` says of each layer whether it slides.

    The keys of `rope_scaling` go into the table of full attention, over those that are there. Raises ArchitectureError
    as `read_rope` does.
    """
    given, scaling = c.table("rope_parameters") or Fields({}, c.source), c.table("rope_scaling")
    given.refuse_unknown(LAYER_TYPES)
    found = []
    for kind in LAYER_TYPES:
        table = given.table(kind)
        values = {"rope_type": "default"} if table is None else dict(table.values)
        if scaling is not None and kind == "full_attention":
            values |= scaling.values
        own = Fields({"rope_parameters": values}, c.source)
        for fields in (c, own.table("rope_parameters") or own):  # no formula of theirs in transformers looks at it
            if fields.number("partial_rotary_factor", 1.0) != 1.0:
                raise ArchitectureError(f"{c.source}: a partial_rotary_factor other than 1 is not supported")
        found.append(read_rope(own, thetas[kind], head_dim, max_positions))
    full, slid = found
    if full == slid or not any(sliding):
        return {"rope": full}
    if all(sliding):
        return {"rope": slid}
    return {"rope": full, "other_ropes": (slid,), "rope_tables": tuple(int(slides) for slides in sliding)}


@contextmanager
def finite_alone(source: str, kind: str) -> Iterator[None]:
    """Raises ArchitectureError where numbers, each allowed, give frequencies that aren't finite."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (ArithmeticError, ValueError):
        raise ArchitectureError(f"{source}: its {kind} rotary embedding gives frequencies that aren't finite") from None


def rope_of(
    found: Floats,
    scale: float = 1.0,
    reach: float = 0,
    dynamic: DynamicRope | None = None,
    long: LongRope | None = None,
) -> RopeSpec:
    """The embedding of these frequencies. Raises ArithmeticError for those that no angle can be computed from."""
    if not (np.isfinite(found).all() and found.min(initial=0) >= 0 and found.max(initial=0) <= MOST_NUMBER):
        raise ArithmeticError
    return RopeSpec(tuple(found.tolist()), scale, int(min(reach, MOST_POSITIONS)), dynamic, long)


def _default(asked: Asked) -> RopeSpec:
    return rope_of(asked.plain())


def _linear(asked: Asked) -> RopeSpec:
    """Chen et al. 2023, arXiv:2306.15595"""
    factor = asked.scaling.number("factor")
    return rope_of(asked.plain() / np.float32(factor), reach=factor * asked.positions)


def _dynamic(asked: Asked) -> RopeSpec:
    """NTK-aware, bloc97 (2023); stretched to the limit of a sequence when that is known."""
    dynamic = DynamicRope(asked.theta, asked.scaling.number("factor"), asked.positions)
    for limit in (2 * asked.positions, MOST_POSITIONS):
        rope_of(dynamic_frequencies(dynamic, asked.even, limit))
    return rope_of(asked.plain(), reach=dynamic.factor * asked.positions, dynamic=dynamic)


def _llama3(asked: Asked) -> RopeSpec:
    """Slow waves are stretched, fast ones kept, those between blended (Llama 3.1's own scheme)."""
    scaling, original, plain = asked.scaling, asked.original, asked.plain()
    slow, fast, factor = (scaling.number(name) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    if slow >= fast:
        raise ArchitectureError(f"{scaling.source}: low_freq_factor must be below high_freq_factor")
    waves = 2 * np.float32(math.pi) / plain
    blend = (original / waves - slow) / (fast - slow)
    between = (1 - blend) * plain / factor + blend * plain
    stretched = np.where(waves > original / slow, plain / factor, plain)
    medium = (waves >= original / fast) & (waves <= original / slow)
    return rope_of(np.where(medium, between, stretched).astype(np.float32))


def _yarn(asked: Asked) -> RopeSpec:
    scaling, original, size = asked.scaling, asked.original, asked.even
    factor = scaling.number("factor", asked.positions / original)
    turns = scaling.number("beta_fast", 32.0), scaling.number("beta_slow", 1.0)
    truncate = scaling.flag("truncate", not scaling.names("truncate"))  # null is false there
    frequencies = yarn_frequencies(asked.theta, size, factor, original, turns, size - 1, truncate=truncate)
    return rope_of(frequencies, _yarn_scale(scaling, factor), factor * original)


def yarn_frequencies(
    theta: float,
    head_dim: int,
    factor: float,
    original: int,
    turns: tuple[float, float],
    last: float,
    *,
    truncate: bool = True,
) -> Floats:
    """Peng et al. 2023, arXiv:2309.00071: pairs that turn more often than the first of `turns` over the `original`
    positions are kept, those that turn less often than the second stretched by `factor`, those between blended.

    The blend ends at the pair `last` at most; `truncate` rounds its ends to whole pairs.
    """

    def pair(count: float) -> float:  # the pair that turns so often over the trained length
        return head_dim * math.log(original / (count * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (pair(count) for count in turns)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, last)
    if low == high:
        high += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = 1 - np.clip(ramp, 0, 1).astype(np.float32)
    plain = plain_frequencies(theta, head_dim)
    stretched: Floats = plain / np.float32(factor) * (1 - kept) + plain * kept
    return stretched.astype(np.float32)


def _yarn_scale(scaling: Fields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    if scaling.value("mscale") and scaling.value("mscale_all_dim"):
        return mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    return mscale(1.0)


def _longrope(asked: Asked) -> RopeSpec:
    """Ding et al. 2024, arXiv:2402.13753: one factor a pair, and others for sequences beyond the trained length."""
    scaling, original = asked.scaling, asked.original
    waves = plain_waves(asked.theta, asked.rotated)
    short, long = (_factors(scaling, name, len(waves)) for name in ("short_factor", "long_factor"))
    factor = scaling.number("factor", asked.positions / original)
    if scaling.has("attention_factor"):
        scale = scaling.number("attention_factor")
    else:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    beyond = rope_of((np.float32(1.0) / (long * waves)).astype(np.float32))
    frequencies = (np.float32(1.0) / (short * waves)).astype(np.float32)
    return rope_of(frequencies, scale, long=LongRope(beyond.frequencies, original))


def _factors(scaling: Fields, name: str, pairs: int) -> Floats:
    values = scaling.value(name)
    numbers = isinstance(values, list) and all(
        type(value) in (int, float) and 0 < value <= MOST_NUMBER for value in values
    )
    if not numbers or len(values) != pairs:
        raise ArchitectureError(
            f"{scaling.source}: {name} must be a list of {pairs} positive numbers, one for each pair that is rotated"
        )
    return np.array(values, np.float32)


def _proportional(asked: Asked) -> RopeSpec:
    """A part of the pairs turns, as fast as it does where all of them do; the others stand still."""
    factor = asked.scaling.number("factor", 1.0)
    frequencies = plain_frequencies(asked.theta, asked.head_dim) / np.float32(factor)
    frequencies[int(asked.partial * asked.head_dim // 2) :] = 0
    return rope_of(frequencies, reach=factor * asked.positions)


KINDS: dict[str, Callable[[Asked], RopeSpec]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}

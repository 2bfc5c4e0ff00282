"""Cosines and sines of the rotary embedding for any positions.

Frequencies are computed in float32 in the order that transformers uses, so that both round alike: at position
30,000 a last bit of a frequency moves an angle by 0.002.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cutset.models.spec import DecoderSpec, RopeSpec

__all__ = ["Rope", "inverse_frequencies"]

Floats = NDArray[np.float32]


def inverse_frequencies(rope: RopeSpec, head_dim: int, limit: int = 0) -> Floats:
    """Radians per position of each pair, (head_dim / 2,).

    `limit` matters for the dynamic kind alone, which is stretched to sequences of so many tokens.
    """
    theta = rope.theta
    if rope.kind == "dynamic" and limit > rope.original_positions:  # NTK-aware, after bloc97 (2023)
        stretch = rope.factor * limit / rope.original_positions - (rope.factor - 1)
        theta *= stretch ** (head_dim / (head_dim - 2))
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = (np.float32(1.0) / np.float32(theta) ** exponents).astype(np.float32)
    if rope.kind == "linear":  # Chen et al. 2023, arXiv:2306.15595
        return plain / np.float32(rope.factor)
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":  # Peng et al. 2023, arXiv:2309.00071
        kept = 1 - _yarn_ramp(rope, head_dim)
        return (plain / np.float32(rope.factor) * (1 - kept) + plain * kept).astype(np.float32)
    return plain


def _llama3(rope: RopeSpec, plain: Floats) -> Floats:
    """Slow waves are stretched, fast ones kept, those between blended (Llama 3.1's own scheme)."""
    waves = 2 * np.float32(math.pi) / plain
    low, high = rope.original_positions / rope.low_freq_factor, rope.original_positions / rope.high_freq_factor
    blend = (rope.original_positions / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - blend) * plain / rope.factor + blend * plain
    stretched = np.where(waves > low, plain / rope.factor, plain)
    result: Floats = np.where((waves >= high) & (waves <= low), between, stretched).astype(np.float32)
    return result


def _yarn_ramp(rope: RopeSpec, head_dim: int) -> Floats:
    def dimension(turns: float) -> float:  # the pair that turns so often over the trained length
        return head_dim * math.log(rope.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim // 2 - 1 if rope.half_ramp else head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    clipped: Floats = np.clip(ramp, 0, 1).astype(np.float32)
    return clipped


class _Table:
    """Cosines and sines of positions 0, 1, … by one set of frequencies; it grows with what is asked for."""

    def __init__(self, rope: RopeSpec, head_dim: int, limit: int) -> None:
        self.limit = limit
        self._frequencies = inverse_frequencies(rope, head_dim, limit)
        self._scale = np.float32(rope.attention_factor)
        self._grown = self._upto(0)

    def _upto(self, positions: int) -> tuple[Floats, Floats]:
        angles = np.arange(positions).astype(np.float32)[:, None] * self._frequencies
        return np.cos(angles) * self._scale, np.sin(angles) * self._scale

    def rows(self, positions: NDArray[np.int32]) -> tuple[Floats, Floats]:
        wanted = int(positions.max(initial=-1)) + 1
        table = self._grown  # read once: another thread may put a longer one in its place
        if wanted > len(table[0]):
            self._grown = table = self._upto(max(2 * len(table[0]), wanted, 256))
        return table[0][positions], table[1][positions]


class Rope:
    """The rotary tables of a decoder."""

    def __init__(self, spec: DecoderSpec) -> None:
        self._tables = [_Stretching(rope, spec.rotary_dim or spec.head_dim) for rope in (spec.rope, *spec.other_ropes)]

    def rows(
        self, positions: NDArray[np.int32], row_starts: NDArray[np.int32], limits: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """cos and sin, each (tables, rows, rotary_dim / 2), of a batch's rows; `limits` (sequences,) as in Batch."""
        found = [table.rows(positions, row_starts, limits) for table in self._tables]
        if len(found) == 1:
            return found[0][0][None], found[0][1][None]
        return np.stack([cos for cos, _ in found]), np.stack([sin for _, sin in found])


class _Stretching:
    """One rotary table.

    A row's angles depend on its position and on the limit that its sequence has from the start. They must never depend
    on how long a sequence is at the moment: what lies in the cache was rotated when it was shorter.
    """

    def __init__(self, rope: RopeSpec, head_dim: int) -> None:
        self.spec, self.head_dim = rope, head_dim
        self._plain = self._stretched = _Table(self.spec, self.head_dim, 0)

    def _table(self, limit: int) -> _Table:
        if self.spec.kind != "dynamic" or limit <= self.spec.original_positions:
            return self._plain
        table = self._stretched  # an engine has one limit; whole passes one each
        if table.limit != limit:
            with np.errstate(over="ignore"):  # a base beyond float32 turns no more, as in other implementations
                self._stretched = table = _Table(self.spec, self.head_dim, limit)
        return table

    def rows(
        self, positions: NDArray[np.int32], row_starts: NDArray[np.int32], limits: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """cos and sin, each (rows, head_dim / 2), of the rows of a batch; `limits` (sequences,) as in Batch."""
        if self.spec.kind != "dynamic":
            return self._plain.rows(positions)
        by_row = np.repeat(limits, np.diff(row_starts))
        cos = np.empty((len(positions), self.head_dim // 2), dtype=np.float32)
        sin = np.empty_like(cos)
        for limit in np.unique(limits):
            chosen = by_row == limit
            cos[chosen], sin[chosen] = self._table(int(limit)).rows(positions[chosen])
        return cos, sin

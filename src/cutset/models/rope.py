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


def inverse_frequencies(rope: RopeSpec, head_dim: int, known_len: int = 0) -> Floats:
    """Radians per position of each pair, (head_dim / 2,). `known_len` matters for the dynamic kind alone."""
    theta = rope.theta
    if rope.kind == "dynamic" and known_len > rope.original_positions:  # NTK-aware, after bloc97 (2023)
        stretch = rope.factor * known_len / rope.original_positions - (rope.factor - 1)
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


class Rope:
    """The rotary table of a decoder; it grows with the positions that are asked for."""

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec, self.head_dim = spec.rope, spec.head_dim
        self.frequencies = inverse_frequencies(self.spec, self.head_dim)
        self._grown = self._table(np.arange(0), self.frequencies)

    def _table(self, positions: NDArray[np.integer], frequencies: Floats) -> tuple[Floats, Floats]:
        angles = positions.astype(np.float32)[:, None] * frequencies
        scale = np.float32(self.spec.attention_factor)
        return np.cos(angles) * scale, np.sin(angles) * scale

    def rows(
        self, positions: NDArray[np.int32], row_starts: NDArray[np.int32], known_lens: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """cos and sin, each (rows, head_dim / 2), of the rows of a batch."""
        wanted = int(positions.max(initial=-1)) + 1
        table = self._grown  # read once: another thread may put a longer one in its place
        if wanted > len(table[0]):
            self._grown = table = self._table(np.arange(max(2 * len(table[0]), wanted, 256)), self.frequencies)
        cos, sin = table[0][positions], table[1][positions]
        if self.spec.kind == "dynamic":
            for i in np.flatnonzero(known_lens > self.spec.original_positions):
                rows = slice(row_starts[i], row_starts[i + 1])
                stretched = inverse_frequencies(self.spec, self.head_dim, int(known_lens[i]))
                cos[rows], sin[rows] = self._table(positions[rows], stretched)
        return cos, sin

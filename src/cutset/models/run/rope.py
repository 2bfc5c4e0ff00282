"""What is computed from positions: cosines and sines of the rotary embedding, and factors of q.

Frequencies are computed in float32 in the order that transformers uses, so that both round alike: at position
30,000 a last bit of a frequency moves an angle by 0.002.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cutset.models.spec import DecoderSpec, DynamicRope, RopeSpec

__all__ = ["Rope", "dynamic_frequencies", "plain_frequencies", "plain_waves", "query_scales"]

Floats = NDArray[np.float32]


def plain_frequencies(theta: float, head_dim: int) -> Floats:
    """Radians per position of each pair, (head_dim / 2,), of an embedding that isn't stretched."""
    return (np.float32(1.0) / plain_waves(theta, head_dim)).astype(np.float32)


def plain_waves(theta: float, head_dim: int) -> Floats:
    """Their inverses, positions per radian."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return (np.float32(theta) ** exponents).astype(np.float32)


def dynamic_frequencies(dynamic: DynamicRope, head_dim: int, limit: int) -> Floats:
    """The same stretched to sequences of `limit` tokens, more than `original_positions` (NTK-aware, bloc97, 2023)."""
    stretch = dynamic.factor * limit / dynamic.original_positions - (dynamic.factor - 1)
    return plain_frequencies(dynamic.theta * stretch ** (head_dim / (head_dim - 2)), head_dim)


def query_scales(spec: DecoderSpec, positions: NDArray[np.int32]) -> Floats | None:
    """What q of each row is multiplied by, (rows,); None where that is 1 everywhere."""
    if not spec.query_growth:
        return None
    steps = np.floor(positions.astype(np.float32) / np.float32(spec.query_positions))
    scales: Floats = (1 + np.float32(spec.query_growth) * np.log(1 + steps)).astype(np.float32)
    return scales


class _Table:
    """Cosines and sines of positions 0, 1, … by one set of frequencies; it grows with what is asked for."""

    def __init__(self, frequencies: Floats, scale: float, limit: int = 0) -> None:
        self.limit = limit
        self._frequencies, self._scale = frequencies, np.float32(scale)
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
        self._tables = [_Stretching(rope) for rope in spec.ropes]

    def rows(
        self, positions: NDArray[np.int32], row_starts: NDArray[np.int32], limits: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """cos and sin, each (tables, rows, pairs), of a batch's rows; `limits` (sequences,) as in Batch.

        `pairs` is that of the table that rotates most; behind those of another stands nothing of use.
        """
        found = [table.rows(positions, row_starts, limits) for table in self._tables]
        if len(found) == 1:
            return found[0][0][None], found[0][1][None]
        pairs = max(cos.shape[-1] for cos, _ in found)
        widened = [[np.pad(x, ((0, 0), (0, pairs - x.shape[-1]))) for x in table] for table in found]
        return np.stack([cos for cos, _ in widened]), np.stack([sin for _, sin in widened])


class _Stretching:
    """One rotary table.

    A row's angles depend on its position and on the limit that its sequence has from the start. They must never depend
    on how long a sequence is at the moment: what lies in the cache was rotated when it was shorter.
    """

    def __init__(self, spec: RopeSpec) -> None:
        self.spec = spec
        self.pairs = len(self.spec.frequencies)
        self._plain = self._stretched = _Table(np.array(spec.frequencies, np.float32), spec.scale)
        self._long = (
            self._plain if spec.long is None else _Table(np.array(spec.long.frequencies, np.float32), spec.scale)
        )

    def _table(self, limit: int) -> _Table:
        long, dynamic = self.spec.long, self.spec.dynamic
        if long is not None:
            return self._plain if limit <= long.original_positions else self._long
        assert dynamic is not None
        if limit <= dynamic.original_positions:
            return self._plain
        table = self._stretched  # an engine has one limit; whole passes one each
        if table.limit != limit:
            with np.errstate(over="ignore"):  # a base beyond float32 turns no more, as in other implementations
                frequencies = dynamic_frequencies(dynamic, 2 * self.pairs, limit)
            self._stretched = table = _Table(frequencies, self.spec.scale, limit)
        return table

    def rows(
        self, positions: NDArray[np.int32], row_starts: NDArray[np.int32], limits: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """cos and sin, each (rows, head_dim / 2), of the rows of a batch; `limits` (sequences,) as in Batch."""
        if self.spec.dynamic is None and self.spec.long is None:
            return self._plain.rows(positions)
        by_row = np.repeat(limits, np.diff(row_starts))
        cos = np.empty((len(positions), self.pairs), dtype=np.float32)
        sin = np.empty_like(cos)
        for limit in np.unique(limits):
            chosen = by_row == limit
            cos[chosen], sin[chosen] = self._table(int(limit)).rows(positions[chosen])
        return cos, sin

"""Sequences in a paged cache for tests of attention, and what its twin answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cutset.kernels._native as native
from cutset.kernels import reference
from kernels.comparing import Floats, floats, nothing

ANSWERS: dict[bytes, Floats] = {}


def twin_attention(*given: Floats, **options: Any) -> Floats:
    """What `reference.attention` answers, which takes long, computed once for all instruction sets and block sizes."""
    digest = hashlib.sha256()
    for name, value in [*enumerate(given), *sorted(options.items())]:
        array = value if isinstance(value, np.ndarray) else None
        digest.update(repr((name, value if array is None else (array.dtype.str, array.shape))).encode())
        digest.update(b"" if array is None else array.tobytes())
    key = digest.digest()
    if key not in ANSWERS:
        ANSWERS[key] = reference.attention(*given, **options)
    return ANSWERS[key]


@dataclass
class Case:
    """Whole sequences in a cache whose unused places hold NaN, blocks scattered and sequences interleaved."""

    lens: list[int]
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    seed: int = 0
    spread: float = 1.0
    int8: bool = False

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = [floats(rng, n, width) * np.float32(self.spread) for n in self.lens]
        blocks = [-(-n // self.block_size) for n in self.lens]
        self.tables = np.full((len(self.lens), max(blocks) + 1), -1, np.int32)
        free = rng.permutation(sum(blocks) + 2).astype(np.int32)
        for i, used in enumerate(blocks):
            self.tables[i, :used], free = free[:used], free[used:]
        floats_of = native.cache_floats(self.kv_heads, self.head_dim, self.block_size, self.int8)
        self.keys, self.values = (nothing(sum(blocks) + 2, n) for n in floats_of)

    def step(
        self,
        rows: list[tuple[int, int, int]],  # (sequence, first row, end row)
        window: int = 0,
        mask: NDArray[np.bool_] | None = None,
        wanted: list[int] | None = None,
        pool: native.Pool | None = None,
        scale: float = 0.0,
        softcap: float = 0.0,
        sinks: Floats | None = None,
    ) -> list[Floats]:
        """Appends these rows and lets them attend; one array a sequence, or one of the wanted rows."""
        counts = [end - first for _, first, end in rows]
        starts = np.cumsum([0, *counts]).astype(np.int32)
        where = {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "block_size": self.block_size,
            "int8": self.int8,
            "keys": self.keys,
            "values": self.values,
            "row_starts": starts,
            "context_lens": np.array([end for _, _, end in rows], np.int32),
            "block_tables": self.tables[[s for s, _, _ in rows]],
        }
        qkv = np.concatenate([self.qkv[s][first:end] for s, first, end in rows])
        native.append(qkv, **where)
        out = nothing(len(qkv) if wanted is None else len(wanted), self.heads * self.head_dim)
        chosen = None if wanted is None else np.array(wanted, np.int32)
        scale = scale or self.head_dim**-0.5
        options = {
            "window": window,
            "key_mask": mask,
            "wanted": chosen,
            "pool": pool,
            "softcap": softcap,
            "sinks": sinks,
        }
        native.attention(qkv, **where, scale=scale, out=out, **options)
        return [out] if wanted is not None else np.split(out, starts[1:-1])

    def prefill(self, window: int = 0, mask: NDArray[np.bool_] | None = None) -> list[Floats]:
        return self.step([(s, 0, n) for s, n in enumerate(self.lens)], window, mask)

    def expected(self, sequence: int, window: int = 0, mask: NDArray[np.bool_] | None = None) -> Floats:
        rows = self.qkv[sequence].reshape(self.lens[sequence], -1, self.head_dim)
        q, k, v = np.split(rows, [self.heads, self.heads + self.kv_heads], axis=1)
        own = None if mask is None else mask[sequence, : self.lens[sequence]]
        if self.int8:
            k, v = ((codes * scales[..., None]) for codes, scales in map(reference.quantize_heads, (k, v)))
        return twin_attention(q, k, v, window=window, key_mask=own)

"""What an executor of a decoder is: the rows of one step go in, logits come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.models.spec import DecoderSpec

__all__ = ["Batch", "Executor", "KVCache"]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step: those of all its sequences, one after another, without padding.

    A sequence has `context_lens[i]` tokens in the cache after the step; its rows are the last of them. Token `t` of
    it lies in cache block `block_tables[i, t // block_size]` at place `t % block_size`. Prefill and decode are the
    same thing with more rows or one.
    """

    token_ids: NDArray[np.int32]  # (rows,)
    positions: NDArray[np.int32]  # (rows,) for the rotary embedding
    row_starts: NDArray[np.int32]  # (sequences + 1,) rows of sequence i: row_starts[i] .. row_starts[i + 1]
    context_lens: NDArray[np.int32]  # (sequences,) tokens in the cache after this step
    block_tables: NDArray[np.int32]  # (sequences, blocks) block numbers, -1 where there is none
    logit_rows: NDArray[np.int32]  # (wanted,) the rows whose logits are asked for
    # Known tokens of each sequence, those not yet computed too: dynamic rope stretches by it, so that a prefill in
    # chunks gives what one piece gives.
    known_lens: NDArray[np.int32]  # (sequences,)
    # False where a key may not be seen (padding). The engine never pads; whole forward passes may.
    key_mask: NDArray[np.bool_] | None = None  # (sequences, longest context)


class KVCache(Protocol):
    """Keys and values of `blocks` blocks of `block_size` tokens in every layer; its executor alone looks inside."""

    blocks: int
    block_size: int
    nbytes: int


class Executor(Protocol):
    """Runs a decoder. Holds weights and no state of sequences; those live in the cache that the caller hands in."""

    spec: DecoderSpec

    def new_cache(self, blocks: int, block_size: int) -> KVCache:
        """Room for keys and values of `blocks` blocks."""
        ...

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        """Runs the rows, appends their keys and values to the cache; logits (wanted, vocab) in float32."""
        ...

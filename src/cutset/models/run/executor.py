"""What an executor of a decoder is: the rows of one step go in, logits come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.adapter import LoraAdapter
from cutset.models.spec import DecoderSpec

__all__ = ["Batch", "Executor", "KVCache", "LoadedAdapter", "PreparingExecutor", "StageExecutor", "States"]


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A LoRA adapter that an executor has taken in; `handle` is the executor's own."""

    name: str
    digest: bytes
    handle: Any


@dataclass(frozen=True, slots=True)
class States:
    """Where the states of a batch's sequences lie, for decoders that have such (`DecoderSpec.recurrent`): slot numbers.

    After a step a slot has the state of its sequence after all of its tokens. No slot is written twice in a step, and
    none that is written is another sequence's source.
    """

    slots: NDArray[np.int32]  # (sequences,) where each state goes
    sources: NDArray[np.int32]  # (sequences,) where it was before the step; -1: there is none, the sequence starts
    # Further copies, as (sequence, tokens, slot): the state after so many tokens of the sequence, which are among the
    # rows of this step.
    saves: NDArray[np.int32]  # (copies, 3)

    @classmethod
    def fresh(cls, count: int) -> States:
        """Of sequences that start, in slots 0, 1, …"""
        none = np.full(count, -1, dtype=np.int32)
        return cls(np.arange(count, dtype=np.int32), none, np.empty((0, 3), dtype=np.int32))

    def saves_of(self, sequence: int) -> list[tuple[int, int]]:
        """The copies of one sequence's state: (tokens, slot)."""
        return [(int(tokens), int(slot)) for one, tokens, slot in self.saves if one == sequence]


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
    # The most tokens that each sequence can come to have, fixed from its start: an engine's max_model_len or all tokens
    # of a whole pass. Dynamic rope stretches to it; by a length that grows, one key would be rotated in several ways.
    limits: NDArray[np.int32]  # (sequences,)
    # False where a key may not be seen (padding). The engine never pads; whole forward passes may.
    key_mask: NDArray[np.bool_] | None = None  # (sequences, longest context)
    adapters: tuple[LoadedAdapter | None, ...] = ()  # (sequences,), or none at all
    states: States | None = None  # of decoders that have states of sequences

    @classmethod
    def whole(cls, ids: NDArray[np.int32], block_size: int, attention_mask: NDArray[np.bool_] | None = None) -> Batch:
        """Whole sequences (batch, tokens) from an empty cache, the logits of every row wanted.

        Sequence i takes the next ceil(tokens / block_size) blocks. `attention_mask` (batch, tokens): False at padding.
        """
        count, tokens = ids.shape
        per_sequence = -(-tokens // block_size)
        lens = np.full(count, tokens, dtype=np.int32)
        return cls(
            token_ids=ids.reshape(-1).astype(np.int32),
            positions=np.tile(np.arange(tokens, dtype=np.int32), count),
            row_starts=np.arange(count + 1, dtype=np.int32) * tokens,
            context_lens=lens,
            block_tables=np.arange(count * per_sequence, dtype=np.int32).reshape(count, per_sequence),
            logit_rows=np.arange(count * tokens, dtype=np.int32),
            limits=lens,
            key_mask=attention_mask,
            states=States.fresh(count),
        )

    def slots(self, block_size: int) -> NDArray[np.int64]:
        """Where each row's key and value go in the cache, as block · block_size + place: (rows,)."""
        counts = np.diff(self.row_starts)
        sequence = np.repeat(np.arange(len(counts)), counts)
        token = np.arange(len(self.token_ids)) - self.row_starts[1:][sequence] + self.context_lens[sequence]
        blocks = self.block_tables[sequence, token // block_size].astype(np.int64)
        slots: NDArray[np.int64] = blocks * block_size + token % block_size
        return slots

    def context_slots(self, sequence: int, block_size: int) -> NDArray[np.int64]:
        """Where the whole context of a sequence lies in the cache: (context_len,)."""
        length = int(self.context_lens[sequence])
        blocks = self.block_tables[sequence, : -(-length // block_size)].astype(np.int64)
        slots: NDArray[np.int64] = (blocks[:, None] * block_size + np.arange(block_size)).reshape(-1)[:length]
        return slots


class KVCache(Protocol):
    """Keys and values of `blocks` blocks of `block_size` tokens in every layer that has such, and `states` states of
    sequences in those that have a state instead; its executor alone looks inside."""

    blocks: int
    block_size: int
    nbytes: int

    def block(self, number: int) -> list[NDArray[np.uint8]]:
        """The bytes of a block's keys and values in all layers, in pieces that are views: what is written to them is
        in the cache. Their sizes and meaning are the executor's."""
        ...


class Executor(Protocol):
    """Runs a decoder. Holds weights and no state of sequences; those live in the cache that the caller hands in."""

    spec: DecoderSpec

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> KVCache:
        """Room for keys and values of `blocks` blocks, and for `states` states of sequences: None is one a block.

        `kv_dtype`: `int8` keeps keys and values in 8 bits with a scale for each token and head, `auto` as computed.
        """
        ...

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """Takes in an adapter, which sequences of any batch may then have; `in_bytes`: rounded to 8 bits."""
        ...

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        """Runs the rows, appends their keys and values to the cache; logits (wanted, vocab) in float32."""
        ...

    def final_hidden(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        """As `forward`, but what the head would take: (wanted, hidden) after the final norm, in float32."""
        ...


class StageExecutor(Protocol):
    """An Executor of a range of layers, which holds the weights of these alone; its caches are as large as they need.

    The first range has the embedding, the last one the final norm and the head: see cutset.models.stages.
    """

    spec: DecoderSpec  # of the whole decoder
    layers: range  # those that run here

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> KVCache:
        """As Executor.new_cache, for the layers here."""
        ...

    def load_adapter(self, adapter: LoraAdapter, *, in_bytes: bool = False) -> LoadedAdapter:
        """Takes in what an adapter has for the layers here."""
        ...

    def forward(
        self, batch: Batch, cache: KVCache, *, hidden: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Runs the rows through these layers. `hidden` (rows, hidden): the residual stream that the range before gave.

        Gives the residual stream (rows, hidden) of all rows in float32, or the last range's logits (wanted, vocab).
        """
        ...

    def final_hidden(
        self, batch: Batch, cache: KVCache, *, hidden: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """As `forward` of the last range, but what the head would take: (wanted, hidden) after the final norm."""
        ...


class PreparingExecutor(StageExecutor, Protocol):
    """A StageExecutor that can do some of a step before its hidden states are there."""

    def prepare(self, batch: Batch) -> Any:
        """What `forward` takes for this batch. From any thread."""
        ...

    def forward(
        self, batch: Batch, cache: KVCache, *, hidden: NDArray[np.float32] | None = None, prepared: Any = None
    ) -> NDArray[np.float32]:
        """As StageExecutor.forward; `prepared` is what `prepare` gave for the batch, or None."""
        ...

"""A decoder made of integers: its logits depend on every token before, through what lies in the cache.

Like a transformer of two layers it writes something for each token into the cache, reads what lies there for all
tokens up to it, and does so again with the result. A stale block, a swapped row, a wrong table or position gives
other tokens. The cache starts full of rubbish. `slow_logits` computes the same without cache, blocks or numpy.
"""

from __future__ import annotations

import codecs
import copy
import threading
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cutset.models.families.rope import plain_rope
from cutset.models.run.executor import Batch, KVCache
from cutset.models.spec import DecoderSpec

VOCAB = 300
EOS = 256
SPECIAL = 257
MASK = 2**64 - 1


def make_spec(*, vocab_size: int = VOCAB, max_positions: int = 512, eos: tuple[int, ...] = ()) -> DecoderSpec:
    return DecoderSpec(
        family="fake",
        vocab_size=vocab_size,
        hidden=1,
        layers=1,
        heads=1,
        kv_heads=1,
        head_dim=1,
        intermediate=1,
        norm_eps=1e-6,
        max_positions=max_positions,
        rope=plain_rope(1e4, 1),
        eos_token_ids=eos,
    )


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def slow_mix(x: int) -> int:
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow_logits(tokens: Sequence[int], vocab_size: int = VOCAB) -> NDArray[np.float32]:
    """Logits (vocab,) that follow these tokens, from nothing but the tokens."""
    first = [slow_mix(token * 1_000_003 + position * 7919 + 1) for position, token in enumerate(tokens)]
    second = [slow_mix(sum(first[: p + 1]) + p) for p in range(len(tokens))]
    state = sum(second)
    values = [slow_mix(state + v * 0x9E3779B97F4A7C15) >> 40 for v in range(vocab_size)]
    return np.array([value / 2**21 - 4 for value in values], dtype=np.float32)


class FakeCache:
    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        rubbish = np.random.default_rng(5).integers(0, 2**63, size=(2, blocks, block_size), dtype=np.uint64)
        self.first, self.second = rubbish
        self.nbytes = rubbish.nbytes

    def block(self, number: int) -> list[NDArray[np.uint8]]:
        return [part[number].view(np.uint8) for part in (self.first, self.second)]


class FakeExecutor:
    """Checks the batch as an executor may rely on it, then computes. Keeps the shapes of its batches in `log`."""

    def __init__(self, spec: DecoderSpec | None = None) -> None:
        self.spec = spec or make_spec()
        self.log: list[list[int]] = []  # rows of each sequence, for each step
        self.threads: set[int] = set()

    def new_cache(self, blocks: int, block_size: int, states: int | None = None, kv_dtype: str = "auto") -> FakeCache:
        return FakeCache(blocks, block_size)

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        assert isinstance(cache, FakeCache)
        self.threads.add(threading.get_ident())
        counts = np.diff(batch.row_starts)
        self.log.append(counts.tolist())
        self.check(batch, cache)
        states = np.empty(len(batch.token_ids), dtype=np.uint64)
        for i, context in enumerate(batch.context_lens.tolist()):
            start, end = int(batch.row_starts[i]), int(batch.row_starts[i + 1])
            where = np.arange(context)
            slots = (self.table(batch, i)[where // cache.block_size], where % cache.block_size)
            new = slice(context - (end - start), context)
            fresh = (slots[0][new], slots[1][new])
            token, position = (part[start:end].astype(np.uint64) for part in (batch.token_ids, batch.positions))
            cache.first[fresh] = mix(token * np.uint64(1_000_003) + position * np.uint64(7919) + np.uint64(1))
            sums = np.cumsum(cache.first[slots], dtype=np.uint64)[new]
            cache.second[fresh] = mix(sums + position)
            states[start:end] = np.cumsum(cache.second[slots], dtype=np.uint64)[new]
        wanted = states[batch.logit_rows][:, None]
        steps = np.arange(self.spec.vocab_size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return ((mix(wanted + steps) >> np.uint64(40)) / 2**21 - 4).astype(np.float32)

    def table(self, batch: Batch, i: int) -> NDArray[np.int32]:
        table: NDArray[np.int32] = batch.block_tables[i]
        return table

    def check(self, batch: Batch, cache: FakeCache) -> None:
        rows, sequences = len(batch.token_ids), len(batch.context_lens)
        for array in (batch.token_ids, batch.positions, batch.row_starts, batch.context_lens, batch.block_tables):
            assert array.dtype == np.int32
        assert batch.row_starts[0] == 0
        assert batch.row_starts[-1] == rows == len(batch.positions)
        assert len(batch.row_starts) == sequences + 1 == len(batch.limits) + 1 == len(batch.block_tables) + 1
        assert (np.diff(batch.row_starts) > 0).all()
        assert (batch.limits >= batch.context_lens).all()
        written: set[int] = set()
        for i, context in enumerate(batch.context_lens.tolist()):
            start, end = batch.row_starts[i], batch.row_starts[i + 1]
            assert batch.positions[start:end].tolist() == list(range(context - (end - start), context))
            used = -(-context // cache.block_size)
            table = batch.block_tables[i, :used].tolist()
            assert all(0 <= block < cache.blocks for block in table)
            assert len(set(table)) == used
            fresh = set(table[(context - (end - start)) // cache.block_size :])
            assert not fresh & written, "two sequences write to one block"
            written |= fresh


class ZerosExecutor(FakeExecutor):
    """The opponent that every equality must expose."""

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        return np.zeros_like(super().forward(batch, cache))


class SwappedExecutor(FakeExecutor):
    """Reads the table of the next sequence of the batch."""

    def table(self, batch: Batch, i: int) -> NDArray[np.int32]:
        table: NDArray[np.int32] = np.maximum(super().table(batch, (i + 1) % len(batch.block_tables)), 0)
        return table


class ForgetfulExecutor(FakeExecutor):
    """Sees a chunk of a prompt only, nothing before it."""

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        assert isinstance(cache, FakeCache)
        if len(batch.token_ids) > len(batch.context_lens):
            cache.first[:] = cache.second[:] = 0
        return super().forward(batch, cache)


class ByteTokenizer:
    """Ids 0..255 are bytes, 256 and 257 special, the rest pieces of text. Bytes that are no text become U+FFFD."""

    PIECES: tuple[str, ...] = (" the", "ab", "a", "b", "é", "😀", "stop", "\n\n", "END", " ", "ST", "OP", "日本", "x")

    def bytes_of(self, token_id: int) -> bytes:
        if token_id < 256:
            return bytes([token_id])
        if token_id in (EOS, SPECIAL):
            return f"<|{token_id}|>".encode()
        return self.PIECES[(token_id - 258) % len(self.PIECES)].encode()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        kept = [one for one in ids if not (skip_special_tokens and one in (EOS, SPECIAL))]
        return b"".join(self.bytes_of(one) for one in kept).decode("utf-8", "replace")

    special_texts: ClassVar[dict[int, str]] = {EOS: f"<|{EOS}|>", SPECIAL: f"<|{SPECIAL}|>"}

    def incremental(self, *, skip_special_tokens: bool = True) -> ByteDecoder:
        return ByteDecoder(self, skip_special_tokens)


class ByteDecoder:
    """The text of a ByteTokenizer's tokens while they come, by Python's own decoder."""

    def __init__(self, tokenizer: ByteTokenizer, skip_special_tokens: bool) -> None:
        self.tokenizer, self.skip = tokenizer, skip_special_tokens
        self.half = b""

    def push(self, ids: Iterable[int]) -> str:
        kept = [one for one in ids if not (self.skip and one in (EOS, SPECIAL))]
        data = self.half + b"".join(self.tokenizer.bytes_of(one) for one in kept)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self.half = data[used:]
        return text

    def so_far(self) -> str:
        return ""

    def rest(self) -> str:
        return self.half.decode("utf-8", "replace")

    def completes(self, token_id: int) -> bool:
        start = self.tokenizer.bytes_of(token_id)[:1]
        whole = self.half + start + b"\x80" * 3  # at least one of the ends is a character, if this is the start of one
        ends = [whole[:length] for length in range(len(self.half) + 1, 5)]
        return bool(self.half) and any(len(end.decode("utf-8", "ignore").encode()) == len(end) for end in ends)

    def copy(self) -> ByteDecoder:
        return copy.copy(self)

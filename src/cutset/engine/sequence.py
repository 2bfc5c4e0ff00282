"""One sequence of tokens on its way through the engine."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cutset.engine.blocks import child_digest

if TYPE_CHECKING:
    from cutset.engine.constraint import Constraint
    from cutset.engine.detokenizer import Detokenizer
    from cutset.engine.request import Request
    from cutset.engine.sampler import TokenSampler
    from cutset.engine.states import SequenceState

__all__ = ["Sequence", "Status"]


class Status(Enum):
    """WAITING → RUNNING → FINISHED; preemption leads from RUNNING back to WAITING."""

    WAITING = "waiting"  # holds no blocks
    RUNNING = "running"  # holds the blocks of all its known tokens but, at times, the last one
    FINISHED = "finished"  # holds no blocks


class Sequence:
    """A prompt and what has been generated for it: one of the n samples of a request.

    The invariant, in tokens:

        cached <= settled <= computed <= known <= limit

    `known` tokens have been given or sampled. `computed` of them have keys and values in the blocks of `table`, for
    every step that comes after: `settled` of these for certain, the others by steps that are on their way. `cached`
    were found there instead of computed. When all are computed, the next token is on its way, too. At `limit` the
    sequence ends.

    `epoch` counts how often it has given its blocks back: a step of an earlier one says nothing about it any more.
    """

    __slots__ = (
        "_digests",
        "_ids",
        "_table",
        "block_count",
        "cached",
        "computed",
        "constraint",
        "epoch",
        "index",
        "known",
        "limit",
        "prompt_tokens",
        "published",
        "request",
        "sampler",
        "settled",
        "state",
        "status",
        "text",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        prompt_ids: NDArray[np.int32],
        *,
        limit: int,
        root: bytes,  # root_digest of those it may share blocks with
        sampler: TokenSampler,
        text: Detokenizer,
        constraint: Constraint | None = None,  # where not every token may come next
    ) -> None:
        self.request = request
        self.index = index
        self.sampler = sampler
        self.text = text
        self.constraint = constraint
        self.prompt_tokens = len(prompt_ids)
        self.limit = limit
        self.status = Status.WAITING
        self.known = len(prompt_ids)
        self.computed = self.settled = 0
        self.cached = 0
        self.epoch = 0
        self.block_count = 0
        self.state: SequenceState | None = None  # while it runs, of a decoder that has such
        self.published = 0  # blocks from the start that were found, or have been published
        self._ids = np.empty(min(limit, self.known + 64), dtype=np.int32)
        self._ids[: self.known] = prompt_ids
        self._table = np.empty(0, dtype=np.int32)
        self._digests = [root]  # of the first 0, 1, 2, … full blocks, as far as they have been asked for

    @property
    def ids(self) -> NDArray[np.int32]:
        """(known,) a view of prompt and output."""
        return self._ids[: self.known]

    @property
    def table(self) -> NDArray[np.int32]:
        """(block_count,) a view of the numbers of its blocks."""
        return self._table[: self.block_count]

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""
        return self.known - self.prompt_tokens

    @property
    def uncomputed(self) -> int:
        """Known tokens that no step computes yet: 1 while it decodes, 0 while that one is on its way."""
        return self.known - self.computed

    @property
    def prefilling(self) -> bool:
        """Tokens before its last known one, or of its prompt, are still to be put into a step."""
        return self.computed < self._prefill_end

    @property
    def prefilled(self) -> bool:
        """These have been computed for certain."""
        return self.settled >= self._prefill_end

    @property
    def _prefill_end(self) -> int:
        return max(self.prompt_tokens, self.known - 1)

    @property
    def leads(self) -> bool:
        """It is the first of its request's samples, and computes the prompt for the others."""
        return self.request.sequences[:1] == [self]

    @property
    def scoring(self) -> bool:
        """Its rows say how likely the prompt's tokens are, and that isn't known of all: the first sample's do."""
        scores = self.request.scores
        return self.index == 0 and scores is not None and len(scores) < self.prompt_tokens - 1

    @property
    def reusable(self) -> int:
        """Tokens, from the first one on, that needn't be computed if their keys and values are there: at least one must
        be, for its logits, and all that are still to be scored."""
        request = self.request
        if self.scoring:
            return len(request.scores or ())
        if self.index == 0 and request.cached_tokens is None and request.params.skip_reading_prefix_cache:
            return 0  # but its own, if it has to begin again
        return self.known - 1

    def pooled(self, start: int, rows: int) -> range | None:
        """Which of so many tokens from `start` on give a hidden state for a vector; None: it is one that generates."""
        return None

    @property
    def age(self) -> tuple[int, int]:
        """Older sequences compare less."""
        return self.request.arrival, self.index

    def append(self, token_id: int) -> None:
        """A token has been sampled."""
        if self.known == len(self._ids):
            grown = np.empty(min(self.limit, 2 * self.known), dtype=np.int32)
            grown[: self.known] = self._ids
            self._ids = grown
        self._ids[self.known] = token_id
        self.known += 1

    def hold(self, blocks: list[int]) -> None:
        """Appends blocks to its table."""
        count = self.block_count + len(blocks)
        if count > len(self._table):
            grown = np.empty(max(count, 2 * len(self._table)), dtype=np.int32)
            grown[: self.block_count] = self.table
            self._table = grown
        self._table[self.block_count : count] = blocks
        self.block_count = count

    def shorten(self, count: int) -> list[int]:
        """Takes all blocks but the first `count` out of its table; they are the caller's to release."""
        blocks: list[int] = self.table[count:].tolist()
        self.block_count = min(self.block_count, count)
        return blocks

    def drop(self) -> list[int]:
        """Empties its table and forgets what was computed; the blocks are the caller's to release."""
        blocks: list[int] = self.table.tolist()
        self.block_count = self.computed = self.settled = self.cached = self.published = 0
        self.epoch += 1
        return blocks

    def block_tokens(self, block: int, size: int) -> bytes:
        """The ids in its block number `block`, which is full, as little-endian int32."""
        return self._ids[block * size : (block + 1) * size].astype("<i4", copy=False).tobytes()

    def digest(self, block: int, size: int) -> bytes:
        """The digest of all tokens up to the end of block number `block`. `size` is the same at every call."""
        while len(self._digests) <= block + 1:
            done = len(self._digests) - 1
            self._digests.append(child_digest(self._digests[done], self.block_tokens(done, size)))
        return self._digests[block + 1]

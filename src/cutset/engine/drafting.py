"""Where drafts come from: guesses of how a sequence goes on, by its own text or by a small model.

A draft is never believed. A step computes it behind the tokens that are there, and it is kept if it is the token that
is drawn: see `speculation`. So a drafter may be wrong, but should be quick.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cutset.engine.sequence import Sequence
from cutset.errors import ConfigError
from cutset.models.run.executor import Batch, Executor, KVCache

__all__ = ["Drafter", "ModelDrafter", "NgramDrafter"]

LEAST, LONGEST = 3, 32  # tokens of a match: to be one, and beyond which a longer one isn't a better one
CANDIDATES = 8  # places that are compared
CHUNK = 512  # rows of a pass of a draft model
CAUGHT_UP = 16  # new rows of a sequence: with more, a pass isn't what drafting costs


class Drafter(ABC):
    """Drafts tokens of sequences that decode. One thread uses it, the engine's."""

    cost = 0.0  # seconds that each further token takes, for all sequences together

    def ready(self, sequence: Sequence) -> bool:
        """Whether there may be drafts for this sequence, found out at next to no cost."""
        return True

    @abstractmethod
    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """What may follow each sequence, at most so many tokens; those for which there is nothing are left out.

        Each has blocks for its tokens and for as many more.
        """

    def forget(self, sequence: Sequence) -> None:  # noqa: B027 (most have nothing to forget)
        """The sequence has ended."""


class _Index:
    """The tokens of a sequence: where each n-gram was last, and for each place where the same n-gram was before."""

    __slots__ = ("_last", "before", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.before: list[int] = []  # a place is that of an n-gram's last token; -1: it wasn't there before
        self._last: dict[tuple[int, ...], int] = {}

    def extend(self, ids: NDArray[np.int32]) -> None:
        """Takes in what is new in all tokens."""
        start = len(self.tokens)
        self.tokens += ids[start:].tolist()
        for end in range(start, len(self.tokens)):
            gram = tuple(self.tokens[end - LEAST + 1 : end + 1]) if end >= LEAST - 1 else (-1, end)
            self.before.append(self._last.get(gram, -1))
            self._last[gram] = end

    def longest(self) -> int:
        """Where the longest end of the tokens was before, at the latest place of those that are looked at; or -1."""
        tokens, last = self.tokens, len(self.tokens) - 1
        place, best, found = self.before[last], 0, -1
        for _ in range(CANDIDATES):
            if place < 0 or best >= LONGEST:
                break
            size = LEAST
            while size < LONGEST and size <= place and tokens[place - size] == tokens[last - size]:
                size += 1
            if size > best:
                best, found = size, place
            place = self.before[place]
        return found


class NgramDrafter(Drafter):
    """What followed, earlier in prompt or answer, where the text was as it is now: the longest match, the latest first.

    A token costs a look into an index and a few comparisons, however long the sequence is.
    """

    def __init__(self) -> None:
        self._indexes: dict[Sequence, _Index] = {}

    def ready(self, sequence: Sequence) -> bool:
        """See Drafter."""
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = _Index()
        index.extend(sequence.ids)
        return index.before[-1] >= 0

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Drafter."""
        found = ((sequence, self._continued(sequence, count)) for sequence, count in wanted.items())
        return {sequence: tokens for sequence, tokens in found if tokens}

    def forget(self, sequence: Sequence) -> None:
        """See Drafter."""
        self._indexes.pop(sequence, None)

    def _continued(self, sequence: Sequence, count: int) -> list[int]:
        if not self.ready(sequence):
            return []
        index = self._indexes[sequence]
        place, tokens = index.longest(), index.tokens
        after, period = tokens[place + 1 : place + 1 + count], len(tokens) - 1 - place
        while len(after) < count:  # the text has begun to repeat itself
            after.append(after[-period])
        return after


_Part = tuple[Sequence, NDArray[np.int32], int]  # a sequence, tokens of it, and the place of the first


class _Followed:
    """How far a draft model's cache has got with a sequence."""

    __slots__ = ("drafted", "epoch", "known")

    def __init__(self) -> None:
        self.epoch = -1
        self.known = 0  # tokens of the sequence whose keys and values are there
        self.drafted: list[int] = []  # those that it drafted behind these, and has keys and values of, too


class ModelDrafter(Drafter):
    """A smaller model of the same vocabulary. It draws as the request would, by the same seed and position.

    Its cache has as many blocks as the engine's, and a sequence has the same ones in both. Blocks that sequences share
    are written by each of them, with the same contents.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        blocks: int,  # as the engine's
        block_size: int,
        vocab_size: int,  # of the model that is drafted for
        masked: NDArray[np.int32] | None = None,  # ids for which there is no token
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        spec = executor.spec
        if spec.recurrent_layers:
            raise ConfigError(f"a model of family {spec.family} can't draft: its states can't be taken back")
        self.executor = executor
        self._cache: KVCache = executor.new_cache(blocks, block_size)
        self._vocab, self._masked, self._clock = vocab_size, masked, clock
        self._followed: dict[Sequence, _Followed] = {}

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Drafter."""
        longest = self.executor.spec.longest
        wanted = {one: min(count, longest - one.known) for one, count in wanted.items() if one.known < longest}
        drafts: dict[Sequence, list[int]] = {one: [] for one in wanted}
        samplers = {one: one.sampler.ahead() for one in wanted}
        constraints = {one: one.constraint.copy() for one in wanted if one.constraint is not None}
        if not wanted:
            return {}
        started = self._clock()
        rows, logits = self._follow(list(wanted))
        passes = 1
        if rows > CAUGHT_UP * len(wanted):
            started, passes = self._clock(), 0
        for place in range(max(wanted.values())):
            going = [one for one, made in drafts.items() if len(made) == place and wanted[one] > place]
            if not going:
                break
            if place:
                logits = self._pass(
                    [(one, np.array(drafts[one][-1:], np.int32), one.known + place - 1) for one in going]
                )
                passes += 1
            for sequence, row in zip(going, logits, strict=True):
                constraint, known, mask = constraints.get(sequence), sequence.known + place, None
                if constraint is not None:
                    masks = constraint.rows(known)
                    if constraint.ended or not masks:
                        continue
                    mask = masks[0]
                token = samplers[sequence].draw(row, known, mask)
                if token is not None:
                    drafts[sequence].append(token)
                    samplers[sequence].observe(token)
                    if constraint is not None:
                        constraint.observe(token)
        if passes:
            took = (self._clock() - started) / passes
            self.cost += (took - self.cost) / (8 if self.cost else 1)
        for sequence, made in drafts.items():
            self._followed[sequence].drafted = made[:-1]
        return {one: made for one, made in drafts.items() if made}

    def forget(self, sequence: Sequence) -> None:
        """See Drafter."""
        self._followed.pop(sequence, None)

    def _follow(self, sequences: list[Sequence]) -> tuple[int, NDArray[np.float32]]:
        """Computes what is new in these sequences: how many rows, and logits (sequences, vocab) behind them."""
        rows = 0
        for sequence in sequences:
            at = self._followed.setdefault(sequence, _Followed())
            if at.epoch != sequence.epoch:  # it has other blocks
                at.epoch, at.known, at.drafted = sequence.epoch, 0, []
            for token in at.drafted:
                if at.known >= sequence.known - 1 or token != sequence.ids[at.known]:
                    break
                at.known += 1
            at.known, at.drafted = min(at.known, sequence.known - 1), []
            rows += sequence.known - at.known
        last: dict[Sequence, NDArray[np.float32]] = {}
        left = list(sequences)
        while left:
            parts: list[_Part] = []
            room = CHUNK
            for sequence in left:
                at = self._followed[sequence]
                tokens = sequence.ids[at.known : at.known + room]
                if len(tokens):
                    parts.append((sequence, tokens, at.known))
                    room -= len(tokens)
            logits = self._pass(parts)
            for (sequence, tokens, _), row in zip(parts, logits, strict=True):
                self._followed[sequence].known += len(tokens)
                last[sequence] = row
            left = [one for one in left if self._followed[one].known < one.known]
        return rows, np.array([last[one] for one in sequences])

    def _pass(self, parts: list[_Part]) -> NDArray[np.float32]:
        """Runs tokens of sequences, each from a place on; logits (parts, vocab) behind the last of each."""
        ends = np.cumsum([0] + [len(tokens) for _, tokens, _ in parts]).astype(np.int32)
        tables = np.full((len(parts), max(one.block_count for one, _, _ in parts)), -1, dtype=np.int32)
        for i, (sequence, _, _) in enumerate(parts):
            tables[i, : sequence.block_count] = sequence.table
        batch = Batch(
            token_ids=np.concatenate([tokens for _, tokens, _ in parts]).astype(np.int32),
            positions=np.concatenate([np.arange(at, at + len(t), dtype=np.int32) for _, t, at in parts]),
            row_starts=ends,
            context_lens=np.array([at + len(tokens) for _, tokens, at in parts], dtype=np.int32),
            block_tables=tables,
            logit_rows=ends[1:] - 1,
            limits=np.full(len(parts), self.executor.spec.longest, dtype=np.int32),
        )
        return self._within(self.executor.forward(batch, self._cache))

    def _within(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (rows, vocab) of the other model's vocabulary."""
        found = np.full((len(logits), self._vocab), -np.inf, dtype=np.float32)
        size = min(self._vocab, logits.shape[1])
        found[:, :size] = logits[:, :size]
        if self._masked is not None:
            found[:, self._masked] = -np.inf
        return found

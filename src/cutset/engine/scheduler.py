"""Which sequences move in a step, by how many tokens, in which blocks: continuous batching."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from cutset.engine.blocks import BlockPool
from cutset.engine.sequence import Sequence, Status
from cutset.engine.step import Step, make_step

__all__ = ["Scheduler"]


class Scheduler:
    """First come, first served, within a budget of tokens a step.

    Sequences that decode come first, then prompts that have been begun, then waiting ones; a long prompt is computed
    in chunks. A waiting sequence starts when there are blocks for all of its known tokens. One that decodes and finds
    no block preempts the youngest: that one gives back its blocks and computes them again later.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_batch_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        prefix_caching: bool,
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.prefix_caching = prefix_caching
        self.running: dict[Sequence, None] = {}  # a dict for its order and O(1) removal
        self.waiting: OrderedDict[Sequence, None] = OrderedDict()
        self.preemptions = 0
        self.prefix_queries = 0  # prompt tokens that were looked up, or would have been
        self.prefix_hits = 0  # of these, tokens found

    def add(self, sequences: list[Sequence]) -> None:
        """Queues the samples of a request. With prefix caching, all but the first wait for its prompt, to share it."""
        for sequence in sequences[:1] if self.prefix_caching else sequences:
            self.waiting[sequence] = None

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever it does. Its blocks are free at once."""
        self.running.pop(sequence, None)
        self.waiting.pop(sequence, None)
        sequence.status = Status.FINISHED
        self.pool.release(sequence.drop())

    def schedule(self) -> Step | None:
        """The next step, or None if there is nothing to do."""
        rows: dict[Sequence, int] = {}
        self._decodes(rows)
        self._prompts(rows, self.running)
        self._admit(rows, self.waiting)
        return make_step(rows, self.max_model_len)

    def prefilling(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of these sequences that wait, or whose prompts are not yet computed."""
        return [one for one in sequences if one in self.waiting or (one in self.running and one.prefilling)]

    def schedule_prefill(self, sequences: list[Sequence]) -> Step | None:
        """A step with rows of the prompts of these sequences only, or None if there is no room or nothing to do."""
        rows: dict[Sequence, int] = {}
        self._prompts(rows, [sequence for sequence in sequences if sequence in self.running])
        self._admit(rows, [sequence for sequence in sequences if sequence in self.waiting])
        return make_step(rows, self.max_model_len)

    def schedule_decode(self) -> Step | None:
        """A step with one row of each sequence whose prompt has been computed, or None if there is none."""
        rows: dict[Sequence, int] = {}
        self._decodes(rows)
        return make_step(rows, self.max_model_len)

    def advance(self, step: Step) -> None:
        """The rows of this step have been computed: their full blocks can be found from now on."""
        for sequence, rows in zip(step.sequences, step.rows, strict=True):
            before = sequence.computed
            sequence.computed = before + rows
            if not self.prefix_caching:
                continue
            size = self.block_size
            while (block := sequence.published) < sequence.computed // size:
                digest = sequence.digest(block, size)
                self.pool.publish(int(sequence.table[block]), digest, sequence.block_tokens(block, size))
                sequence.published += 1
            if sequence.index == 0 and before < sequence.prompt_tokens <= sequence.computed:
                self._admit_siblings(sequence)

    def _admit_siblings(self, first: Sequence) -> None:
        for sibling in reversed(first.request.sequences[1:]):
            # The first sample may come here again after a preemption.
            if sibling.status is Status.WAITING and sibling not in self.waiting:
                self.waiting[sibling] = None
                self.waiting.move_to_end(sibling, last=False)  # they came before all that wait

    def _decodes(self, rows: dict[Sequence, int]) -> None:
        """One row for each running sequence with one token to compute."""
        for sequence in list(self.running):
            if sequence.uncomputed != 1 or sequence.status is not Status.RUNNING:
                continue
            if sequence.computed < sequence.block_count * self.block_size or self._grow(sequence, rows):
                rows[sequence] = 1

    def _grow(self, sequence: Sequence, rows: dict[Sequence, int]) -> bool:
        """One block more. False if the sequence was itself the youngest and has been preempted."""
        while not self.pool.free:
            youngest = max(self.running, key=lambda one: one.age)
            rows.pop(youngest, None)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        sequence.hold(self.pool.allocate(1))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.pool.release(sequence.drop())
        del self.running[sequence]
        sequence.status = Status.WAITING
        self.waiting[sequence] = None
        self.waiting.move_to_end(sequence, last=False)

    def _prompts(self, rows: dict[Sequence, int], sequences: Iterable[Sequence]) -> None:
        budget = self.max_batch_tokens - sum(rows.values())
        for sequence in sequences:
            if budget and sequence not in rows and sequence.prefilling:
                rows[sequence] = min(sequence.uncomputed, budget)
                budget -= rows[sequence]

    def _admit(self, rows: dict[Sequence, int], sequences: Iterable[Sequence]) -> None:
        budget = self.max_batch_tokens - sum(rows.values())
        for sequence in list(islice(sequences, self.max_num_seqs - len(self.running))):
            if not budget or not self._start(sequence):
                return  # those behind it wait too, or a long prompt would wait for ever
            rows[sequence] = min(sequence.uncomputed, budget)
            budget -= rows[sequence]

    def _start(self, sequence: Sequence) -> bool:
        """Blocks for all known tokens of a waiting sequence, found or new. False if there are too few."""
        found = self._cached_blocks(sequence) if self.prefix_caching else []
        new = -(-sequence.known // self.block_size) - len(found)
        free = self.pool.free - sum(self.pool.is_free(block) for block in found)
        # Each running sequence keeps a block to grow into, or this one would soon be preempted. One that has just been
        # preempted doesn't come back in the same step: it gave up fewer free blocks than it needs.
        if new + len(self.running) > free and (self.running or new > free):
            return False
        self.pool.share(found)
        sequence.hold(found + self.pool.allocate(new))
        sequence.published = len(found)
        sequence.computed = sequence.cached = len(found) * self.block_size
        if sequence.request.cached_tokens is None:  # what it finds after a preemption is its own
            sequence.request.cached_tokens = sequence.cached
            self.prefix_queries += sequence.known
            self.prefix_hits += sequence.cached
        sequence.status = Status.RUNNING
        self.running[sequence] = None
        del self.waiting[sequence]
        return True

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        found: list[int] = []
        for block in range((sequence.known - 1) // self.block_size):  # one token at least is left to compute
            digest, tokens = sequence.digest(block, self.block_size), sequence.block_tokens(block, self.block_size)
            match = self.pool.find(digest, tokens)
            if match is None:
                break
            found.append(match)
        return found

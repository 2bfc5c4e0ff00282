"""Which sequences move in a step, by how many tokens, in which blocks: continuous batching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cutset.engine.blocks import BlockPool
from cutset.engine.prefix_store import StoredBlocks
from cutset.engine.sequence import Sequence, Status
from cutset.engine.speculation import Speculation
from cutset.engine.stage_blocks import BlocksResult, StagedBlocks, StoredBlock
from cutset.engine.states import StatePool
from cutset.engine.step import NONE, Step, make_step
from cutset.engine.waiting_line import WaitingLine

__all__ = ["Scheduler"]

LEAST_ROWS = 128  # of a step, where there are that many: a matrix that is read for fewer costs more than they bring
LAST_ROWS = 64  # of a prompt's last step, about, where several are on their way: all stages but the last wait for it
MOST_SCORED = 2**31 - 1  # rows
AT_ONCE = 8  # blocks that are read from a store together
RESTORED_BYTES = 16 << 20  # read from a store between two steps: some 10 ms, in which nobody gets a token


class Scheduler:
    """First come, first served, within a budget of tokens a step.

    Sequences that decode come first, then prompts that have been begun, then waiting ones; a long prompt is computed
    in chunks. A waiting sequence starts when there are blocks for all of its known tokens. One that decodes and finds
    no block preempts the youngest: that one gives back its blocks and computes them again later. Sequences in the
    background start when no other waits, and are preempted when one does and finds no place.

    Where the decoder has states of sequences (`states`), a prefix is used again up to the last checkpoint in it. Two
    are made on the way through a prompt: at the end of its last full block, for the same prompt with more behind it,
    and where its blocks ceased to be those of another prompt, for the next one that begins as both do.

    Several steps may be on their way at once (`groups`), each of which may count on those before it: chunks of a prompt
    follow each other, and sequences that decode are shared out among steps. A sequence that gives its blocks back while
    a step with it is on its way needn't wait for that: whoever gets the blocks comes after it.

    What isn't found in the cache may be in a store on disk (`stored`). A sequence that has just got its blocks reads
    them there, some between each two steps, and takes part in none until the first that is missing. Stages elsewhere
    are asked to read theirs, and answer later.
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
        states: StatePool | None = None,
        stored: StoredBlocks | StagedBlocks | None = None,
        speculation: Speculation | None = None,
        most_scored: int = MOST_SCORED,
    ) -> None:
        self.pool = pool
        self.states = states
        self.stored = stored
        self.speculation = speculation
        self.most_scored = most_scored  # rows of a step that score a prompt's tokens: each has logits
        self._restoring: dict[Sequence, bool] = {}  # those that read there, and whether their tokens count as found
        self._asked: set[Sequence] = set()  # of these, those for which stages were asked
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.prefix_caching = prefix_caching
        self.running: dict[Sequence, None] = {}  # a dict for its order and O(1) removal
        self.waiting = WaitingLine()
        self.groups = 1  # steps that may be on their way; see `share_out`
        self._budget = max_batch_tokens  # rows of a step
        self.preemptions = 0
        self.prefix_queries = 0  # prompt tokens that were looked up, or would have been
        self.prefix_hits = 0  # of these, tokens found
        self.stored_hits = 0  # of these, in the store

    def add(self, sequences: list[Sequence]) -> None:
        """Queues the samples of a request. With prefix caching, all but the first wait for its prompt, to share it, and
        so they do for its scores: nobody gets a token before these."""
        for sequence in sequences[:1] if self.prefix_caching or sequences[0].scoring else sequences:
            self.waiting.put(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever it does. Its blocks are free at once."""
        self.running.pop(sequence, None)
        self.waiting.discard(sequence)
        sequence.status = Status.FINISHED
        self._release(sequence)
        if self.speculation is not None:
            self.speculation.forget(sequence)

    def share_out(self, groups: int) -> None:
        """That many steps may be on their way from now on. Where there are several, smaller ones fill stages sooner."""
        self.groups, most = max(groups, 1), self.max_batch_tokens
        self._budget = most if groups <= 1 else max(-(-most // groups), min(LEAST_ROWS, most))

    def lose(self, beside: Scheduler) -> None:
        """The cache has lost all that it held, also for who is `beside`. Running sequences wait again, and will be
        computed from their tokens."""
        for one in (self, beside):
            for sequence in sorted(one.running, key=lambda each: each.age, reverse=True):
                one._requeue(sequence)
        if isinstance(self.stored, StagedBlocks):
            self.stored.lose()
        self.pool.forget()
        if self.states is not None:
            self.states.forget()

    def schedule(self) -> Step | None:
        """The next step, or None if there is nothing to do."""
        rows: dict[Sequence, int] = {}
        self._decodes(rows, self._share())
        decodes = list(rows)
        self._fill(rows)
        if self._restoring:
            self._restore(RESTORED_BYTES)
            self._prompts(rows, self.running)
        decoding = [sequence for sequence in decodes if sequence in rows]
        if self.speculation is not None and rows and (len(rows) == len(decoding) or self.speculation.constant):
            return self._drafted(rows, decoding)  # beside rows of prompts none is nearly free
        return self._step(rows)

    def prefilling(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of these sequences that wait, or whose prompts are not yet computed."""
        return [one for one in sequences if one in self.waiting or (one in self.running and not one.prefilled)]

    def schedule_prefill(self, sequences: list[Sequence]) -> Step | None:
        """A step with rows of the prompts of these sequences only, or None if there is no room or nothing to do."""
        rows: dict[Sequence, int] = {}
        self._fill(rows, sequences)
        if self._restoring:
            self._restore()
            self._prompts(rows, [sequence for sequence in sequences if sequence in self.running])
        return self._step(rows)

    def schedule_decode(self) -> Step | None:
        """A step with one row of each sequence whose prompt has been computed, or None if there is none."""
        rows: dict[Sequence, int] = {}
        self._decodes(rows, len(self.running))
        return self._step(rows)

    def _share(self) -> int:
        """Of the sequences that decode, as many as a step takes if all steps are to be alike."""
        if self.groups == 1:
            return len(self.running)
        decoding = sum(one.known - one.settled == 1 for one in self.running)
        return -(-decoding // self.groups)

    def _drafted(self, rows: dict[Sequence, int], decoding: list[Sequence]) -> Step | None:
        """A step with drafts, where there are blocks for them beside those that sequences will soon need."""
        assert self.speculation is not None
        wanted = self.speculation.wanted(decoding, self._budget - sum(rows.values()))
        if not wanted:
            return self._step(rows)
        for sequence, count in list(wanted.items()):
            needed = -(-(sequence.known + count) // self.block_size) - sequence.block_count
            if needed > 0 and self.pool.free >= needed + len(self.running):
                sequence.hold(self.pool.allocate(needed))
            wanted[sequence] = min(count, sequence.block_count * self.block_size - sequence.known)
        wanted = {sequence: count for sequence, count in wanted.items() if count > 0}
        return self._step(rows, self.speculation.draft(wanted, sum(rows.values())))

    def _step(self, rows: dict[Sequence, int], drafts: Mapping[Sequence, list[int]] = NONE) -> Step | None:
        if self.states is not None:
            for sequence, count in rows.items():
                assert sequence.state is not None
                self.states.plan(sequence.state, sequence.computed, sequence.computed + count)
            drafts = {one: drafts[one][: self._room_ahead(one, len(drafts[one]))] for one in drafts}
            drafts = {one: tokens for one, tokens in drafts.items() if tokens}
        step = make_step(rows, self.max_model_len, drafts)
        for sequence, count in rows.items():
            sequence.computed += count
            if self.states is not None and step is not None and sequence.state is not None:
                step.saves.append(self.states.take(sequence.state))
        return step

    def _room_ahead(self, sequence: Sequence, drafts: int) -> int:
        """Of so many drafts, those that its state can be taken back from."""
        assert self.states is not None
        assert sequence.state is not None
        return self.states.plan_ahead(sequence.state, sequence.known, drafts)

    def advance(self, step: Step) -> None:
        """The rows of this step have been computed: their full blocks can be found from now on."""
        for place, (sequence, rows, epoch) in enumerate(zip(step.sequences, step.rows, step.epochs, strict=True)):
            saves = step.saves[place] if step.saves else []
            if sequence.epoch != epoch:
                if self.states is not None:
                    self.states.give_up(saves)
                continue
            before = sequence.settled
            sequence.settled = before + rows
            if self.states is not None:
                self.states.advance(saves, {tokens: self._digest(sequence, tokens) for tokens, _ in saves})
            if self.prefix_caching:
                self._publish(sequence)
            begins = before < sequence.prompt_tokens or before == sequence.cached  # a resumed one may find all of it
            if begins and sequence.prompt_tokens <= sequence.settled and sequence.leads:
                self._admit_siblings(sequence)

    def accept(self, sequence: Sequence) -> None:
        """The draft behind its computed tokens was right and is known now: what was computed for it counts."""
        sequence.computed += 1
        sequence.settled += 1
        if self.prefix_caching:
            self._publish(sequence)

    def go_back(self, sequence: Sequence) -> None:
        """A step of it had drafts, of which those were right that were accepted: its state is that behind them."""
        if self.states is not None and sequence.state is not None:
            self.states.go_back(sequence.state, sequence.computed)

    def _publish(self, sequence: Sequence) -> None:
        size = self.block_size
        while (block := sequence.published) < sequence.settled // size:
            digest = sequence.digest(block, size)
            tokens = sequence.block_tokens(block, size)
            self.pool.publish(int(sequence.table[block]), digest, tokens)
            if self.stored is not None:
                self.stored.write(int(sequence.table[block]), digest, tokens)
            sequence.published += 1

    def give_up(self, step: Step) -> None:
        """This step has failed. Whether its rows are in the cache is unknown; the caller ends its sequences."""
        if self.states is not None:
            for saves in step.saves:
                self.states.give_up(saves)

    def _admit_siblings(self, first: Sequence) -> None:
        for sibling in reversed(first.request.sequences[1:]):
            # The first sample may come here again after a preemption.
            if sibling.status is Status.WAITING and sibling not in self.waiting:
                self.waiting.put(sibling, first=True)  # they came before all that wait

    def _decodes(self, rows: dict[Sequence, int], most: int) -> None:
        """One row for each of at most `most` running sequences with one token to compute."""
        ready = [sequence for sequence in self.running if sequence.uncomputed == 1]
        for sequence in ready[:most]:  # all steps together take all, so those left behind are soon in another
            if sequence.status is not Status.RUNNING:
                continue  # it has just been preempted
            if sequence.computed < sequence.block_count * self.block_size or self._grow(sequence, rows):
                rows[sequence] = 1

    def _grow(self, sequence: Sequence, rows: dict[Sequence, int]) -> bool:
        """One block more. False if the sequence was itself the youngest and has been preempted."""
        if not self.pool.free and self.speculation is not None:
            self._take_back()
        while not self.pool.free:
            youngest = max(self.running, key=lambda one: (one.request.background, one.age))
            rows.pop(youngest, None)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        sequence.hold(self.pool.allocate(1))
        return True

    def _take_back(self) -> None:
        """Frees blocks that were held for drafts: nobody is preempted for those."""
        for sequence in self.running:
            if sequence.uncomputed:  # it is in no step, and so has no drafts
                self.pool.release(sequence.shorten(-(-sequence.known // self.block_size)))

    def _release(self, sequence: Sequence) -> None:
        self._restoring.pop(sequence, None)
        self._asked.discard(sequence)
        self.pool.release(sequence.drop())
        if self.states is not None and sequence.state is not None:
            self.states.end(sequence.state)
            sequence.state = None

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        self._release(sequence)
        if (history := sequence.sampler.history) is not None:
            history.renew()
        del self.running[sequence]
        sequence.status = Status.WAITING
        self.waiting.put(sequence, first=True)

    def _fill(self, rows: dict[Sequence, int], among: list[Sequence] | None = None) -> None:
        """Rows of prompts: of those that have been begun, then of those that wait; what is in the background comes
        after all that isn't, and makes way for it. `among`: of these alone."""
        running = list(self.running) if among is None else among
        for background in (False, True):
            begun = [one for one in running if one in self.running and one.request.background is background]
            self._prompts(rows, begun)
            self._admit(rows, background, among)
            while not background and self._make_way(rows, among):
                self._admit(rows, background, among)

    def _make_way(self, rows: dict[Sequence, int], among: list[Sequence] | None) -> bool:
        """Preempts the youngest in the background, where another waits for its place; whether there was one."""
        if sum(rows.values()) >= self._budget or not self.waiting.next(1, background=False, among=among):
            return False
        behind = [one for one in self.running if one.request.background]
        if not behind:
            return False
        youngest = max(behind, key=lambda one: one.age)
        rows.pop(youngest, None)
        self._preempt(youngest)
        return True

    def _prompts(self, rows: dict[Sequence, int], sequences: Iterable[Sequence]) -> None:
        budget = self._budget - sum(rows.values())
        for sequence in sequences:
            if budget and sequence not in rows and sequence.prefilling and sequence not in self._restoring:
                budget -= self._take(sequence, rows, budget)

    def _take(self, sequence: Sequence, rows: dict[Sequence, int], budget: int) -> int:
        """Puts rows of a prompt into a step, at most `budget`; how many."""
        count = min(sequence.uncomputed, budget)
        if self.groups > 1 and count == sequence.uncomputed >= 2 * LAST_ROWS:
            count = -(-count // 2)
        if sequence.scoring:
            count = min(count, self.most_scored - sum(rows[one] for one in rows if one.scoring))
        if count > 0:
            rows[sequence] = count
        return max(count, 0)

    def _admit(self, rows: dict[Sequence, int], background: bool, among: list[Sequence] | None) -> None:
        budget = self._budget - sum(rows.values())
        for sequence in self.waiting.next(self.max_num_seqs - len(self.running), background=background, among=among):
            if not budget or not self._start(sequence):
                return  # those behind it wait too, or a long prompt would wait for ever
            if sequence in self._restoring:
                continue
            budget -= self._take(sequence, rows, budget)

    def _start(self, sequence: Sequence) -> bool:
        """Blocks for all known tokens of a waiting sequence, found or new. False if there are too few."""
        found = self._cached_blocks(sequence) if self.prefix_caching else []
        marks = [len(found), (sequence.known - 1) // self.block_size] if self.prefix_caching else []
        if self.states is not None:
            found = self._with_state(sequence, found)
        new = -(-sequence.known // self.block_size) - len(found)
        free = self.pool.free - sum(self.pool.is_free(block) for block in found)
        # Each running sequence keeps a block to grow into, or this one would soon be preempted. One that has just been
        # preempted doesn't come back in the same step: it gave up fewer free blocks than it needs.
        if new + len(self.running) > free and (self.running or new > free):
            return False
        if self.states is not None and not self.states.free:
            return False
        self.pool.share(found)
        sequence.hold(found + self.pool.allocate(new))
        sequence.published = len(found)
        sequence.computed = sequence.settled = sequence.cached = len(found) * self.block_size
        counts = False
        if sequence.request.cached_tokens is None:  # what it finds after a preemption is its own
            sequence.request.cached_tokens = sequence.cached
            self.prefix_queries += sequence.known
            self.prefix_hits += sequence.cached
            counts = True
        if self.stored is not None and sequence.cached < sequence.reusable // self.block_size * self.block_size:
            self._restoring[sequence] = counts
        if self.states is not None:
            wanted = sorted({mark * self.block_size for mark in marks if mark > len(found)})
            sequence.state = self.states.start(self._digest(sequence, sequence.cached) if found else None, wanted)
        sequence.status = Status.RUNNING
        self.running[sequence] = None
        self.waiting.discard(sequence)
        return True

    def _restore(self, most: int | None = None) -> None:
        """Reads blocks of sequences that have just got them, about `most` bytes; None: all that are there."""
        if isinstance(self.stored, StagedBlocks):
            self._ask(self.stored)
            return
        size, done = self.block_size, 0
        while self._restoring and (most is None or done < most):
            sequence, counts = next(iter(self._restoring.items()))
            last = sequence.reusable // size
            wanted = self._blocks(sequence, min(last, sequence.published + AT_ONCE))
            assert self.stored is not None
            read = self.stored.read(wanted)
            found = read[: read.index(0)] if 0 in read else read
            for count in found:
                done += count
                self._found(sequence, counts)
            if len(found) < len(read) or sequence.published == last:
                del self._restoring[sequence]

    def _blocks(self, sequence: Sequence, last: int) -> list[StoredBlock]:
        """Those of a sequence that aren't computed, before number `last`."""
        size = self.block_size
        return [
            StoredBlock(int(sequence.table[i]), sequence.digest(i, size), sequence.block_tokens(i, size))
            for i in range(sequence.published, last)
        ]

    def _found(self, sequence: Sequence, counts: bool) -> None:
        """The next block of a sequence has been read."""
        block, size = sequence.published, self.block_size
        self.pool.publish(int(sequence.table[block]), sequence.digest(block, size), sequence.block_tokens(block, size))
        sequence.published += 1
        sequence.computed += size
        sequence.settled += size
        sequence.cached += size
        if counts and sequence.request.cached_tokens is not None:
            sequence.request.cached_tokens += size
            self.prefix_hits += size
            self.stored_hits += size

    def _ask(self, staged: StagedBlocks) -> None:
        """Has stages asked for the next blocks of those that read."""
        if staged.kept is False:
            self._restoring.clear()
        for sequence in self._restoring:
            if sequence in self._asked:
                continue
            self._asked.add(sequence)
            last = min(sequence.reusable // self.block_size, sequence.published + staged.most_fill)
            staged.ask(sequence, self._blocks(sequence, last))

    def restored(self, result: BlocksResult) -> None:
        """Stages have answered."""
        assert isinstance(self.stored, StagedBlocks)
        for sequence, epoch, wanted, found in self.stored.came(result):
            if sequence.epoch != epoch or sequence not in self._restoring:
                continue  # it has given its blocks back meanwhile
            self._asked.discard(sequence)
            for _ in range(found):
                self._found(sequence, self._restoring[sequence])
            if found < len(wanted) or sequence.published == sequence.reusable // self.block_size:
                del self._restoring[sequence]

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        found: list[int] = []
        for block in range(sequence.reusable // self.block_size):
            digest, tokens = sequence.digest(block, self.block_size), sequence.block_tokens(block, self.block_size)
            match = self.pool.find(digest, tokens)
            if match is None:
                break
            found.append(match)
        return found

    def _digest(self, sequence: Sequence, tokens: int) -> bytes:
        """That of the first `tokens` tokens, which are full blocks."""
        return sequence.digest(tokens // self.block_size - 1, self.block_size)

    def _with_state(self, sequence: Sequence, found: list[int]) -> list[int]:
        """Those of the found blocks up to the last one whose end has a checkpoint."""
        assert self.states is not None
        while found and not self.states.has(self._digest(sequence, len(found) * self.block_size)):
            found = found[:-1]
        return found

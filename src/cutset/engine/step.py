"""One step as arrays: what the scheduler has decided, laid out for the executor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cutset.engine.request import Request
from cutset.engine.sequence import Sequence
from cutset.engine.states import Saves
from cutset.models.run.executor import Batch, States

__all__ = ["Step", "make_step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step."""

    sequences: list[Sequence]
    rows: list[int]  # tokens of each that are computed
    starts: list[int]  # tokens of each that come before these
    epochs: dict[Sequence, int]  # those at the start of the step
    wanted: list[Sequence]  # those whose logits are asked for, in the order of `batch.logit_rows`
    batch: Batch
    saves: dict[Sequence, Saves] = field(default_factory=dict)  # checkpoints of states that it makes

    def concerns(self, sequence: Sequence) -> bool:
        """The sequence still has the blocks and the state that it had when the step was made."""
        return self.epochs[sequence] == sequence.epoch

    def prefill_rows(self) -> dict[Request, int]:
        """The rows of prompts in it, of sequences that it concerns."""
        found: dict[Request, int] = {}
        for sequence, rows, start in zip(self.sequences, self.rows, self.starts, strict=True):
            if self.concerns(sequence) and (rows > 1 or start < sequence.prompt_tokens):
                found[sequence.request] = found.get(sequence.request, 0) + rows
        return found


def make_step(rows: dict[Sequence, int], max_model_len: int) -> Step | None:
    """The step that computes so many tokens of each of these sequences, which have the blocks for them.

    `max_model_len` is the limit of every sequence, which a stretched rotary embedding depends on.
    """
    if not rows:
        return None
    sequences, counts = list(rows), list(rows.values())
    starts = np.zeros(len(sequences) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    token_ids = np.empty(starts[-1], dtype=np.int32)
    positions = np.empty(starts[-1], dtype=np.int32)
    tables = np.full((len(sequences), max(one.block_count for one in sequences)), -1, dtype=np.int32)
    before, context_lens, logit_rows, wanted = [], [], [], []
    end = 0
    for i, (sequence, count) in enumerate(rows.items()):
        start, end, done = end, end + count, sequence.computed
        if count == 1:
            token_ids[start], positions[start] = sequence.ids[done], done
        else:
            token_ids[start:end] = sequence.ids[done : done + count]
            positions[start:end] = np.arange(done, done + count)
        tables[i, : sequence.block_count] = sequence.table
        before.append(done)
        context_lens.append(done + count)
        if done + count == sequence.known:
            logit_rows.append(end - 1)
            wanted.append(sequence)
    adapters = tuple(sequence.request.adapter for sequence in sequences)
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        row_starts=starts,
        context_lens=np.array(context_lens, dtype=np.int32),
        block_tables=tables,
        logit_rows=np.array(logit_rows, dtype=np.int32),
        limits=np.full(len(sequences), max_model_len, dtype=np.int32),
        adapters=adapters if any(adapters) else (),
        states=_states(sequences),
    )
    return Step(sequences, counts, before, {one: one.epoch for one in sequences}, wanted, batch)


def _states(sequences: list[Sequence]) -> States | None:
    found = [sequence.state for sequence in sequences if sequence.state is not None]
    if not found:
        return None
    saves = [(i, tokens, slot) for i, state in enumerate(found) for tokens, slot in state.saves]
    return States(
        slots=np.array([state.slot for state in found], dtype=np.int32),
        sources=np.array([state.source for state in found], dtype=np.int32),
        saves=np.array(saves, dtype=np.int32).reshape(-1, 3),
    )

"""One step as arrays: what the scheduler has decided, laid out for the executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cutset.engine.constraint import StepMasks
from cutset.engine.request import Request
from cutset.engine.sampler import Scores, TokenSampler
from cutset.engine.sequence import Sequence
from cutset.engine.states import Saves
from cutset.models.run.executor import Batch, States

__all__ = ["Step", "make_step"]

NONE: Mapping[Sequence, list[int]] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Step:
    """One step."""

    sequences: list[Sequence]
    rows: list[int]  # tokens of each that are computed; drafts come on top
    starts: list[int]  # tokens of each that come before these
    epochs: list[int]  # of each when the step was made: at another, its blocks and its state are others
    wanted: list[int]  # the places of those whose logits are asked for, in the order of `batch.logit_rows`
    samplers: list[TokenSampler]  # of these
    known: list[int]  # how many tokens each of these has
    batch: Batch
    saves: list[Saves]  # checkpoints of states that it makes of each; empty where there are no states
    drafts: list[list[int]]  # of each of the wanted, whose rows are wanted too; empty where there are none at all
    masks: StepMasks | None = None  # None where every token may come next
    scored: list[tuple[int, int]] = field(
        default_factory=list
    )  # places, and rows of each, that score a prompt's tokens
    pooled: bool = False  # hidden states are wanted in place of logits
    scores: Scores | None = None  # what is asked of these rows, which are the last of `batch.logit_rows`
    sent: float = 0.0  # when, by the engine's clock

    def concerned(self) -> list[Sequence]:
        """The sequences that still have the blocks and the state that they had when the step was made."""
        return [one for one, epoch in zip(self.sequences, self.epochs, strict=True) if one.epoch == epoch]

    def decodes(self) -> bool:
        """It has no rows of prompts."""
        return len(self.wanted) == len(self.sequences) == sum(self.rows)

    def prefill_rows(self) -> dict[Request, int]:
        """The rows of prompts in it, of sequences that it concerns."""
        found: dict[Request, int] = {}
        for sequence, rows, start, epoch in zip(self.sequences, self.rows, self.starts, self.epochs, strict=True):
            if (rows > 1 or start < sequence.prompt_tokens) and sequence.epoch == epoch:
                found[sequence.request] = found.get(sequence.request, 0) + rows
        return found


def make_step(
    rows: dict[Sequence, int], max_model_len: int, drafts: Mapping[Sequence, list[int]] = NONE
) -> Step | None:
    """The step that computes so many tokens of each of these sequences, which have the blocks for them.

    `drafts` are further tokens of sequences that decode, which have blocks for these too. `max_model_len` is the limit
    of every sequence, which a stretched rotary embedding depends on.
    """
    if not rows:
        return None
    sequences, counts = list(rows), list(rows.values())
    total = sum(counts) + sum(map(len, drafts.values()))
    token_ids = np.empty(total, dtype=np.int32)
    positions = np.empty(total, dtype=np.int32)
    tables = _filled(-1, len(sequences), max(one.block_count for one in sequences))
    starts, before, epochs, context_lens = [0], [], [], []
    logit_rows, wanted, samplers, known = list[int](), [], [], []
    judged: list[list[int]] = []
    scored, scoring, asked = list[tuple[int, int]](), list[range](), list[NDArray[np.int32]]()
    end = 0
    for i, (sequence, count) in enumerate(rows.items()):
        start, end, done = end, end + count, sequence.computed
        drafted = drafts.get(sequence, ())
        if drafted:
            end += len(drafted)
            token_ids[start], token_ids[start + 1 : end] = sequence.ids[done], drafted
            positions[start:end] = np.arange(done, done + end - start)
        elif count == 1:
            token_ids[start], positions[start] = sequence.ids[done], done
        else:
            token_ids[start:end] = sequence.ids[done : done + count]
            positions[start:end] = np.arange(done, done + count)
        tables[i, : sequence.block_count] = sequence.table
        starts.append(end)
        before.append(done)
        epochs.append(sequence.epoch)
        context_lens.append(done + end - start)
        if (pooled := sequence.pooled(done, count)) is not None:
            logit_rows += range(start + pooled.start - done, start + pooled.stop - done)
            continue
        if sequence.scoring:
            # A row says how likely the next token is. Rows of before a preemption have done so.
            first = max(done, len(sequence.request.scores or ()))
            last = min(done + count, sequence.prompt_tokens - 1)
            if first < last:
                scored.append((i, last - first))
                scoring.append(range(start + first - done, start + last - done))
                asked.append(sequence.ids[first + 1 : last + 1])
        if done + count == sequence.known:
            logit_rows += range(end - 1 - len(drafted), end)
            judged.append(list(drafted))
            wanted.append(i)
            samplers.append(sequence.sampler)
            known.append(sequence.known)
    for rows_of in scoring:
        logit_rows += rows_of
    adapters = tuple([sequence.request.adapter for sequence in sequences])
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        row_starts=np.array(starts, dtype=np.int32),
        context_lens=np.array(context_lens, dtype=np.int32),
        block_tables=tables,
        logit_rows=np.array(logit_rows, dtype=np.int32),
        limits=_filled(max_model_len, len(sequences)),
        adapters=adapters if any(adapters) else (),
        states=_states(sequences),
    )
    step = Step(sequences, counts, before, epochs, wanted, samplers, known, batch, [], judged if drafts else [])
    step.pooled = pooled is not None  # steps have sequences of one kind
    if scored:
        likeliest = [(sequences[place].request.params.prompt_logprobs or 0, count) for place, count in scored]
        step.scored = scored
        step.scores = Scores(np.concatenate(asked), np.repeat(*np.array(likeliest, dtype=np.int32).T))
    constraints = [sequences[place].constraint for place in wanted]
    if any(constraints):
        soon = [not one.plain(length) for one, length in zip(samplers, known, strict=True)]
        if drafts:
            soon = [one or bool(own) for one, own in zip(soon, step.drafts, strict=True)]
        step.masks = StepMasks(constraints, known, step.drafts, soon)
    return step


def _filled(value: int, *shape: int) -> NDArray[np.int32]:
    array = np.empty(shape, dtype=np.int32)  # np.full takes several times as long for so few
    array.fill(value)
    return array


def _states(sequences: list[Sequence]) -> States | None:
    found = [sequence.state for sequence in sequences if sequence.state is not None]
    if not found:
        return None
    saves = [(i, tokens, slot) for i, state in enumerate(found) for tokens, slot in (*state.saves, *state.ahead)]
    return States(
        slots=np.array([state.slot for state in found], dtype=np.int32),
        sources=np.array([state.source for state in found], dtype=np.int32),
        saves=np.array(saves, dtype=np.int32).reshape(-1, 3),
    )

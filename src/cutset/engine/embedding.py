"""Embeddings: sequences run through a decoder once, and their last hidden states become one vector each.

They take part in steps of their own, between those that generate: such a step ends before the head.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from itertools import count

import numpy as np
from numpy.typing import NDArray

from cutset.engine.blocks import root_digest
from cutset.engine.detokenizer import Detokenizer, StreamingTokenizer
from cutset.engine.params import SamplingParams
from cutset.engine.request import Request
from cutset.engine.sampler import TokenSampler
from cutset.engine.scheduler import Scheduler
from cutset.engine.sequence import Sequence
from cutset.engine.step import Step
from cutset.errors import CutsetError, EngineError, LinkError, OffloadError, RequestError
from cutset.models.pooling import Pooling
from cutset.models.run.executor import LoadedAdapter

__all__ = ["EmbeddingJob", "EmbeddingSteps", "PooledSequence", "unit_vectors"]

log = logging.getLogger(__name__)
WAITING = 64  # sequences that are made ready ahead

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


class EmbeddingJob:
    """Some sequences that are embedded together. `done` is called once, from the engine's thread: with the vectors
    (sequences, hidden), or what went wrong."""

    def __init__(
        self,
        sequences: Several[Ids],
        pooling: Pooling,
        adapter: LoadedAdapter | None,
        done: Callable[[Floats | Exception], object],
        *,
        background: bool = False,
    ) -> None:
        self.sequences, self.pooling, self.adapter = list(sequences), pooling, adapter
        self._done, self.background = done, background
        self._vectors: list[Floats | None] = [None] * len(self.sequences)
        self._left = len(self.sequences)
        self.begun = 0  # sequences that were taken
        self.ended = False

    def cancel(self) -> None:
        """Nobody waits any more: what goes on ends before the next step."""
        self.ended = True

    def put(self, number: int, vector: Floats) -> None:
        """The vector (hidden,) of one sequence."""
        self._vectors[number] = vector
        self._left -= 1
        if not self._left and not self.ended:
            self._end(np.stack([one for one in self._vectors if one is not None]))

    def fail(self, error: Exception) -> None:
        """Ends it, if it hasn't ended."""
        if not self.ended:
            self._end(error)

    def _end(self, result: Floats | Exception) -> None:
        self.ended = True
        try:
            self._done(result)
        except Exception:
            log.exception("whoever waited for embeddings raised")


class PooledSequence(Sequence):
    """A sequence of a job, whose vector grows with the rows that come back."""

    __slots__ = ("_count", "_total", "job", "number")

    def __init__(self, job: EmbeddingJob, number: int, request: Request, text: Detokenizer) -> None:
        ids = job.sequences[number]
        sampler = TokenSampler(request.params, seed=0, index=0, vocab_size=0, prompt_ids=ids)
        super().__init__(request, 0, ids, limit=len(ids), root=root_digest(None, b""), sampler=sampler, text=text)
        self.job, self.number = job, number
        self._total: NDArray[np.float64] | None = None
        self._count = 0

    def pooled(self, start: int, rows: int) -> range:
        """See Sequence: the tokens that its vector is made of."""
        whole = {"mean": range(self.known), "cls": range(1), "last": range(self.known - 1, self.known)}
        chosen = whole[self.job.pooling]
        first, last = max(start, chosen.start), min(start + rows, chosen.stop)
        return range(first, max(first, last))

    def add(self, start: int, hidden: Floats) -> None:
        """Rows (rows, hidden) of a step that began at token `start`. They are added one after another, so the vector
        doesn't depend on where the sequence was cut."""
        if start == 0:
            self._total, self._count = None, 0
        for row in hidden:
            self._total = row.astype(np.float64) if self._total is None else self._total + row
        self._count += len(hidden)

    def vector(self) -> Floats:
        """(hidden,) after all rows."""
        assert self._total is not None
        return (self._total / self._count).astype(np.float32)


class EmbeddingSteps:
    """The jobs of an engine: of each in turn a sequence joins the next step, so that a long job doesn't hold up short
    ones. Blocks and states come out of what generation has; nothing of it is found by others.

    A vector depends on its own sequence alone if the executor's rows do.
    """

    def __init__(self, scheduler: Scheduler, tokenizer: StreamingTokenizer, arrivals: Iterator[int]) -> None:
        self.scheduler = scheduler  # of these sequences alone
        self._tokenizer, self._arrivals = tokenizer, arrivals
        self._params = SamplingParams(max_tokens=1)
        self._jobs: deque[EmbeddingJob] = deque()
        self._background: deque[EmbeddingJob] = deque()  # those that all others go before
        self._sequences: dict[PooledSequence, None] = {}
        self._numbers = count()

    @property
    def has_work(self) -> bool:
        """A job hasn't ended."""
        return bool(self._jobs or self._background or self._sequences)

    def add(self, job: EmbeddingJob) -> None:
        """Queues a job; its sequences have at least one token each, and no more than the cache holds."""
        (self._background if job.background else self._jobs).append(job)

    def schedule(self) -> Step | None:
        """The next step of its own, or None if there is nothing to do or no room."""
        for sequence in [one for one in self._sequences if one.job.ended]:
            self._finish(sequence)
        for jobs in (self._jobs, self._background):
            while (
                jobs and sum(one.request.background is (jobs is self._background) for one in self._sequences) < WAITING
            ):
                job = jobs[0]
                if job.ended or job.begun == len(job.sequences):
                    jobs.popleft()
                    continue
                self._begin(job)
                jobs.rotate(-1)
        return self.scheduler.schedule_prefill(list(self._sequences)) if self._sequences else None

    def update(self, step: Step, hidden: Floats) -> None:
        """A step has come back with the rows (wanted, hidden) that it was asked for."""
        self.scheduler.advance(step)
        at = 0
        for place, (sequence, rows, start) in enumerate(zip(step.sequences, step.rows, step.starts, strict=True)):
            assert isinstance(sequence, PooledSequence)
            wanted = len(sequence.pooled(start, rows))
            own, at = hidden[at : at + wanted], at + wanted
            if sequence.epoch != step.epochs[place] or sequence.job.ended:
                continue
            sequence.add(start, own)
            if sequence.settled == sequence.known:
                self._finish(sequence)
                sequence.job.put(sequence.number, sequence.vector())

    def fail(self, step: Step, error: BaseException | None) -> None:
        """A step has failed: the jobs in it end."""
        self.scheduler.give_up(step)
        jobs = dict.fromkeys(one.job for one in step.concerned() if isinstance(one, PooledSequence))
        self._end(jobs, error)

    def end(self, error: BaseException | None) -> None:
        """Ends all jobs."""
        jobs = dict.fromkeys([*(one.job for one in self._sequences), *self._jobs, *self._background])
        self._end(jobs, error)

    def _end(self, jobs: dict[EmbeddingJob, None], error: BaseException | None) -> None:
        for job in jobs:
            job.fail(_shown(error))
        for sequence in [one for one in self._sequences if one.job in jobs]:
            self._finish(sequence)
        self._jobs = deque(job for job in self._jobs if job not in jobs)
        self._background = deque(job for job in self._background if job not in jobs)

    def _begin(self, job: EmbeddingJob) -> None:
        number, job.begun = job.begun, job.begun + 1
        size, name = len(job.sequences[number]), f"embedding-{next(self._numbers)}"
        none = frozenset[int]()
        request = Request(name, self._params, size, next(self._arrivals), 0.0, none, none, job.adapter)
        request.background = job.background
        sequence = PooledSequence(job, number, request, Detokenizer(self._tokenizer))
        request.sequences.append(sequence)
        self._sequences[sequence] = None
        self.scheduler.add([sequence])

    def _finish(self, sequence: PooledSequence) -> None:
        self.scheduler.finish(sequence)
        self._sequences.pop(sequence, None)
        sequence.request.sequences.clear()


def unit_vectors(vectors: Floats, dimensions: int | None = None, *, normalise: bool = True) -> Floats:
    """The first `dimensions` of each vector (vectors, dimensions), each of length 1 if `normalise`.

    Raises RequestError for more dimensions than there are.
    """
    hidden = vectors.shape[1]
    if dimensions is not None and not 1 <= dimensions <= hidden:
        raise RequestError(f"dimensions={dimensions} can't be used: give 1 to {hidden}")
    kept = vectors[:, :dimensions].astype(np.float64)
    if normalise:
        kept /= np.maximum(np.sqrt((kept * kept).sum(axis=1, keepdims=True)), 1e-12)
    return kept.astype(np.float32)


def _shown(error: BaseException | None) -> CutsetError:
    if isinstance(error, LinkError | OffloadError):  # says itself what was lost and what to do
        return error
    why = str(error).rstrip(".") or type(error).__name__
    shown = EngineError(str(error) if isinstance(error, EngineError) else f"The embeddings failed: {why}.")
    shown.__cause__ = error
    return shown

"""Embeddings: sequences run through a decoder once, and their last hidden states become one vector each."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cutset.errors import EngineError, RequestError
from cutset.models.pooling import Pooling
from cutset.models.run.executor import Batch, Executor, KVCache, LoadedAdapter, States

__all__ = ["Embedder", "EmbeddingJob", "unit_vectors"]

log = logging.getLogger(__name__)
MOST_SEQUENCES = 64  # of a step

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


class EmbeddingJob:
    """Some sequences that are embedded together. `done` is called once, from the embedder's thread: with the vectors
    (sequences, hidden), or what went wrong."""

    def __init__(
        self,
        sequences: Sequence[Ids],
        pooling: Pooling,
        adapter: LoadedAdapter | None,
        done: Callable[[Floats | Exception], object],
    ) -> None:
        self.sequences, self.pooling, self.adapter = list(sequences), pooling, adapter
        self._done = done
        self._vectors: list[Floats | None] = [None] * len(self.sequences)
        self._left = len(self.sequences)
        self.begun = 0  # sequences that were taken
        self.ended = False

    def cancel(self) -> None:
        """Nobody waits any more: what hasn't begun never does."""
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


class Embedder:
    """Runs jobs in a thread of its own, which begins with the first one, on a cache of its own.

    A step has at most `max_batch_tokens` rows, of several jobs in turn, so that a long job doesn't hold up short ones;
    a sequence that is longer is run alone, in pieces. A vector depends on its own sequence alone if the executor's rows
    do: pieces are always cut at the same places, and sums are made row after row.
    """

    def __init__(
        self, executor: Executor, *, max_model_len: int, max_batch_tokens: int, block_size: int, kv_dtype: str = "auto"
    ) -> None:
        self._executor, self._block_size, self._kv_dtype = executor, block_size, kv_dtype
        self._limit, self._rows = max_model_len, max_batch_tokens
        self._jobs: deque[EmbeddingJob] = deque()
        self._came = threading.Condition()
        self._closed, self._owner = False, os.getpid()
        self._thread: threading.Thread | None = None
        self._cache: KVCache | None = None

    def submit(self, job: EmbeddingJob) -> None:
        """Hands a job in; its sequences have 1 to max_model_len tokens each. Raises EngineError after `close`, and in a
        process that was forked, which has no thread of ours."""
        if os.getpid() != self._owner:
            raise EngineError("The model was opened in the process that this one was forked from: open it here.")
        with self._came:
            if self._closed:
                raise EngineError("The engine was closed.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cutset-embed", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a daemon thread inside native code must not outlive the interpreter
            self._jobs.append(job)
            self._came.notify()

    def close(self) -> None:
        """Ends the thread after its step, and what still waits with an EngineError. May be called twice."""
        atexit.unregister(self.close)
        with self._came:
            self._closed = True
            self._came.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._cache = None

    def _run(self) -> None:
        while True:
            with self._came:
                while not self._jobs and not self._closed:
                    self._came.wait()
                if self._closed:
                    waiting = list(self._jobs)
                    self._jobs.clear()
                    break
                taken = self._take()
            if taken:
                self._step(taken)
        for job in waiting:
            job.fail(EngineError("The engine was closed."))

    def _take(self) -> list[tuple[EmbeddingJob, int]]:
        """The sequences of the next step: of each job in turn, while they fit."""
        taken: list[tuple[EmbeddingJob, int]] = []
        rows = self._rows
        while self._jobs and len(taken) < MOST_SEQUENCES:
            job = self._jobs[0]
            if job.ended or job.begun == len(job.sequences):
                self._jobs.popleft()
                continue
            size = len(job.sequences[job.begun])
            if taken and size > rows:
                break
            taken.append((job, job.begun))
            job.begun += 1
            self._jobs.rotate(-1)
            rows -= size
        return taken

    def _step(self, taken: list[tuple[EmbeddingJob, int]]) -> None:
        try:
            first, number = taken[0]
            if len(first.sequences[number]) > self._rows:
                whole = self._long(first, number)
                if whole is None:
                    first.fail(EngineError("The engine was closed."))
                    return
                vectors = [whole]
            else:
                vectors = self._together(taken)
        except Exception as error:
            log.exception("embeddings failed")
            for job in {id(job): job for job, _ in taken}.values():
                shown = EngineError(f"The embeddings failed: {str(error).rstrip('.') or type(error).__name__}.")
                shown.__cause__ = error
                job.fail(shown)
            return
        for (job, number), vector in zip(taken, vectors, strict=True):
            job.put(number, vector)

    def _together(self, taken: list[tuple[EmbeddingJob, int]]) -> list[Floats]:
        sequences = [job.sequences[number] for job, number in taken]
        if self._cache is None:
            blocks = -(-self._rows // self._block_size) + MOST_SEQUENCES
            self._cache = self._executor.new_cache(blocks, self._block_size, MOST_SEQUENCES, self._kv_dtype)
        lens = np.array([len(one) for one in sequences], dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(lens)]).astype(np.int32)
        wanted, counts = list[Ids](), list[int]()
        for (job, _), start, size in zip(taken, starts, lens, strict=False):
            wanted.append(_rows_of(job.pooling, int(start), int(size)))
            counts.append(len(wanted[-1]))
        batch = Batch(
            token_ids=np.concatenate(sequences),
            positions=np.concatenate([np.arange(size, dtype=np.int32) for size in lens]),
            row_starts=starts,
            context_lens=lens,
            block_tables=_tables(lens, self._block_size),
            logit_rows=np.concatenate(wanted),
            limits=np.full(len(lens), self._limit, dtype=np.int32),
            adapters=tuple(job.adapter for job, _ in taken) if any(job.adapter for job, _ in taken) else (),
            states=States.fresh(len(lens)) if self._executor.spec.recurrent_layers else None,
        )
        hidden = self._executor.final_hidden(batch, self._cache)
        edges = np.concatenate([[0], np.cumsum(counts)])
        return [_pooled(hidden[begin:end].sum(axis=0, dtype=np.float64), end - begin) for begin, end in pairwise(edges)]

    def _long(self, job: EmbeddingJob, number: int) -> Floats | None:
        """A sequence in pieces of a step's rows, on a cache that is let go of again. None: nobody waits for it."""
        ids, pooling, adapter = job.sequences[number], job.pooling, job.adapter
        table = _tables(np.array([len(ids)]), self._block_size)
        cache = self._executor.new_cache(table.shape[1], self._block_size, 1, self._kv_dtype)
        total, count = np.zeros(self._executor.spec.hidden), 0
        none = np.empty((0, 3), dtype=np.int32)
        for begin in range(0, len(ids), self._rows):
            if job.ended or self._closed:
                return None
            end = min(begin + self._rows, len(ids))
            chosen = {"last": end == len(ids), "cls": begin == 0, "mean": True}[pooling]
            source = np.array([-1 if begin == 0 else 0], dtype=np.int32)
            rows = _rows_of(pooling, 0, end - begin)
            batch = Batch(
                token_ids=ids[begin:end],
                positions=np.arange(begin, end, dtype=np.int32),
                row_starts=np.array([0, end - begin], dtype=np.int32),
                context_lens=np.array([end], dtype=np.int32),
                block_tables=table,
                logit_rows=rows if chosen else rows[:0],
                limits=np.array([self._limit], dtype=np.int32),
                adapters=(adapter,) if adapter is not None else (),
                states=States(np.zeros(1, np.int32), source, none) if self._executor.spec.recurrent_layers else None,
            )
            hidden = self._executor.final_hidden(batch, cache)
            total += hidden.sum(axis=0, dtype=np.float64)
            count += len(hidden)
        return _pooled(total, count)


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


def _pooled(total: NDArray[np.float64], count: int) -> Floats:
    return (total / count).astype(np.float32)


def _rows_of(pooling: Pooling, start: int, size: int) -> Ids:
    """The rows (wanted,) of a sequence that its vector is made of."""
    if pooling == "mean":
        return np.arange(start, start + size, dtype=np.int32)
    return np.array([start if pooling == "cls" else start + size - 1], dtype=np.int32)


def _tables(lens: NDArray[np.integer], block_size: int) -> Ids:
    """Block tables (sequences, blocks) that give each sequence the next blocks."""
    counts = -(-lens // block_size)
    tables = np.full((len(lens), int(counts.max())), -1, dtype=np.int32)
    first = 0
    for row, count in enumerate(counts):
        tables[row, :count] = np.arange(first, first + count)
        first += int(count)
    return tables

"""What a front has handed in while replicas run it: what was asked, and what has come of it so far."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cutset.engine.delivery import Deliver, deliver_each
from cutset.engine.embedding import EmbeddingJob
from cutset.engine.outputs import Delta, Usage
from cutset.engine.params import SamplingParams
from cutset.errors import EngineError, FrameError
from cutset.serve.replicas.replica_messages import (
    EmbedTexts,
    ResumedOutputs,
    SubmitRequest,
    TextVectors,
    error_from,
    params_to_wire,
)

__all__ = ["EmbedFlight", "Flight"]


class Flight:
    """A request. Any replica can go on with it, from the ids that have come: whoever gets its deltas doesn't learn
    where they were made. `params` have a seed."""

    def __init__(
        self,
        request_id: str,
        ids: NDArray[np.int32],  # (tokens,)
        params: SamplingParams,
        receive: Callable[[Delta], object],
        *,
        salt: str | None,
        adapter: str | None,
        digests: list[bytes],  # see PrefixRoutes
        background: bool = False,  # others go before it
        deliver: Deliver | None = None,
        whole: bool = False,  # nobody reads it before its end
    ) -> None:
        self.request_id, self.digests = request_id, digests
        self.receive, self.deliver = receive, deliver or deliver_each
        self.cancelled = self.over = False  # its last delta has come
        self.losses = 0  # of replicas, since the last token came
        self._prompt_tokens = len(ids)
        self._ids = ids.astype("<i4", copy=False).tobytes()
        self._params, self._adapter = params_to_wire(params), adapter
        self._background, self._whole = background, whole
        # Its digest names the same requests, and any text has one, while not every text can be sent.
        self._salt = None if salt is None else hashlib.sha256(salt.encode("utf-8", "surrogatepass")).hexdigest()
        self._outputs = [array("i") for _ in range(params.n)]
        self._ended: set[int] = set()
        self._cached: int | None = None  # until the first token has come

    @property
    def samples(self) -> int:
        """That go on."""
        return len(self._outputs) - len(self._ended)

    def submission(self, number: int) -> SubmitRequest:
        """What a replica is told, to begin it or to go on."""
        resumed = None
        if self._cached is not None:
            outputs = [np.array(one, dtype="<i4").tobytes() for one in self._outputs]
            resumed = ResumedOutputs(outputs, sorted(self._ended), self._cached)
        asked = self._ids, self._params, self._salt, self._adapter
        return SubmitRequest(number, *asked, resumed, self._background, self._whole)

    def fail(self, why: str) -> None:
        """There is no more of it."""
        self._end(EngineError(why))

    def abort(self) -> None:
        """It was cancelled while no replica had it: its samples end as they would in an engine."""
        self._end(None)

    def _end(self, error: EngineError | None) -> None:
        self.over = True
        left = [one for one in range(len(self._outputs)) if one not in self._ended] or [0]
        deltas = [Delta(self.request_id, one, finish_reason="abort", error=error) for one in left]
        deltas[-1] = replace(deltas[-1], finished=True, usage=self._usage(0))
        self.deliver([(self.receive, one) for one in deltas])

    def take(self, delta: Delta) -> Delta:
        """Notes what has come, and gives it as it would have come of one engine alone."""
        if delta.token_ids:
            self.losses = 0
            self._outputs[delta.index].extend(delta.token_ids)
            if self._cached is None:
                self._cached = delta.cached_tokens or 0
        if delta.finish_reason is not None:
            self._ended.add(delta.index)
        self.over = self.over or delta.finished
        return delta if delta.usage is None else replace(delta, usage=self._usage(delta.usage.cached_tokens))

    def _usage(self, cached_tokens: int) -> Usage:
        completed = sum(len(one) for one in self._outputs)
        return Usage(self._prompt_tokens, completed, self._cached or cached_tokens)


class EmbedFlight:
    """Texts to embed."""

    samples = 1

    def __init__(self, job: EmbeddingJob) -> None:
        self.job, self.losses = job, 0

    @property
    def cancelled(self) -> bool:
        """Nobody waits for it."""
        return self.job.ended

    def submission(self, number: int) -> EmbedTexts:
        """What a replica is told."""
        sequences = [ids.astype("<i4", copy=False).tobytes() for ids in self.job.sequences]
        adapter = None if self.job.adapter is None else self.job.adapter.name
        return EmbedTexts(number, sequences, self.job.pooling, adapter)

    def fail(self, why: str) -> None:
        """There will be no vectors."""
        self.job.fail(EngineError(why))

    def take(self, message: TextVectors) -> None:
        """What has come. Raises FrameError for vectors that can't be those of its texts."""
        if message.error is not None:
            self.job.fail(error_from(message.error))
            return
        count = len(self.job.sequences)
        if not message.hidden or len(message.vectors) != 4 * count * message.hidden:
            raise FrameError(f"{len(message.vectors)} bytes aren't the vectors of {count} texts")
        vectors = np.frombuffer(message.vectors, dtype="<f4").astype(np.float32).reshape(count, -1)
        for number, vector in enumerate(vectors):
            self.job.put(number, vector)

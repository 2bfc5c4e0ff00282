"""Texts to vectors: their tokens, the engine that runs them, and what a model says of pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.engine.embedding import EmbeddingJob
from cutset.engine.intake import check_ids
from cutset.errors import ContextLengthError, RequestError
from cutset.models.pooling import POOLINGS, Pooling
from cutset.models.run.executor import LoadedAdapter
from cutset.models.text.tokenizer import Tokenizer

__all__ = ["TextEmbedder"]

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]


class TextEmbedder:
    """Makes embeddings of a model. Its methods may be called from any thread. `limit`: most tokens of a text."""

    def __init__(
        self,
        hand_in: Callable[[EmbeddingJob], object],  # to the engine
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        without_token: Iterable[int],  # ids for which the tokenizer has no token
        limit: int,
        pooling: Pooling,  # where a request says nothing
    ) -> None:
        self.limit, self.pooling = limit, pooling
        self._hand_in, self._tokenizer = hand_in, tokenizer
        self._without_token = np.zeros(vocab_size, dtype=np.bool_)
        self._without_token[list(without_token)] = True

    def encode(self, text: str | Any, *, special: bool = True, truncate: int | None = None) -> Ids:
        """The token ids (tokens,) of a text, with `special` tokens around it or without, or ids that are checked. Of
        more than `truncate` the first are kept; a special token that ends the text stays.

        Raises RequestError, or ContextLengthError for what is longer than the limit.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=special) if isinstance(text, str) else text
        ids = check_ids("The input", ids, len(self._without_token), self._without_token)
        if not len(ids):
            raise RequestError("The input is empty: give at least one token.")
        if truncate is not None and len(ids) > truncate:
            end = ids[-1:] if int(ids[-1]) in self._tokenizer.special_ids and truncate > 1 else ids[:0]
            ids = np.concatenate([ids[: truncate - len(end)], end])
        if len(ids) > self.limit:
            raise ContextLengthError(
                f"The input has {len(ids)} tokens, but the context holds {self.limit}. Shorten it.",
                prompt_tokens=len(ids),
                limit=self.limit,
            )
        return ids

    def submit(
        self,
        sequences: Sequence[Ids],  # as `encode` gives them
        done: Callable[[Floats | Exception], object],
        *,
        pooling: Pooling | None = None,
        adapter: LoadedAdapter | None = None,
        background: bool = False,  # all others go before it
    ) -> EmbeddingJob:
        """Hands sequences in; a thread calls `done`, which must not block, with the vectors (sequences, hidden) as they
        are before they are normalised, or with what went wrong. The job cancels.

        Raises RequestError for an unknown pooling, EngineError where the engine has stopped.
        """
        if pooling not in (None, *POOLINGS):
            raise RequestError(f"pooling={str(pooling)[:60]!r} can't be used: give {', '.join(POOLINGS)}")
        job = EmbeddingJob(sequences, pooling or self.pooling, adapter, done, background=background)
        self._hand_in(job)
        return job

    def vectors(
        self, sequences: Sequence[Ids], *, pooling: Pooling | None = None, adapter: LoadedAdapter | None = None
    ) -> Floats:
        """The vectors (sequences, hidden) of at least one sequence; waits for them."""
        results: SimpleQueue[Floats | Exception] = SimpleQueue()
        job = self.submit(sequences, results.put, pooling=pooling, adapter=adapter)
        try:
            found = results.get()
        finally:
            job.cancel()
        if isinstance(found, Exception):
            raise found
        return found

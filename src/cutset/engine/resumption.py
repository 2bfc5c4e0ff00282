"""A request goes on that was begun by another engine of the same model.

What it needs is little: the prompt, the parameters with their seed, and the ids that each sample has so far. Text, stop
strings, grammar and penalties follow from the ids, as they do where a sequence is computed again after a preemption;
the sampler is keyed by seed, sample and position. So nobody can tell from the rest of an answer where it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.engine.request import Request
from cutset.engine.sequence import Sequence, Status
from cutset.errors import RequestError

__all__ = ["Resumption"]


@dataclass(frozen=True, slots=True, eq=False)
class Resumption:
    """`outputs`: the token ids (tokens,) that each of the n samples has got; `ended`: the samples that are complete, by
    their numbers. `cached_tokens`: of the prompt, as the first engine found them; the usage goes on saying that.

    A prompt's log-probabilities aren't given again: they came with the first token.
    """

    outputs: tuple[NDArray[np.int32], ...]
    ended: frozenset[int]
    cached_tokens: int

    def replay(self, request: Request, append: Callable[[Sequence, int], bool], vocab_size: int) -> None:
        """Brings a new request to where it was. `append` gives a sequence a token, and says whether that ended it.

        Raises RequestError for what can't have come of this request.
        """
        self._check(request, vocab_size)
        request.scores = None
        request.cached_tokens = self.cached_tokens
        request.resumed = sum(len(ids) for ids in self.outputs)
        for sequence in request.sequences:
            if sequence.index in self.ended:
                sequence.status = Status.FINISHED
                continue
            for token_id in self.outputs[sequence.index].tolist():
                if append(sequence, token_id):
                    raise RequestError(f"Sample {sequence.index} can't go on: it has ended.")
        request.sequences[:] = [one for one in request.sequences if one.status is not Status.FINISHED]

    def _check(self, request: Request, vocab_size: int) -> None:
        count = len(request.sequences)
        if request.params.seed is None:
            raise RequestError("A request can't go on without the seed that it was begun with: give seed.")
        if len(self.outputs) != count or not self.ended < set(range(count)):
            raise RequestError(f"A request of {count} samples can't go on with {len(self.outputs)}, or with none left.")
        for sequence, ids in zip(request.sequences, self.outputs, strict=True):
            if ids.ndim != 1 or ids.dtype != np.int32 or (ids.size and not 0 <= ids.min() <= ids.max() < vocab_size):
                raise RequestError(f"Sample {sequence.index} can't go on: its ids aren't those of tokens.")
            if sequence.index not in self.ended and sequence.known + len(ids) >= sequence.limit:
                raise RequestError(f"Sample {sequence.index} can't go on: {len(ids)} tokens leave no room for another.")
        if not 0 <= self.cached_tokens <= request.prompt_tokens:
            raise RequestError("A request can't go on whose cached tokens are more than its prompt has.")

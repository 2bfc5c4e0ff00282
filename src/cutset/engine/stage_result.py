"""What comes back from the last stage: the tokens that it drew, and log probabilities where they were asked for; or the
hidden states of a pooled item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.engine.outputs import TokenLogprob
from cutset.engine.params import MAX_LOGPROBS
from cutset.engine.sampler import Choice
from cutset.engine.wire_parts import MOST_ROWS, Ints, Number, WirePart, as_ints, decoded
from cutset.errors import FrameError

__all__ = ["decode_choices", "decode_hidden", "encode_choices", "encode_hidden"]

NONE = -1  # in the place of a token


class _Logprob(WirePart):
    token_id: Number
    logprob: float
    rank: Number
    top: Annotated[list[tuple[Number, float]], msgspec.Meta(max_length=MAX_LOGPROBS)]


class _Result(WirePart):
    """A later field stands behind these and has a default, as the log probabilities have."""

    tokens: Ints  # of each wanted row; -1 where nothing was drawn
    # Of each of these rows; none where no row has any.
    logprobs: Annotated[tuple[_Logprob | None, ...], msgspec.Meta(max_length=MOST_ROWS)] = ()


_encoder = msgspec.msgpack.Encoder()
_results = msgspec.msgpack.Decoder(_Result)


def encode_choices(choices: Sequence[Choice | None]) -> bytes:
    """The bytes of what the last stage has drawn."""
    tokens = np.array([NONE if one is None else one.token_id for one in choices], "<i4").tobytes()
    logprobs = [None if one is None else one.logprob for one in choices]
    told = tuple(map(_logprob, logprobs)) if any(one is not None for one in logprobs) else ()
    return _encoder.encode(_Result(tokens, told))


def decode_choices(data: bytes | memoryview, *, wanted: int, vocab_size: int) -> list[Choice | None]:
    """What was drawn for `wanted` rows; None also for those behind a draft that wasn't right. Raises FrameError."""
    found: _Result = decoded(_results, data, "choices")
    tokens = as_ints(found.tokens, "tokens").tolist()
    if len(tokens) != wanted:
        raise FrameError(f"{len(tokens)} tokens were drawn instead of {wanted}")
    if not found.logprobs:
        if tokens and not (min(tokens) >= NONE and max(tokens) < vocab_size):
            raise FrameError(f"a token was drawn outside the vocabulary of {vocab_size}")
        return [None if one < 0 else Choice(one, None) for one in tokens]
    if len(found.logprobs) != wanted:
        raise FrameError(f"{len(found.logprobs)} log probabilities came with {wanted} tokens")
    choices: list[Choice | None] = []
    for token, told in zip(tokens, found.logprobs, strict=True):
        ids = [token] if told is None else [token, told.token_id, *(one for one, _ in told.top)]
        if min(ids) < NONE or max(ids) >= vocab_size or (token < 0 and told is not None):
            raise FrameError(f"a token was drawn outside the vocabulary of {vocab_size}")
        logprob = None if told is None else TokenLogprob(told.token_id, told.logprob, told.rank, tuple(told.top))
        choices.append(None if token < 0 else Choice(token, logprob))
    return choices


def encode_hidden(hidden: NDArray[np.float32]) -> bytes:
    """The bytes of hidden states (wanted, hidden) of a pooled item."""
    return hidden.astype("<f4", copy=False).tobytes()


def decode_hidden(data: bytes | memoryview, *, wanted: int, hidden: int) -> NDArray[np.float32]:
    """Hidden states (wanted, hidden). Raises FrameError."""
    size = memoryview(data).nbytes
    if size != 4 * wanted * hidden:
        raise FrameError(f"hidden states have {size} bytes instead of {4 * wanted * hidden}")
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(wanted, hidden)


def _logprob(told: TokenLogprob | None) -> _Logprob | None:
    return None if told is None else _Logprob(told.token_id, told.logprob, told.rank, list(told.top))

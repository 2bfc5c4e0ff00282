"""What the last stage needs to draw the tokens that follow the wanted rows of a step: a part of an item's bytes.

What a sequence's sampler is beside its position and the tokens before hardly changes from step to step: its bytes are
made once, and what was made of them elsewhere is found again by the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Annotated, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.engine.bits import Bits, MaskPart, mask_of, mask_part
from cutset.engine.constraint import StepMasks
from cutset.engine.params import MAX_BIASES, MAX_LOGPROBS
from cutset.engine.sampler import SamplerState, TokenSampler
from cutset.engine.token_history import HistoryPart, KnownHistories, SentHistories
from cutset.engine.wire_parts import MOST_ROWS, Ints, Number, WirePart, as_ints, decoded, within
from cutset.errors import FrameError, RequestError

__all__ = ["MOST_SEQUENCES", "Draws", "decode_sampling", "encode_sampling"]

MOST_SEQUENCES = 1 << 16  # of a step
KEPT, KEPT_BYTES = 512, 4096  # samplers that were made from bytes, and the most bytes of each

Key = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class _Params(WirePart):
    """A sampler as it is for many steps."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    key: Key
    masked: Ints  # ids that can't be drawn now: end tokens before min_tokens
    until: Number  # tokens from which on `masked` can be drawn
    biased: Ints | None  # ids whose logits get
    biases: Annotated[bytes, msgspec.Meta(max_length=8 * MAX_BIASES)] | None  # these added, float64


class _History(WirePart):
    slot: Number  # of the last stage
    start: Number  # tokens that it has there
    prompt_tokens: Number
    ids: Ints  # those from `start` on


class _Draw(WirePart):
    params: Ints  # the bytes of a _Params
    known: Number
    drafted: Number  # rows with drafts behind this one, wanted too
    history: _History | None  # where a penalty needs it
    masks: (
        Annotated[list[MaskPart], msgspec.Meta(max_length=MOST_ROWS)] | None
    )  # of its rows, from the first; None: none


class Draws(NamedTuple):
    """Of each sequence with wanted rows, in their order; `drafted` and `masks` as a StageItem has them."""

    samplers: list[TokenSampler]
    known: list[int]
    drafted: list[int]  # [] where there are no drafts
    masks: StepMasks | None


class _Sent(NamedTuple):
    """The bytes of a sampler, and what they were made for."""

    masked: int
    biased: NDArray[np.integer] | None
    biases: NDArray[np.float64] | None
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_params = msgspec.msgpack.Decoder(_Params)
_draws = msgspec.msgpack.Decoder(Annotated[list[_Draw], msgspec.Meta(max_length=MOST_SEQUENCES)])
_sent: WeakKeyDictionary[TokenSampler, _Sent] = WeakKeyDictionary()


def encode_sampling(
    samplers: Sequence[TokenSampler],
    known: Sequence[int],
    drafted: Sequence[int],
    masks: StepMasks | None,
    histories: SentHistories | None,
) -> bytes:
    """The bytes of how to draw for these sequences. `histories`: what the last stage has already; None: nothing."""
    drafts = drafted or [0] * len(known)
    own = [None] * len(known) if masks is None else masks.found
    each = zip(samplers, known, drafts, own, strict=True)
    draws = [_Draw(_bytes_of(one, length), length, count, None, _parts(mask)) for one, length, count, mask in each]
    penalised = [(place, history) for place, one in enumerate(samplers) if (history := one.history) is not None]
    if penalised:
        sent = SentHistories(len(penalised)) if histories is None else histories
        parts = sent.parts((history, known[place]) for place, history in penalised)
        for (place, _), part in zip(penalised, parts, strict=True):
            ids = part.ids.astype("<i4", copy=False).tobytes()
            draws[place].history = _History(part.slot, part.start, part.prompt_tokens, ids)
    return _encoder.encode(draws)


def decode_sampling(data: bytes | memoryview | msgspec.Raw, wanted: int, histories: KnownHistories) -> Draws:
    """How to draw for `wanted` rows. Raises FrameError, and EngineError for a history that isn't known."""
    found: list[_Draw] = decoded(_draws, data, "item")
    drafted = [one.drafted for one in found]
    if (told := len(found) + sum(drafted)) != wanted:
        raise FrameError(f"an item wants {wanted} tokens and says how to draw {told}")
    slots = [one.history.slot for one in found if one.history is not None]
    if len(set(slots)) < len(slots):
        raise FrameError("two sequences of an item have the same history")
    samplers = [_sampler(one, histories) for one in found]
    masks = None
    if any(one.masks is not None for one in found):
        masks = StepMasks.of([_masks(one, histories.vocab_size) for one in found])
    return Draws(samplers, [one.known for one in found], drafted if any(drafted) else [], masks)


def _parts(masks: list[Bits] | None) -> list[MaskPart] | None:
    return None if masks is None else [mask_part(one) for one in masks]


def _masks(found: _Draw, vocab_size: int) -> list[Bits] | None:
    if found.masks is not None and len(found.masks) > 1 + found.drafted:
        raise FrameError("sampling of an item has more masks than rows")
    return None if found.masks is None else [mask_of(one, vocab_size) for one in found.masks]


def _bytes_of(sampler: TokenSampler, known: int) -> bytes:
    state, before = sampler.state(known), _sent.get(sampler)
    masked = len(state.masked)
    same = before is not None and (before.biased is state.biased and before.biases is state.biases)
    if before is not None and same and before.masked == masked:
        return before.data
    params = sampler.params
    data = _encoder.encode(
        _Params(
            float(params.temperature),
            float(params.top_p),
            params.top_k,
            float(params.min_p),
            params.logprobs,
            float(params.repetition_penalty),
            float(params.presence_penalty),
            float(params.frequency_penalty),
            state.key.to_bytes(16, "little"),
            state.masked.astype("<i4", copy=False).tobytes(),
            state.until,
            None if state.biased is None else state.biased.astype("<i4", copy=False).tobytes(),
            None if state.biases is None else state.biases.astype("<f8", copy=False).tobytes(),
        )
    )
    _sent[sampler] = _Sent(masked, state.biased, state.biases, data)
    return data


def _sampler(found: _Draw, histories: KnownHistories) -> TokenSampler:
    part, vocab_size = found.history, histories.vocab_size
    restore = _kept_sampler if len(found.params) <= KEPT_BYTES else _restored
    sampler = restore(found.params, vocab_size)  # whose draws change nothing in it, as long as it has no history
    params = sampler.params
    if params.penalises != (part is not None):
        raise FrameError("sampling of an item has penalties without the tokens that they are for, or these without")
    if part is None:
        return sampler
    ids = as_ints(part.ids, "sampling")
    within("sampling", ids, 0, vocab_size - 1)
    if part.start + len(ids) != found.known:
        raise FrameError("sampling of an item has another number of tokens than it says")
    own = HistoryPart(part.slot, part.start, part.prompt_tokens, ids)
    sampler = copy(sampler)
    sampler.history = histories.take(own, seen=params.penalises_seen, counts=params.penalises_output)
    return sampler


def _restored(data: bytes, vocab_size: int) -> TokenSampler:
    """A sampler without its history. Raises FrameError."""
    found: _Params = decoded(_params, data, "item")
    masked = as_ints(found.masked, "sampling")
    within("sampling", masked, 0, vocab_size - 1)
    biased = None if found.biased is None else as_ints(found.biased, "sampling")
    biases = None if found.biases is None or len(found.biases) % 8 else np.frombuffer(found.biases, "<f8")
    if (biased is None) != (biases is None) or (
        biased is not None and biases is not None and biased.size != biases.size
    ):
        raise FrameError("sampling of an item has other biases than tokens")
    if biased is not None and biases is not None:
        within("sampling", biased, 0, vocab_size - 1)
        if not (np.abs(biases) <= 100).all():
            raise FrameError("sampling of an item has a bias that can't be")
    state = SamplerState(int.from_bytes(found.key, "little"), masked, None, found.until, biased, biases)
    try:
        return TokenSampler.restored(
            state,
            temperature=found.temperature,
            top_p=found.top_p,
            top_k=found.top_k,
            min_p=found.min_p,
            logprobs=found.logprobs,
            repetition_penalty=found.repetition_penalty,
            presence_penalty=found.presence_penalty,
            frequency_penalty=found.frequency_penalty,
        )
    except RequestError as error:
        raise FrameError(f"sampling of an item: {error}") from None


_kept_sampler = lru_cache(maxsize=KEPT)(_restored)

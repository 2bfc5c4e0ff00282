"""What goes from stage to stage: the rows of a step, and what it takes to draw the tokens that follow the wanted ones.

A stage keeps nothing of a sequence but what its cache holds, and the last one the tokens that penalties count: an item
brings those that are new (`token_history`). Its bytes are a msgpack array of numbers and of arrays in little-endian
order. Whoever decodes one takes nothing for granted: what isn't exactly such an item, within these bounds, is a
FrameError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.engine.bits import Bits, MaskPart, mask_of, mask_part
from cutset.engine.constraint import StepMasks
from cutset.engine.outputs import TokenLogprob
from cutset.engine.params import MAX_BIASES, MAX_LOGPROBS
from cutset.engine.sampler import Choice, SamplerState, Scores, TokenSampler
from cutset.engine.token_history import HistoryPart, KnownHistories, SentHistories
from cutset.errors import FrameError, RequestError
from cutset.models.run.executor import Batch, LoadedAdapter, States

__all__ = [
    "MOST_ITEM",
    "MOST_ROWS",
    "MOST_SEQUENCES",
    "StageItem",
    "StageSetup",
    "decode_choices",
    "decode_hidden",
    "decode_item",
    "decode_setup",
    "encode_choices",
    "encode_hidden",
    "encode_item",
    "encode_setup",
    "with_sampling",
]

MOST_ITEM = 64 << 20  # bytes
MOST_ROWS = 1 << 20  # of a step
MOST_SEQUENCES = 1 << 16
FEW = 64  # numbers
NONE = np.empty(0, np.int32)

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Digest = Annotated[bytes, msgspec.Meta(max_length=64)]
Key = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Ints = Annotated[bytes, msgspec.Meta(max_length=MOST_ITEM)]  # an array of int32


class _Part(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    pass


class StageSetup(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What an engine tells its stages before its first item: the cache of each, which ids are never drawn, and how
    large its items are at most."""

    blocks: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    block_size: Annotated[int, msgspec.Meta(ge=1, le=2**20)]  # tokens
    states: Number = 0  # slots for states of sequences, where the decoder has such
    kv_dtype: Literal["auto", "int8"] = "auto"  # see Executor.new_cache
    masked: Annotated[tuple[Number, ...], msgspec.Meta(max_length=2**20)] = ()  # ids for which there is no token
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = MOST_ROWS  # of a step, at most
    sequences: Annotated[int, msgspec.Meta(ge=1, le=MOST_SEQUENCES)] = MOST_SEQUENCES  # of a step, at most
    prefixes: Annotated[bytes, msgspec.Meta(max_length=32)] = b""  # digest of model and limit, where blocks may be kept


class StageItem(NamedTuple):
    """A step on its way. In this process the samplers are the engine's own; elsewhere they are rebuilt from bytes."""

    number: int  # counts up; never used twice
    batch: Batch  # block numbers and slots are those of the engine's scheduler; all stages go by the same
    samplers: Sequence[TokenSampler]  # of sequences with wanted rows, in the order of `batch.logit_rows`
    known: Sequence[int]  # how many tokens each of these sequences has: the position of the one that is drawn
    drafted: Sequence[int] = ()  # how many drafts each of them has, or empty: its last rows, all of which are wanted
    masks: StepMasks | None = None  # of their rows; None where every token may come next
    scores: Scores | None = (
        None  # of the last of `batch.logit_rows`, behind those of the samplers; None: no row has any
    )

    pooled: bool = False  # of `batch.logit_rows` hidden states are wanted; nothing is drawn

    @property
    def scored(self) -> int:
        """How many rows score a given token."""
        return 0 if self.scores is None else len(self.scores.tokens)

    def drafts(self) -> list[list[int]]:
        """The drafts of each of these sequences; [] where there are none at all."""
        if not any(self.drafted):
            return []
        found, ids, place = [], self.batch.token_ids[self.batch.logit_rows].tolist(), 0
        for count in self.drafted:
            found.append(ids[place + 1 : place + 1 + count])
            place += 1 + count
        return found


class _History(_Part):
    slot: Number  # of the last stage
    start: Number  # tokens that it has there
    prompt_tokens: Number
    ids: Ints  # those from `start` on


class _Sampling(_Part):
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    key: Key
    known: Number
    masked: Ints  # ids that can't be drawn now: end tokens before min_tokens
    history: _History | None  # where a penalty needs it
    until: Number  # tokens from which on `masked` can be drawn
    drafted: Number  # rows with drafts behind this one, wanted too
    biased: Ints | None  # ids whose logits get
    biases: Annotated[bytes, msgspec.Meta(max_length=8 * MAX_BIASES)] | None  # these added, float64
    masks: (
        Annotated[list[MaskPart], msgspec.Meta(max_length=MOST_ROWS)] | None
    )  # of its rows, from the first; None: none


class _Adapter(_Part):
    name: Name
    digest: Digest


class _States(_Part):
    slots: Ints
    sources: Ints
    saves: Ints


class _Item(_Part):
    number: Count
    sequences: Annotated[int, msgspec.Meta(ge=1, le=MOST_SEQUENCES)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)]
    token_ids: Ints
    positions: Ints
    row_starts: Ints
    context_lens: Ints
    block_tables: Ints
    logit_rows: Ints
    limits: Ints
    states: _States | None
    adapters: Annotated[list[_Adapter], msgspec.Meta(max_length=MOST_SEQUENCES)]  # those of the batch, once each
    chosen: Ints  # (sequences,) which of them each sequence has, -1 for none; or empty
    sampling: msgspec.Raw  # list[_Sampling], read by the last stage alone


class _WiderItem(_Item):
    """One that scores tokens, or is pooled. Others are sent without, as older stages know them."""

    scored: Ints = b""  # (scored,) the given next tokens of the last of logit_rows
    likeliest: Ints = b""  # (scored,) how many are reported beside each
    pooled: bool = False


class _Logprob(_Part):
    token_id: Number
    logprob: float
    rank: Number
    top: Annotated[list[tuple[Number, float]], msgspec.Meta(max_length=MAX_LOGPROBS)]


class _Choice(_Part):
    token_id: Number
    logprob: _Logprob | None


_encoder = msgspec.msgpack.Encoder()
_items = msgspec.msgpack.Decoder(_WiderItem)
_samplings = msgspec.msgpack.Decoder(Annotated[list[_Sampling], msgspec.Meta(max_length=MOST_SEQUENCES)])
_setups = msgspec.msgpack.Decoder(StageSetup)
_choices = msgspec.msgpack.Decoder(Annotated[list[_Choice | None], msgspec.Meta(max_length=MOST_ROWS)])


def encode_setup(setup: StageSetup) -> bytes:
    """The bytes of a setup."""
    return _encoder.encode(setup)


def decode_setup(data: bytes | memoryview) -> StageSetup:
    """Raises FrameError."""
    return _decoded(_setups, data, "setup of stages")  # type: ignore[no-any-return]


def encode_item(item: StageItem, histories: SentHistories | None = None) -> bytes:
    """The bytes of an item. `histories`: what the last stage has already; without, it gets all that is needed."""
    batch = item.batch
    if batch.key_mask is not None:
        raise ValueError("a padded batch doesn't go through stages")
    states = (
        None
        if batch.states is None
        else _States(*map(_bytes, (batch.states.slots, batch.states.sources, batch.states.saves)))
    )
    adapters = {one.digest: one for one in batch.adapters if one is not None}
    order = {digest: place for place, digest in enumerate(adapters)}
    chosen = np.array([-1 if one is None else order[one.digest] for one in batch.adapters], dtype=np.int32)
    drafted = item.drafted or [0] * len(item.known)
    masks = [None] * len(item.known) if item.masks is None else item.masks.found
    sampling = [_sampling(*each) for each in zip(item.samplers, item.known, drafted, masks, strict=True)]
    each = zip(sampling, item.samplers, item.known, strict=True)
    penalised = [(one, sampler.history, known) for one, sampler, known in each if sampler.history is not None]
    sent = SentHistories(len(penalised)) if histories is None else histories
    parts = sent.parts((history, known) for _, history, known in penalised)
    for (one, _, _), part in zip(penalised, parts, strict=True):
        one.history = _History(part.slot, part.start, part.prompt_tokens, _bytes(part.ids))
    kind: Any = _Item
    if item.pooled:
        kind = partial(_WiderItem, pooled=True)
    elif item.scores is not None:
        kind = partial(_WiderItem, scored=_bytes(item.scores.tokens), likeliest=_bytes(item.scores.likeliest))
    return _encoder.encode(
        kind(
            number=item.number,
            sequences=len(batch.context_lens),
            rows=len(batch.token_ids),
            token_ids=_bytes(batch.token_ids),
            positions=_bytes(batch.positions),
            row_starts=_bytes(batch.row_starts),
            context_lens=_bytes(batch.context_lens),
            block_tables=_bytes(batch.block_tables),
            logit_rows=_bytes(batch.logit_rows),
            limits=_bytes(batch.limits),
            states=states,
            adapters=[_Adapter(one.name, one.digest) for one in adapters.values()],
            chosen=_bytes(chosen),
            sampling=msgspec.Raw(_encoder.encode(sampling)),
        )
    )


def decode_item(
    data: bytes | memoryview,
    setup: StageSetup,
    *,
    vocab_size: int,
    adapters: Mapping[bytes, LoadedAdapter] | None = None,  # of this stage's executor, by digest
    sampling: bool = True,  # False: leave the samplers out, see `with_sampling`
    histories: KnownHistories | None = None,  # of the items before
) -> StageItem:
    """The item; its numbers lie within `setup` and the vocabulary, so any executor may run it.

    Raises FrameError, and EngineError for one that goes on with a history that isn't known.
    """
    found: _WiderItem = _decoded(_items, data, "item")
    batch = _batch(found, adapters or {})
    _check(batch, setup, vocab_size)
    item = StageItem(found.number, batch, (), (), pooled=found.pooled)
    if not sampling or found.pooled:
        return item
    return _with_sampling(item, found, KnownHistories(setup.sequences, vocab_size) if histories is None else histories)


def with_sampling(item: StageItem, data: bytes | memoryview, histories: KnownHistories) -> StageItem:
    """An item that `decode_item` gave without them, with its samplers: the last stage alone needs these, and not before
    its logits are there. Raises what that does."""
    return _with_sampling(item, _decoded(_items, data, "item"), histories)


def _with_sampling(item: StageItem, found: _WiderItem, histories: KnownHistories) -> StageItem:
    batch = item.batch
    draws: list[_Sampling] = _decoded(_samplings, found.sampling, "item")
    drafted = [one.drafted for one in draws]
    scores = _scores(found, histories.vocab_size)
    drawn = len(batch.logit_rows) - (0 if scores is None else len(scores.tokens))
    if (wanted := len(draws) + sum(drafted)) != drawn:
        raise FrameError(f"an item wants {drawn} tokens and says how to draw {wanted}")
    if any(drafted):
        _check_drafted(batch, drafted)
    slots = [one.history.slot for one in draws if one.history is not None]
    if len(set(slots)) < len(slots):
        raise FrameError("two sequences of an item have the same history")
    samplers = [_sampler(one, histories) for one in draws]
    masks = None
    if any(one.masks is not None for one in draws):
        masks = StepMasks.of([_masks(one, histories.vocab_size) for one in draws])
    return StageItem(found.number, batch, samplers, [one.known for one in draws], drafted, masks, scores)


def encode_choices(choices: Sequence[Choice | None]) -> bytes:
    """The bytes of what the last stage has drawn."""
    return _encoder.encode([None if one is None else _Choice(one.token_id, _logprob(one.logprob)) for one in choices])


def decode_choices(data: bytes | memoryview, *, wanted: int, vocab_size: int) -> list[Choice | None]:
    """What was drawn for `wanted` rows; None also for those behind a draft that wasn't right. Raises FrameError."""
    found: list[_Choice | None] = _decoded(_choices, data, "choices")
    if len(found) != wanted:
        raise FrameError(f"{len(found)} tokens were drawn instead of {wanted}")
    choices: list[Choice | None] = []
    for one in found:
        if one is None:
            choices.append(None)
            continue
        told = one.logprob
        ids = [one.token_id] if told is None else [one.token_id, told.token_id, *(token for token, _ in told.top)]
        if max(ids) >= vocab_size:
            raise FrameError(f"a token {max(ids)} was drawn, outside the vocabulary of {vocab_size}")
        choices.append(
            Choice(
                one.token_id,
                None if told is None else TokenLogprob(told.token_id, told.logprob, told.rank, tuple(told.top)),
            )
        )
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


def _decoded(decoder: Any, data: Any, what: str) -> Any:
    size = memoryview(data).nbytes
    if size > MOST_ITEM:
        raise FrameError(f"an {what} of {size} bytes is too large", too_large=True)
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise FrameError(f"this is no {what}: {error}") from None


def _bytes(array: NDArray[np.integer]) -> bytes:
    return array.astype("<i4", copy=False).tobytes()


def _ints(data: bytes, name: str, size: int | None = None) -> NDArray[np.int32]:
    if len(data) % 4 or (size is not None and len(data) != 4 * size):
        raise FrameError(
            f"{name} of an item has {len(data)} bytes" + ("" if size is None else f" instead of {4 * size}")
        )
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def _batch(found: _Item, adapters: Mapping[bytes, LoadedAdapter]) -> Batch:
    rows, sequences = found.rows, found.sequences
    tables = _ints(found.block_tables, "block_tables")
    if len(tables) % sequences:
        raise FrameError("block_tables of an item hasn't a row for each sequence")
    states = None
    if found.states is not None:
        saves = _ints(found.states.saves, "saves")
        if len(saves) % 3:
            raise FrameError("saves of an item aren't threes of numbers")
        slots, sources = (_ints(part, "states", sequences) for part in (found.states.slots, found.states.sources))
        states = States(slots, sources, saves.reshape(-1, 3))
    return Batch(
        token_ids=_ints(found.token_ids, "token_ids", rows),
        positions=_ints(found.positions, "positions", rows),
        row_starts=_ints(found.row_starts, "row_starts", sequences + 1),
        context_lens=_ints(found.context_lens, "context_lens", sequences),
        block_tables=tables.reshape(sequences, -1),
        logit_rows=_ints(found.logit_rows, "logit_rows"),
        limits=_ints(found.limits, "limits", sequences),
        adapters=_adapters(found, adapters),
        states=states,
    )


def _adapters(found: _Item, adapters: Mapping[bytes, LoadedAdapter]) -> tuple[LoadedAdapter | None, ...]:
    if not found.chosen:
        return ()
    loaded: list[LoadedAdapter] = []
    for one in found.adapters:
        if one.digest not in adapters:
            raise FrameError(f"the adapter {one.name!r} isn't loaded here, or is another one")
        loaded.append(adapters[one.digest])
    chosen = _ints(found.chosen, "adapters", found.sequences).tolist()
    if min(chosen) < -1 or max(chosen) >= len(loaded):
        raise FrameError("an item names an adapter that isn't there")
    return tuple(None if one < 0 else loaded[one] for one in chosen)


def _check(batch: Batch, setup: StageSetup, vocab_size: int) -> None:
    """Raises FrameError unless all numbers of a batch lie where they may."""
    starts = batch.row_starts.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    rows = len(batch.token_ids)
    if rows > setup.rows or len(counts) > setup.sequences or len(batch.logit_rows) > rows:
        raise FrameError(f"an item of {rows} rows is too large: {setup.rows} were agreed on", too_large=True)
    _within("row_starts", batch.row_starts[[0, -1]] - [0, rows], 0, 0)
    _within("row_starts", counts, 1, rows)
    _within("token_ids", batch.token_ids, 0, vocab_size - 1)
    _within("logit_rows", batch.logit_rows, 0, rows - 1)
    blocks = batch.block_tables.shape[1]
    _within("context_lens", batch.context_lens - counts, 0, 2**31 - 1)
    _within("context_lens", batch.context_lens, 1, blocks * setup.block_size)
    _within("limits", batch.limits.astype(np.int64) - batch.context_lens, 0, 2**31 - 1)
    _within("positions", batch.positions, 0, max(0, int(batch.limits.max()) - 1))
    used = -(-batch.context_lens // setup.block_size)
    tables = batch.block_tables
    if tables.size and int(used.min()) < blocks:  # what is behind a sequence's own blocks is never read
        tables = tables[np.arange(blocks)[None, :] < used[:, None]]
    _within("block_tables", tables, 0, setup.blocks - 1)
    if (batch.states is None) != (setup.states == 0):
        raise FrameError("an item has states of sequences where there are none, or none where there are")
    if (states := batch.states) is not None:
        _within("states", states.slots, 0, setup.states - 1)
        _within("states", states.sources, -1, setup.states - 1)
        _within("saves", states.saves[:, 0], 0, len(counts) - 1)
        _within("saves", states.saves[:, 2], 0, setup.states - 1)


def _check_drafted(batch: Batch, drafted: Sequence[int]) -> None:
    """Raises FrameError unless drafts are rows behind each other of one sequence."""
    first = np.cumsum([0, *(1 + count for count in drafted)])[:-1]
    behind = np.delete(np.arange(len(drafted) + sum(drafted)), first)
    rows = batch.logit_rows[behind]
    _within("logit_rows", rows - batch.logit_rows[behind - 1] - 1, 0, 0)
    _within("logit_rows", np.isin(rows, batch.row_starts).astype(np.int32), 0, 0)


def _scores(found: _WiderItem, vocab_size: int) -> Scores | None:
    tokens = _ints(found.scored, "scored")
    if not len(tokens):
        return None
    likeliest = _ints(found.likeliest, "likeliest", len(tokens))
    _within("scored", tokens, 0, vocab_size - 1)
    _within("likeliest", likeliest, 0, MAX_LOGPROBS)
    return Scores(tokens, likeliest)


def _within(name: str, values: NDArray[Any], low: int, high: int) -> None:
    if not values.size:
        return
    if values.size <= FEW:  # as Python's numbers these are looked at in a fraction of the time
        numbers = values.ravel().tolist()
        least, most = min(numbers), max(numbers)
    else:
        least, most = int(values.min()), int(values.max())
    if not (least >= low and most <= high):
        raise FrameError(f"{name} of an item has a number that can't be")


def _masks(found: _Sampling, vocab_size: int) -> list[Bits] | None:
    if found.masks is not None and len(found.masks) > 1 + found.drafted:
        raise FrameError("sampling of an item has more masks than rows")
    return None if found.masks is None else [mask_of(one, vocab_size) for one in found.masks]


def _sampling(sampler: TokenSampler, known: int, drafted: int, masks: list[Bits] | None) -> _Sampling:
    state, params = sampler.state(known), sampler.params
    return _Sampling(
        float(params.temperature),
        float(params.top_p),
        params.top_k,
        float(params.min_p),
        params.logprobs,
        float(params.repetition_penalty),
        float(params.presence_penalty),
        float(params.frequency_penalty),
        state.key.to_bytes(16, "little"),
        known,
        _bytes(state.masked),
        None,
        state.until,
        drafted,
        None if state.biased is None else _bytes(state.biased),
        None if state.biases is None else state.biases.astype("<f8", copy=False).tobytes(),
        None if masks is None else [mask_part(one) for one in masks],
    )


def _sampler(found: _Sampling, histories: KnownHistories) -> TokenSampler:
    masked, part, vocab_size = _ints(found.masked, "sampling"), found.history, histories.vocab_size
    penalties = (found.repetition_penalty, found.presence_penalty, found.frequency_penalty)
    if found.temperature == 0 and penalties == (1, 0, 0) and not masked.size and part is None and found.biased is None:
        # What is likeliest depends neither on a seed nor on what came before.
        try:
            return _greedy(found.top_p, found.top_k, found.min_p, found.logprobs)
        except RequestError as error:
            raise FrameError(f"sampling of an item: {error}") from None
    _within("sampling", masked, 0, vocab_size - 1)
    biased = None if found.biased is None else _ints(found.biased, "sampling")
    biases = None if found.biases is None or len(found.biases) % 8 else np.frombuffer(found.biases, "<f8")
    if (biased is None) != (biases is None) or (
        biased is not None and biases is not None and biased.size != biases.size
    ):
        raise FrameError("sampling of an item has other biases than tokens")
    if biased is not None and biases is not None:
        _within("sampling", biased, 0, vocab_size - 1)
        if not (np.abs(biases) <= 100).all():
            raise FrameError("sampling of an item has a bias that can't be")
    state = SamplerState(int.from_bytes(found.key, "little"), masked, None, found.until, biased, biases)
    try:
        sampler = TokenSampler.restored(
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
    params = sampler.params
    if params.penalises != (part is not None):
        raise FrameError("sampling of an item has penalties without the tokens that they are for, or these without")
    if part is not None:
        ids = _ints(part.ids, "sampling")
        _within("sampling", ids, 0, vocab_size - 1)
        if part.start + len(ids) != found.known:
            raise FrameError("sampling of an item has another number of tokens than it says")
        own = HistoryPart(part.slot, part.start, part.prompt_tokens, ids)
        sampler.history = histories.take(own, seen=params.penalises_seen, counts=params.penalises_output)
    return sampler


@lru_cache(maxsize=64)
def _greedy(top_p: float, top_k: int, min_p: float, logprobs: int | None) -> TokenSampler:
    state = SamplerState(0, NONE, None, 0)
    return TokenSampler.restored(state, temperature=0.0, top_p=top_p, top_k=top_k, min_p=min_p, logprobs=logprobs)


def _logprob(told: TokenLogprob | None) -> _Logprob | None:
    return None if told is None else _Logprob(told.token_id, told.logprob, told.rank, list(told.top))

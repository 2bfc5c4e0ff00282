"""What goes from stage to stage: the rows of a step. `stage_sampling` has what it takes to draw the tokens that follow.

A stage keeps nothing of a sequence but what its cache holds, and the last one the tokens that penalties count: an item
brings those that are new (`token_history`). Its bytes are a msgpack array of counts, of one array of int32 with all
numbers of the rows in little-endian order, and of what only some items have. Whoever decodes one takes nothing for
granted: what isn't exactly such an item, within these bounds, is a FrameError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.engine.constraint import StepMasks
from cutset.engine.params import MAX_LOGPROBS
from cutset.engine.sampler import Scores, TokenSampler
from cutset.engine.stage_sampling import MOST_SEQUENCES, decode_sampling, encode_sampling
from cutset.engine.token_history import KnownHistories, SentHistories
from cutset.engine.wire_parts import MOST_ITEM, MOST_ROWS, Count, Ints, Number, WirePart, as_ints, decoded, within
from cutset.errors import FrameError
from cutset.models.run.executor import Batch, LoadedAdapter, States

__all__ = [
    "MOST_ITEM",
    "MOST_ROWS",
    "MOST_SEQUENCES",
    "StageItem",
    "StageSetup",
    "decode_item",
    "decode_setup",
    "encode_item",
    "encode_setup",
    "with_sampling",
]

MOST = 2**31 - 1
FEW = 2048  # numbers of an item whose bounds are kept

Name = Annotated[str, msgspec.Meta(max_length=1000)]
Digest = Annotated[bytes, msgspec.Meta(max_length=64)]


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
    # Of the last of `batch.logit_rows`, behind those of the samplers; None: no row has any.
    scores: Scores | None = None
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


class _Adapter(WirePart):
    name: Name
    digest: Digest


class _Item(WirePart):
    number: Count
    sequences: Annotated[int, msgspec.Meta(ge=1, le=MOST_SEQUENCES)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)]
    wanted: Annotated[int, msgspec.Meta(ge=0, le=MOST_ROWS)]
    blocks: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]  # of the longest table
    # row_starts (sequences + 1), context_lens, limits (sequences each), token_ids, positions (rows each),
    # logit_rows (wanted), block_tables (sequences, blocks)
    numbers: Ints
    states: Ints  # slots, sources (sequences each), saves (copies, 3); or empty
    adapters: Annotated[list[_Adapter], msgspec.Meta(max_length=MOST_SEQUENCES)]  # those of the batch, once each
    chosen: Ints  # (sequences,) which of them each sequence has, -1 for none; or empty
    sampling: msgspec.Raw  # as `encode_sampling` gives it, read by the last stage alone


class _WiderItem(_Item):
    """One that scores tokens, or is pooled. Others are sent without."""

    scored: Ints = b""  # (scored,) the given next tokens of the last of logit_rows
    likeliest: Ints = b""  # (scored,) how many are reported beside each
    pooled: bool = False


_encoder = msgspec.msgpack.Encoder()
_items = msgspec.msgpack.Decoder(_WiderItem)
_setups = msgspec.msgpack.Decoder(StageSetup)


def encode_setup(setup: StageSetup) -> bytes:
    """The bytes of a setup."""
    return _encoder.encode(setup)


def decode_setup(data: bytes | memoryview) -> StageSetup:
    """Raises FrameError."""
    found: StageSetup = decoded(_setups, data, "setup of stages")
    return found


def encode_item(item: StageItem, histories: SentHistories | None = None) -> bytes:
    """The bytes of an item. `histories`: what the last stage has already; without, it gets all that is needed."""
    batch = item.batch
    if batch.key_mask is not None:
        raise ValueError("a padded batch doesn't go through stages")
    parts = [batch.row_starts, batch.context_lens, batch.limits, batch.token_ids, batch.positions, batch.logit_rows]
    states = chosen = b""
    if (own := batch.states) is not None:
        states = _bytes(np.concatenate([own.slots, own.sources, own.saves.reshape(-1)]))
    adapters = dict[bytes, LoadedAdapter]()
    if batch.adapters:
        adapters = {one.digest: one for one in batch.adapters if one is not None}
        order = {digest: place for place, digest in enumerate(adapters)}
        chosen = _bytes(np.array([-1 if one is None else order[one.digest] for one in batch.adapters], np.int32))
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
            wanted=len(batch.logit_rows),
            blocks=batch.block_tables.shape[1],
            numbers=_bytes(np.concatenate([*parts, batch.block_tables.reshape(-1)])),
            states=states,
            adapters=[_Adapter(one.name, one.digest) for one in adapters.values()],
            chosen=chosen,
            sampling=msgspec.Raw(encode_sampling(item.samplers, item.known, item.drafted, item.masks, histories)),
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
    found: _WiderItem = decoded(_items, data, "item")
    batch, numbers = _batch(found, adapters or {})
    _check(batch, numbers, setup, vocab_size)
    item = StageItem(found.number, batch, (), (), pooled=found.pooled)
    if not sampling or found.pooled:
        return item
    return _with_sampling(item, found, KnownHistories(setup.sequences, vocab_size) if histories is None else histories)


def with_sampling(item: StageItem, data: bytes | memoryview, histories: KnownHistories) -> StageItem:
    """An item that `decode_item` gave without them, with its samplers: the last stage alone needs these, and not before
    its logits are there. Raises what that does."""
    return _with_sampling(item, decoded(_items, data, "item"), histories)


def _with_sampling(item: StageItem, found: _WiderItem, histories: KnownHistories) -> StageItem:
    batch = item.batch
    scores = _scores(found, histories.vocab_size)
    drawn = len(batch.logit_rows) - (0 if scores is None else len(scores.tokens))
    draws = decode_sampling(found.sampling, drawn, histories)
    if draws.drafted:
        _check_drafted(batch, draws.drafted)
    return StageItem(item.number, batch, draws.samplers, draws.known, draws.drafted, draws.masks, scores)


def _scores(found: _WiderItem, vocab_size: int) -> Scores | None:
    tokens = as_ints(found.scored, "scored")
    if not len(tokens):
        return None
    likeliest = as_ints(found.likeliest, "likeliest", len(tokens))
    within("scored", tokens, 0, vocab_size - 1)
    within("likeliest", likeliest, 0, MAX_LOGPROBS)
    return Scores(tokens, likeliest)


def _bytes(array: NDArray[np.integer]) -> bytes:
    return array.astype("<i4", copy=False).tobytes()


def _batch(found: _Item, adapters: Mapping[bytes, LoadedAdapter]) -> tuple[Batch, NDArray[np.int32]]:
    rows, sequences, wanted = found.rows, found.sequences, found.wanted
    ends = [sequences + 1]
    for size in (sequences, sequences, rows, rows, wanted):
        ends.append(ends[-1] + size)
    numbers = as_ints(found.numbers, "numbers", ends[-1] + sequences * found.blocks)
    states = None
    if found.states:
        own = as_ints(found.states, "states")
        if len(own) < 2 * sequences or (len(own) - 2 * sequences) % 3:
            raise FrameError("states of an item aren't two for each sequence and threes of copies")
        saves = own[2 * sequences :].reshape(-1, 3)
        states = States(own[:sequences], own[sequences : 2 * sequences], saves)
    batch = Batch(
        token_ids=numbers[ends[2] : ends[3]],
        positions=numbers[ends[3] : ends[4]],
        row_starts=numbers[: ends[0]],
        context_lens=numbers[ends[0] : ends[1]],
        block_tables=numbers[ends[5] :].reshape(sequences, found.blocks),
        logit_rows=numbers[ends[4] : ends[5]],
        limits=numbers[ends[1] : ends[2]],
        adapters=_adapters(found, adapters),
        states=states,
    )
    return batch, numbers


def _adapters(found: _Item, adapters: Mapping[bytes, LoadedAdapter]) -> tuple[LoadedAdapter | None, ...]:
    if not found.chosen:
        return ()
    loaded: list[LoadedAdapter] = []
    for one in found.adapters:
        if one.digest not in adapters:
            raise FrameError(f"the adapter {one.name!r} isn't loaded here, or is another one")
        loaded.append(adapters[one.digest])
    chosen = as_ints(found.chosen, "adapters", found.sequences).tolist()
    if min(chosen) < -1 or max(chosen) >= len(loaded):
        raise FrameError("an item names an adapter that isn't there")
    return tuple(None if one < 0 else loaded[one] for one in chosen)


def _check(batch: Batch, numbers: NDArray[np.int32], setup: StageSetup, vocab_size: int) -> None:
    """Raises FrameError unless all numbers of a batch lie where they may."""
    rows, sequences, wanted = len(batch.token_ids), len(batch.limits), len(batch.logit_rows)
    if rows > setup.rows or sequences > setup.sequences or wanted > rows:
        raise FrameError(f"an item of {rows} rows is too large: {setup.rows} were agreed on", too_large=True)
    tables, starts, lens, limits = batch.block_tables, batch.row_starts, batch.context_lens, batch.limits
    blocks = tables.shape[1]
    # All but the tables at once: one by one they would cost several times as much.
    known = (sequences, rows, wanted, vocab_size, min(blocks * setup.block_size, MOST))
    low, high = (_kept_bounds if 2 * rows + sequences < FEW else _bounds)(*known)
    plain = numbers[: len(low)]
    if not ((plain >= low) & (plain <= high)).all():
        for name in ("row_starts", "context_lens", "limits", "token_ids", "positions", "logit_rows"):
            size = getattr(batch, name).size
            _require(bool(((plain[:size] >= low[:size]) & (plain[:size] <= high[:size])).all()), name)
            plain, low, high = plain[size:], low[size:], high[size:]
    counts = starts[1:] - starts[:-1]
    _require(starts[0] == 0 and starts[-1] == rows and counts.min() >= 1, "row_starts")
    _require(bool((lens >= counts).all()), "context_lens")
    _require(bool((limits >= lens).all()), "limits")
    _require(batch.positions.max() < limits.max(), "positions")
    used = -(-lens // setup.block_size)
    if tables.size and int(used.min()) < blocks:  # what is behind a sequence's own blocks is never read
        tables = tables[np.arange(blocks) < used[:, None]]
    within("block_tables", tables, 0, setup.blocks - 1)
    if (batch.states is None) != (setup.states == 0):
        raise FrameError("an item has states of sequences where there are none, or none where there are")
    if (states := batch.states) is not None:
        within("states", states.slots, 0, setup.states - 1)
        within("states", states.sources, -1, setup.states - 1)
        within("saves", states.saves[:, 0], 0, sequences - 1)
        within("saves", states.saves[:, 2], 0, setup.states - 1)


def _require(right: bool | np.bool_, name: str) -> None:
    if not right:
        raise FrameError(f"{name} of an item has a number that can't be")


def _bounds(
    sequences: int, rows: int, wanted: int, vocab_size: int, context: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The least and the most that each number of an item may be, but for tables, in the order of `_Item.numbers`."""
    sizes = (sequences + 1, sequences, sequences, rows, rows, wanted)
    least, most = (0, 1, 1, 0, 0, 0), (rows, context, MOST, vocab_size - 1, MOST, rows - 1)
    return np.repeat(np.array(least, np.int32), sizes), np.repeat(np.array(most, np.int32), sizes)


_kept_bounds = lru_cache(maxsize=64)(_bounds)


def _check_drafted(batch: Batch, drafted: Sequence[int]) -> None:
    """Raises FrameError unless drafts are rows behind each other of one sequence."""
    first = np.cumsum([0, *(1 + count for count in drafted)])[:-1]
    behind = np.delete(np.arange(len(drafted) + sum(drafted)), first)
    rows = batch.logit_rows[behind]
    within("logit_rows", rows - batch.logit_rows[behind - 1] - 1, 0, 0)
    within("logit_rows", np.isin(rows, batch.row_starts).astype(np.int32), 0, 0)

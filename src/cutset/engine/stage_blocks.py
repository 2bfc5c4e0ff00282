"""Blocks of the KV cache that stages keep on their own disks: what an engine asks of them, and what they answer.

Each stage keeps the part of its layers. What it shall keep, and what it shall fill from there, comes between two steps:
a stage does both before any step that is sent later, so a block may be used again as soon as that has been sent. An
answer has a byte that is 1 where all stages keep blocks, and one for each that was to be filled: 1 where all had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from cutset.cluster.values import Bytes
from cutset.engine.blocks import BlockPool
from cutset.engine.sequence import Sequence as TokenSequence
from cutset.errors import FrameError

__all__ = [
    "MOST_BLOCKS",
    "BlocksItem",
    "BlocksResult",
    "StagedBlocks",
    "StoredBlock",
    "answer",
    "decode_blocks",
    "decode_found",
    "encode_blocks",
    "is_blocks",
]

MOST_BLOCKS = 64  # of an item
KEEP_AT = 32  # blocks that wait, at which they are sent
START = b"\x94\xa6blocks"  # of a message's bytes: an array of four, whose first element is its tag

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Block = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Digest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Tokens = Annotated[bytes, msgspec.Meta(max_length=1 << 22)]


class StoredBlock(NamedTuple):
    """A full block: its number in the cache, the digest of all tokens up to its end, and its own as int32."""

    block: Block
    digest: Digest
    tokens: Tokens


class BlocksItem(NamedTuple):
    """What stages shall keep, and then fill."""

    number: int  # counts up with those of steps
    keep: Sequence[StoredBlock]
    fill: Sequence[StoredBlock]


class BlocksResult(NamedTuple):
    """What became of it."""

    number: int
    kept: bool  # all stages keep blocks
    found: list[bool]  # of each that was to be filled


Blocks = Annotated[list[StoredBlock], msgspec.Meta(max_length=MOST_BLOCKS)]


class _Blocks(msgspec.Struct, array_like=True, forbid_unknown_fields=True, tag="blocks"):
    number: Number
    keep: Blocks
    fill: Blocks


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Blocks)


def is_blocks(data: Bytes) -> bool:
    """Whether an item's bytes are such a message instead."""
    return data[: len(START)].tobytes() == START


def encode_blocks(item: BlocksItem) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(_Blocks(item.number, list(item.keep), list(item.fill)))


def decode_blocks(data: Bytes, *, blocks: int, block_size: int) -> BlocksItem:
    """A message for a cache of so many blocks. Raises FrameError."""
    try:
        found = _decoder.decode(data.data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise FrameError(f"this is no message on blocks: {error}") from None
    for one in (*found.keep, *found.fill):
        if one.block >= blocks or len(one.tokens) != 4 * block_size:
            raise FrameError("a message on blocks has one that can't be")
    return BlocksItem(found.number, found.keep, found.fill)


def decode_found(data: Bytes, wanted: int) -> tuple[bool, list[bool]]:
    """Whether all stages before keep blocks, and which of the wanted ones they have. Raises FrameError."""
    if data.size != 1 + wanted or (data > 1).any():
        raise FrameError(f"an answer on {wanted} blocks has {data.size} bytes")
    return bool(data[0]), [bool(one) for one in data[1:]]


class StagedBlocks:
    """An engine's side: what it will ask of the stages next. Stands where `StoredBlocks` does with one cache here."""

    def __init__(self, pool: BlockPool, block_bytes: int, most: int) -> None:
        """Items fill about `most` bytes, of blocks of `block_bytes` in all layers."""
        self.most_fill = min(MOST_BLOCKS, max(1, most // max(1, block_bytes)))
        self.kept: bool | None = None  # whether stages keep blocks; None: they weren't asked yet
        self._pool = pool
        self._keep: list[StoredBlock] = []
        self._told: set[bytes] = set()  # digests of blocks that stages keep, or shall
        self._asked: list[tuple[TokenSequence, int, list[StoredBlock]]] = []  # with the sequence's epoch
        self._on_their_way: dict[int, list[tuple[TokenSequence, int, list[StoredBlock]]]] = {}

    def write(self, block: int, digest: bytes, tokens: bytes) -> None:
        """Stages shall keep a block that has been computed and published."""
        if self.kept is not False and digest not in self._told and self._pool.find(digest, tokens) == block:
            self._told.add(digest)
            self._keep.append(StoredBlock(block, digest, tokens))

    def ask(self, sequence: TokenSequence, blocks: list[StoredBlock]) -> None:
        """They shall fill blocks that a sequence has just got."""
        self._asked.append((sequence, sequence.epoch, blocks))

    def item(self, number: int, *, rest: bool = False) -> BlocksItem | None:
        """What must be sent before the next step; with `rest` all that waits. None where there is nothing."""
        if self.kept is False:
            self._keep.clear()
        asked: list[tuple[TokenSequence, int, list[StoredBlock]]] = []
        fill: list[StoredBlock] = []
        self._asked = [one for one in self._asked if one[0].epoch == one[1]]  # others have given their blocks back
        while self._asked and len(fill) + len(self._asked[0][2]) <= MOST_BLOCKS:
            asked.append(self._asked.pop(0))
            fill += asked[-1][2]
        # A block that was given to somebody else is overwritten by the next step.
        due = rest or len(self._keep) >= KEEP_AT
        due = due or any(self._pool.find(one.digest, one.tokens) != one.block for one in self._keep)
        if not fill and not (due and self._keep):
            return None
        keep, self._keep = self._keep[:MOST_BLOCKS], self._keep[MOST_BLOCKS:]
        self._on_their_way[number] = asked
        return BlocksItem(number, keep, fill)

    def came(self, result: BlocksResult) -> list[tuple[TokenSequence, int, list[StoredBlock], int]]:
        """Of each sequence that asked, its epoch then, the blocks that it asked for, and how many of the first were
        found."""
        self.kept = result.kept
        told, place = [], 0
        for sequence, epoch, blocks in self._on_their_way.pop(result.number, []):
            found = result.found[place : place + len(blocks)]
            place += len(blocks)
            # One that had to go from a disk is kept again when it has been computed.
            self._told.difference_update(one.digest for one, right in zip(blocks, found, strict=True) if not right)
            told.append((sequence, epoch, blocks, (*found, False).index(False)))
        return told

    def lose(self) -> None:
        """The stages have gone: others may keep other blocks."""
        self.kept = None
        self._keep, self._asked = [], []
        self._told.clear()
        self._on_their_way.clear()


def answer(kept: bool, found: Sequence[bool]) -> Bytes:
    """The bytes of an answer."""
    return np.array([kept, *found], dtype=np.uint8)

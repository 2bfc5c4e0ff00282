"""Masks over a vocabulary, a bit for each token, and their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.errors import FrameError

__all__ = ["Bits", "MaskPart", "all_bits", "allowed_flags", "allowed_ids", "bits_of", "has", "mask_of", "mask_part"]

Bits = NDArray[np.uint32]  # (vocab / 32, rounded up) the lowest bit first


def bits_of(ids: Iterable[int], vocab_size: int) -> Bits:
    """A mask with the bits of these ids."""
    flags = np.zeros(-(-vocab_size // 32) * 32, dtype=np.bool_)
    flags[np.fromiter(ids, np.intp)] = True
    return np.packbits(flags, bitorder="little").view("<u4").astype(np.uint32, copy=False)


@lru_cache(maxsize=8)
def all_bits(vocab_size: int) -> Bits:
    """A mask that allows every token. Others may hold it: it can't be written to."""
    mask = bits_of(range(vocab_size), vocab_size)
    mask.flags.writeable = False
    return mask


def has(mask: Bits, token_id: int) -> bool:
    """Whether a mask allows a token."""
    return bool(int(mask[token_id >> 5]) >> (token_id & 31) & 1)


def allowed_flags(mask: Bits, vocab_size: int) -> NDArray[np.bool_]:
    """(vocab,) whether a mask allows each token."""
    flags = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), count=vocab_size, bitorder="little")
    return flags.view(np.bool_)


def allowed_ids(mask: Bits, vocab_size: int) -> NDArray[np.intp]:
    """The ids that a mask allows, ascending."""
    words = np.flatnonzero(mask)
    if 4 * len(words) > len(mask):
        return np.flatnonzero(allowed_flags(mask, vocab_size))
    # Many places of a text allow a handful of tokens, and few words have their bits.
    rows, places = np.nonzero(allowed_flags(mask[words], 32 * len(words)).reshape(-1, 32))
    found = words[rows] * 32 + places
    return found if not len(found) or found[-1] < vocab_size else found[found < vocab_size]


class MaskPart(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A mask as it goes from place to place."""

    listed: bool  # the ids that may come, int32; else the mask itself
    data: Annotated[bytes, msgspec.Meta(max_length=1 << 22)]


def mask_part(mask: Bits) -> MaskPart:
    """As ids where these are fewer bytes: many places of a JSON text allow a handful."""
    if int(np.bitwise_count(mask).sum()) < len(mask):
        return MaskPart(True, allowed_ids(mask, 32 * len(mask)).astype("<i4").tobytes())
    return MaskPart(False, mask.astype("<u4", copy=False).tobytes())


def mask_of(part: MaskPart, vocab_size: int) -> Bits:
    """Raises FrameError for what is no mask of such a vocabulary."""
    words = -(-vocab_size // 32)
    if len(part.data) % 4 or (not part.listed and len(part.data) != 4 * words):
        raise FrameError(f"a mask of an item has {len(part.data)} bytes")
    if not part.listed:
        return np.frombuffer(part.data, "<u4").astype(np.uint32, copy=False)
    ids = np.frombuffer(part.data, "<i4")
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        raise FrameError("a mask of an item has an id outside the vocabulary")
    return bits_of(ids.tolist(), vocab_size)

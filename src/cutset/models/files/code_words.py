"""Codes of a few bits in words of 32: one stream of bits along the last axis, the low bits of the first word first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed_codes", "packed_words", "unpacked_codes"]

Codes = NDArray[np.uint8]


def packed_words(count: int, bits: int) -> int:
    """Words that `count` codes take."""
    return -(-count * bits // 32)


def unpacked_codes(words: NDArray[Any], bits: int, count: int) -> Codes:
    """The codes (rows, count) of words (rows, words), of 32 bits or of 8; codes of 3 bits may cross words."""
    data = np.ascontiguousarray(words).view(np.uint8)  # little-endian, as the files are
    if bits == 8:
        return data[:, :count]
    if 8 % bits == 0:
        codes = np.empty((*data.shape, 8 // bits), np.uint8)
        for place in range(8 // bits):
            codes[..., place] = (data >> (bits * place)) & ((1 << bits) - 1)
        return codes.reshape(len(data), -1)[:, :count]
    single = np.unpackbits(data, axis=1, count=count * bits, bitorder="little").reshape(len(data), count, bits)
    return np.packbits(single, axis=2, bitorder="little")[..., 0]


def packed_codes(codes: Codes, bits: int) -> NDArray[np.int32]:
    """Codes (rows, count) as words (rows, words); the last word is filled with zeros."""
    rows, count = codes.shape
    single = np.unpackbits(codes[..., None], axis=2, count=bits, bitorder="little").reshape(rows, count * bits)
    padded = np.zeros((rows, 32 * packed_words(count, bits)), np.uint8)
    padded[:, : count * bits] = single
    return np.packbits(padded, axis=1, bitorder="little").view(np.int32)

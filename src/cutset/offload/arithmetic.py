"""The arithmetic that client and accelerator share: residues mod P, and the keystream that they are drawn from.

docs/protocol.md has test vectors. Word i of a draw comes from ChaCha20 (RFC 8439) under a 32-byte seed: block i // 16
of the keystream, word i % 16 of it, little-endian, the top bit cleared. That is a residue mod P = 2^31 - 1, but for one
value in 2^31, P itself. A word that is P is drawn again from the same place of the keystream with the next nonce, until
it isn't; the nonce is the number of the draw, 12 bytes little-endian, 0 at first. So a residue depends on the seed and
its own index alone.

Nothing here is secret: masks are drawn where the seeds are made (client/ledger.py), and a pad server is given seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from cutset.kernels.reference_field import P, Residues

__all__ = ["INTEGERS", "RESIDUES", "SEED_BYTES", "SUMS", "accept", "random_residues", "residues"]

# Types of the arrays of a product: masked rows and their products, rows in clear, and their products.
RESIDUES, INTEGERS, SUMS = np.dtype(np.uint32), np.dtype(np.int16), np.dtype(np.int32)
SEED_BYTES = 32
WORD_MASK = 0x7FFFFFFF
WORDS_A_BLOCK = 16
MOST_WORDS = 1 << 34  # of one seed; the cipher's 32-bit block counter allows four times as many
MOST_DRAWS = 64  # a word that is P so often is no accident
PIECE = bytes(1 << 16)  # what is encrypted at a time, so that the work stays in the cache

# redraw(positions, draw) gives the words of these positions in that draw.
Redraw = Callable[[NDArray[np.int64], int], NDArray[np.uint32]]


def residues(seed: bytes, count: int, start: int = 0) -> Residues:
    """Residues (count,) of a seed, from index `start` on. ValueError for a range that a seed doesn't have."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    if start < 0 or count < 0 or start + count > MOST_WORDS:
        raise ValueError(f"a seed has {MOST_WORDS} residues")
    drawn = _words(seed, count, start, 0)

    def redraw(positions: NDArray[np.int64], draw: int) -> NDArray[np.uint32]:
        return np.array([_words(seed, 1, start + int(i), draw)[0] for i in positions], np.uint32)

    accept(drawn, redraw)
    return drawn


def accept(words: NDArray[np.uint32], redraw: Redraw) -> None:
    """Clears the words' top bits and draws those that are P again, in place, until none is left."""
    np.bitwise_and(words, np.uint32(WORD_MASK), out=words)
    left = np.flatnonzero(words == P)
    for draw in range(1, MOST_DRAWS):
        if not left.size:
            return
        words[left] = redraw(left, draw) & np.uint32(WORD_MASK)
        left = left[words[left] == P]
    if left.size:
        raise RuntimeError("the source of random words gives the same word again and again")


def random_residues(count: int) -> Residues:
    """Residues (count,) from the system's random numbers."""
    words = np.frombuffer(bytearray(os.urandom(4 * count)), np.uint32)
    accept(words, lambda positions, draw: np.frombuffer(os.urandom(4 * len(positions)), np.uint32))
    return words


def _words(seed: bytes, count: int, start: int, draw: int) -> NDArray[np.uint32]:
    """Words start .. start + count of a draw's keystream, as they are."""
    block, skipped = divmod(start, WORDS_A_BLOCK)
    # The library's 16 bytes are RFC 8439's block counter, then its nonce.
    nonce = block.to_bytes(4, "little") + draw.to_bytes(12, "little")
    encryptor = Cipher(algorithms.ChaCha20(seed, nonce), mode=None).encryptor()
    if skipped:
        encryptor.update(PIECE[: 4 * skipped])
    words = np.empty(count, "<u4")
    room = words.view(np.uint8).data
    for at in range(0, len(room), len(PIECE)):
        n = min(len(PIECE), len(room) - at)
        encryptor.update_into(PIECE[:n], room[at : at + n])
    return words.astype(np.uint32, copy=False)

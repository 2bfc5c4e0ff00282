"""Merkle trees: salted ones whose leaves can be shown one by one, and those of a log (RFC 9162, 2.1)."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from cutset.trust.verify_receipt import MOST_LEAVES, hash_leaf, hash_node

__all__ = [
    "EMPTY_ROOT",
    "SALT_BYTES",
    "SaltedTree",
    "consistency_proof",
    "hash_entry",
    "inclusion_proof",
    "is_consistent",
    "is_included",
    "log_root",
]

SALT_BYTES = 16
BLANK = b"\xf6"  # the content of leaves that fill a tree up: null
EMPTY_ROOT = hashlib.sha256(b"").digest()  # of a log without entries


class SaltedTree:
    """A tree over contents, each under a salt of its own, filled up with blank leaves to a power of two: so the tree
    tells of their number what `--pad-rows` tells of rows. Whoever knows the root can guess no content."""

    def __init__(self, contents: Sequence[bytes], salts: bytes | None = None, *, least: int = 1) -> None:
        """salts: 16 bytes for each leaf, one behind the other, None for fresh ones; then `contents` has blank leaves
        too. least: a power of two, the size of the smallest tree. Raises ValueError for more than MOST_LEAVES."""
        size = max(least, 1 << max(0, len(contents) - 1).bit_length())
        if size > MOST_LEAVES:
            raise ValueError(f"a tree has at most {MOST_LEAVES} leaves")
        self.contents = [*contents, *[BLANK] * (size - len(contents))]
        self.salts = os.urandom(SALT_BYTES * size) if salts is None else salts
        if len(self.salts) != SALT_BYTES * size:
            raise ValueError("a tree needs a salt for each leaf")
        level = [hash_leaf(self.salt(index), content) for index, content in enumerate(self.contents)]
        self._levels = [level]
        while len(level) > 1:
            level = [hash_node(level[at], level[at + 1]) for at in range(0, len(level), 2)]
            self._levels.append(level)

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self._levels[-1][0]

    def salt(self, index: int) -> bytes:
        """Of one leaf."""
        return self.salts[SALT_BYTES * index : SALT_BYTES * (index + 1)]

    def show(self, places: Sequence[int]) -> tuple[list[list[int | bytes]], list[bytes]]:
        """Leaves as [index, salt, content] in their order, and from left to right the hashes of the largest parts in
        which nothing is shown."""
        wanted = sorted(set(places))
        leaves: list[list[int | bytes]] = [[index, self.salt(index), self.contents[index]] for index in wanted]
        rest = [] if len(wanted) == len(self) else list(self._rest(len(self._levels) - 1, 0, wanted))
        return leaves, rest

    def _rest(self, level: int, at: int, wanted: Sequence[int]) -> Iterator[bytes]:
        """For the node `at` of a level; `wanted` are the leaves below it that are shown."""
        if not wanted:
            yield self._levels[level][at]
        elif level:
            middle = (2 * at + 1) << (level - 1)
            split = bisect_left(wanted, middle)
            yield from self._rest(level - 1, 2 * at, wanted[:split])
            yield from self._rest(level - 1, 2 * at + 1, wanted[split:])


# ---- of a log


def hash_entry(entry: bytes) -> bytes:
    """The hash of a log's leaf."""
    return hashlib.sha256(b"\0" + entry).digest()


def log_root(hashes: Sequence[bytes]) -> bytes:
    """The root over the hashes of a log's leaves, of any number. Time grows with it, memory with its logarithm."""
    if not hashes:
        return EMPTY_ROOT
    stack: list[tuple[int, bytes]] = []  # perfect trees from left to right, with their heights
    for one in hashes:
        height = 0
        while stack and stack[-1][0] == height:
            one, height = hash_node(stack.pop()[1], one), height + 1
        stack.append((height, one))
    root = stack.pop()[1]
    while stack:
        root = hash_node(stack.pop()[1], root)
    return root


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """That the leaf `index` is in the tree over all: the siblings on the way up (RFC 9162, 2.1.3.1)."""
    if len(hashes) == 1:
        return []
    split = _split(len(hashes))
    if index < split:
        return [*inclusion_proof(hashes[:split], index), log_root(hashes[split:])]
    return [*inclusion_proof(hashes[split:], index - split), log_root(hashes[:split])]


def consistency_proof(hashes: Sequence[bytes], before: int) -> list[bytes]:
    """That the tree over all begins with the tree over the first `before` leaves (RFC 9162, 2.1.4.1)."""
    return _beginning(hashes, before, whole=True) if 0 < before < len(hashes) else []


def _beginning(hashes: Sequence[bytes], before: int, *, whole: bool) -> list[bytes]:
    if before == len(hashes):
        return [] if whole else [log_root(hashes)]
    split = _split(len(hashes))
    if before <= split:
        return [*_beginning(hashes[:split], before, whole=whole), log_root(hashes[split:])]
    return [*_beginning(hashes[split:], before - split, whole=False), log_root(hashes[:split])]


def _split(count: int) -> int:
    """The largest power of two below it."""
    return 1 << (count - 1).bit_length() - 1


def is_included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether a proof shows a leaf's hash at this place of a tree of `size` leaves (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for one in proof:
        if not last:
            return False
        if at & 1 or at == last:
            found = hash_node(one, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = hash_node(found, one)
        at, last = at >> 1, last >> 1
    return not last and found == root


def is_consistent(before: int, old: bytes, size: int, new: bytes, proof: Sequence[bytes]) -> bool:
    """Whether a proof shows that a tree of `size` leaves begins with one of `before` (RFC 9162, 2.1.4.2)."""
    if not 0 <= before <= size:
        return False
    if before in (0, size):
        return not proof and (old == new if before else old == EMPTY_ROOT)
    path = list(proof) if before & (before - 1) else [old, *proof]
    if not path:
        return False
    at, last = before - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for one in path[1:]:
        if not last:
            return False
        if at & 1 or at == last:
            first, second = hash_node(one, first), hash_node(one, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = hash_node(second, one)
        at, last = at >> 1, last >> 1
    return not last and first == old and second == new

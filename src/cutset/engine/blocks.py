"""The blocks of the KV cache: who holds them, and which of them hold a prefix that can be used again.

A full block is known by a digest of all tokens up to its end, so that equal prefixes meet in equal blocks. A block
that nobody holds keeps its contents until it is needed; the one released longest ago goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

__all__ = ["BlockPool", "child_digest", "root_digest"]

DIGEST_BYTES = 16


def root_digest(salt: str | None, adapter: bytes = b"") -> bytes:
    """The digest of no tokens. Requests share blocks only with those of the same salt and the same adapter, of which
    `adapter` is the digest."""
    # The two cases hash different texts, so no salt equals "no salt"; surrogatepass takes every str.
    text = b"shared" if salt is None else b"salt:" + salt.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES, key=adapter).digest()


def child_digest(parent: bytes, tokens: bytes) -> bytes:
    """The digest of a full block: `parent` is that of all before it, `tokens` its own ids as little-endian int32."""
    return hashlib.blake2b(parent + tokens, digest_size=DIGEST_BYTES).digest()


class BlockPool:
    """Blocks 0 .. blocks - 1 with reference counts. Each operation costs O(1) a block.

    A block is either held (references > 0) or free. A held or free block may be published: found by its digest.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._references = [0] * blocks
        self._digests: list[bytes | None] = [None] * blocks  # of the published ones
        self._tokens: list[bytes] = [b""] * blocks  # of the published ones
        self._published: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))  # next to be used first

    @property
    def free(self) -> int:
        """Blocks that nobody holds; those that keep a prefix count too."""
        return len(self._free)

    def is_free(self, block: int) -> bool:
        """Nobody holds it."""
        return self._references[block] == 0

    def find(self, digest: bytes, tokens: bytes) -> int | None:
        """The published block with this digest. Changes nothing; hold it with `share` before anything is allocated."""
        block = self._published.get(digest)
        # The tokens are compared too: a collision of digests would answer one prompt with another's memory.
        return block if block is not None and self._tokens[block] == tokens else None

    def share(self, blocks: Iterable[int]) -> None:
        """Holds blocks that `find` has found, once more."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Holds `count` free blocks. What was published in them is forgotten. The caller has looked at `free`."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._references[block] = 1
            digest = self._digests[block]
            if digest is not None:
                del self._published[digest]
                self._digests[block] = None
                self._tokens[block] = b""
        return taken

    def publish(self, block: int, digest: bytes, tokens: bytes) -> None:
        """Lets others find a held block that has been computed. A second one of equal content stays private."""
        if digest not in self._published and self._digests[block] is None:
            self._published[digest] = block
            self._digests[block] = digest
            self._tokens[block] = tokens

    def forget(self) -> None:
        """All blocks have lost what they held: nothing can be found any more."""
        self._published.clear()
        self._digests = [None] * self.blocks
        self._tokens = [b""] * self.blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Gives back one reference of each, `blocks` being in the order of a sequence.

        The end of a sequence is used up before its beginning, which more prompts share. What can't be found is used
        first.
        """
        for block in reversed(blocks):
            if self._references[block] <= 0:
                raise ValueError(f"block {block} is released but nobody holds it")
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if self._digests[block] is None:
                    self._free.move_to_end(block, last=False)

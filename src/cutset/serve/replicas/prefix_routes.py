"""Which replica a prompt goes to: where its beginning was computed before, if that one isn't busier than others."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cutset.engine.blocks import child_digest, root_digest

__all__ = ["PrefixRoutes"]

MOST_KNOWN = 1 << 16  # blocks of which it is known who has computed them; the one used longest ago goes first
MOST_BLOCKS = 512  # of a prompt that are looked at
# A replica is overloaded with so many samples more than the least busy one has, and this share of these: for a prompt
# of which it has next to nothing; for one of which it has all, with HELD times as many more.
SLACK, SHARE, HELD = 2, 0.25, 2


class PrefixRoutes:
    """Remembers who has computed which beginnings, as an engine's cache names them: by chains of digests of blocks.

    A prompt goes to the replica that has most of it. One whose beginning nobody has goes to the least busy one; of
    several, where the digest of its first block points (rendezvous hashing), so that a front that has just been started
    sends it where the last one did. Who is overloaded is passed over; the next one has the beginning from then on, too,
    and both share the load. The more of a prompt somebody has, the more it would cost to compute it elsewhere, and the
    more load it takes to be passed over. Only requests of one salt and adapter share beginnings. Not for several
    threads at once.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._known: OrderedDict[bytes, set[str]] = OrderedDict()

    def digests(self, ids: NDArray[np.int32], salt: str | None, adapter: str | None) -> list[bytes]:
        """Of the beginning of nothing, of one block, of two, … of a prompt (tokens,), as far as it is looked at. The
        last token is always computed, so a block that ends with it is of no use."""
        found = [root_digest(salt, hashlib.sha256((adapter or "").encode()).digest())]
        size, data = 4 * self._block_size, ids.astype("<i4", copy=False).tobytes()
        for block in range(min((len(ids) - 1) // self._block_size, MOST_BLOCKS)):
            found.append(child_digest(found[-1], data[block * size : (block + 1) * size]))
        if len(found) == 1:  # too short to be found in a cache: all of it says where it goes
            found.append(child_digest(found[0], data))
        return found

    def choose(self, digests: Sequence[bytes], loads: Mapping[str, int]) -> str:
        """One of the replicas that have room, by how many samples each has."""
        least = min(loads.values())
        ranked = sorted(loads, key=lambda name: hashlib.sha256(digests[1] + name.encode()).digest())
        for blocks in range(len(digests) - 1, 0, -1):
            has = self._known.get(digests[blocks])
            if not has:
                continue
            most = least + (SLACK + SHARE * least) * (1 + HELD * blocks / (len(digests) - 1))
            if good := [name for name in ranked if name in has and loads[name] <= most]:
                return min(good, key=lambda name: loads[name])
        return next(name for name in ranked if loads[name] == least)

    def note(self, digests: Sequence[bytes], name: str) -> None:
        """This replica computes a prompt with these beginnings."""
        for digest in digests[1:]:
            self._known.setdefault(digest, set()).add(name)
            self._known.move_to_end(digest)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def forget(self, name: str) -> None:
        """A replica is gone, with all that it has computed."""
        for digest in [digest for digest, names in self._known.items() if name in names]:
            self._known[digest].discard(name)
            if not self._known[digest]:
                del self._known[digest]

"""The links of the line, from what the connections in use are estimated to carry."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from cutset.partition.hop import Hop

__all__ = ["Line"]


class Line:
    """All hops as they are now. A connection over several of them is as fast as the slowest, so what is seen of it
    speaks of that one: if it got slower, the slowest hop did; if it is faster than thought, so are all hops below that.
    """

    def __init__(self, hops: Sequence[Hop]) -> None:
        self.hops = self._start = tuple(hops)

    def learn(self, sender: int, receiver: int, seen: Hop) -> None:
        """What a connection of two parties, by their numbers on the line, was seen to carry in either direction."""
        i, j = min(sender, receiver), max(sender, receiver)
        if i != j:
            self._spread(i, j, seen)

    def restore(self, hop: int) -> None:
        """Takes a hop for what it was at the start, if it seems worse than that."""
        if self.hops[hop].bandwidth < self._start[hop].bandwidth:
            self.hops = (*self.hops[:hop], self._start[hop], *self.hops[hop + 1 :])

    def _spread(self, i: int, j: int, seen: Hop) -> None:
        hops, between = list(self.hops), range(i, j)
        # Of hops that seem alike the last: plans that stay nearer to the camera are tried, and show what is true.
        slowest = min(between, key=lambda k: (hops[k].bandwidth, -k))
        if seen.bandwidth < hops[slowest].bandwidth:
            hops[slowest] = replace(hops[slowest], bandwidth=seen.bandwidth)
        latency = sum(hops[k].latency for k in between)
        for k in between:
            share = hops[k].latency / latency if latency > 0 else 1 / len(between)
            hops[k] = Hop(max(hops[k].bandwidth, seen.bandwidth), share * seen.latency)
        self.hops = tuple(hops)

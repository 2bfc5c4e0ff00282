"""The links of the line, from what the connections in use were seen to carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cutset.stream.emulation.hop import Hop, path
from cutset.stream.planning.links import LinkEstimate

__all__ = ["Line"]


class Line:
    """Estimates of all hops. A connection over several of them is as fast as the slowest, so what is seen of it speaks
    of that one: if it got slower, the slowest hop did; if it is faster than thought, so are all hops below that.
    """

    def __init__(self, hops: Sequence[Hop]) -> None:
        self.hops = self._start = tuple(hops)
        self._connections: dict[tuple[int, int], LinkEstimate] = {}

    def observe(self, sender: int, receiver: int, nbytes: float, seconds: float) -> None:
        """A frame took so long between two parties, by their numbers on the line; both directions count as one."""
        i, j = min(sender, receiver), max(sender, receiver)
        if i == j:
            return
        estimate = self._connections.get((i, j))
        if estimate is None:
            estimate = self._connections[i, j] = LinkEstimate(path(self.hops, i, j))
        estimate.observe(nbytes, seconds)
        self._spread(i, j, estimate.hop)

    def estimate(self, sender: int, receiver: int) -> LinkEstimate | None:
        """What is known of a connection that was used."""
        return self._connections.get((min(sender, receiver), max(sender, receiver)))

    def restore(self, hop: int) -> None:
        """Takes a hop for what it was at the start, if it seems worse than that."""
        if self.hops[hop].bandwidth < self._start[hop].bandwidth:
            self.hops = (*self.hops[:hop], self._start[hop], *self.hops[hop + 1 :])

    def forget(self, used: Sequence[tuple[int, int]]) -> None:
        """Drops the observations of connections that aren't used any more: they grow old."""
        keep = {(min(pair), max(pair)) for pair in used}
        self._connections = {pair: one for pair, one in self._connections.items() if pair in keep}

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

"""What links carry, estimated while items flow: of a connection that is in use, and from that of the hops of a line."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from cutset.partition.hop import MOST_LATENCY, Hop

__all__ = ["LEAST_BYTES", "Line", "LinkEstimate"]

Floats = NDArray[np.floating[Any]]

WINDOW = 24  # observations
FADE = 0.85  # of an observation's weight, with each that comes after it
APART = 0.25  # two sizes say something of latency if they differ by this share of the larger
LEAST_PAIRS = 6
CHANGED = 4  # observations in a row that all miss the fit the same way: what was before doesn't count any more
MISSED = 0.25  # by this share at least
LEAST_BYTES = 8192  # of a frame; smaller ones tell of the processes at both ends rather than of the link


class LinkEstimate:
    """Latency and bandwidth of a connection, from what it was seen to carry.

    Seconds are fitted as latency + bytes / bandwidth. Both are weighted medians over the last observations, younger
    ones counting more: one frame that waited for a busy machine moves nothing, a change that lasts shows after a few
    frames. Sizes that are all alike can't tell latency from bandwidth; then the latency stays what it was.
    """

    def __init__(self, start: Hop | None = None) -> None:
        self.latency = start.latency if start else 0.0
        self.bandwidth = start.bandwidth if start else math.inf
        self.count = 0
        self.spread = math.inf  # share of the seconds by which observations miss the fit, in the mean
        self._missed = 0  # in a row; below 0 where they were quicker
        self._seen: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    @property
    def hop(self) -> Hop:
        """The connection as estimated now."""
        return Hop(self.bandwidth, self.latency)

    @property
    def sure(self) -> float:
        """0: nothing was observed, 1: many observations that agree."""
        return 0.0 if self.count == 0 else min(self.count / 8, 1.0) / (1.0 + self.spread)

    def seconds(self, nbytes: float) -> float:
        """What so many bytes are expected to take."""
        return self.latency + nbytes / self.bandwidth

    def observe(self, nbytes: float, seconds: float) -> None:
        """A frame of that size took so long from being sent to being there. What can't be is left out."""
        if not (math.isfinite(seconds) and seconds > 0 and math.isfinite(nbytes) and nbytes > 0):
            return
        off = seconds / self.seconds(nbytes) - 1 if self.count else 0.0
        side = 0 if abs(off) < MISSED else 1 if off > 0 else -1
        self._missed = self._missed + side if side * self._missed >= 0 and side else side
        self.count += 1
        self._seen.append((float(nbytes), float(seconds)))
        if abs(self._missed) >= CHANGED:
            self._missed = 0
            while len(self._seen) > CHANGED:
                self._seen.popleft()
        sizes, times = np.array(self._seen).T
        weights = FADE ** np.arange(len(sizes) - 1, -1, -1)
        slope = self._slope(sizes, times, weights)
        if slope is not None:
            left = times - sizes * slope
            self.latency = min(max(_median(left, weights), 0.0), MOST_LATENCY)
        # Large frames say more of the bandwidth, and those that took no longer than the latency nothing.
        rest = times - self.latency
        useful = rest > 0.05 * times
        if useful.any():
            per_byte = _median(rest[useful] / sizes[useful], (weights * sizes)[useful])
            self.bandwidth = 1 / per_byte
        fitted = self.latency + sizes / self.bandwidth
        self.spread = float(np.average(np.abs(times - fitted) / np.maximum(fitted, 1e-9), weights=weights))

    def _slope(self, sizes: Floats, times: Floats, weights: Floats) -> float | None:
        """Seconds a byte, after Theil and Sen: the median over pairs of different size."""
        first, second = np.triu_indices(len(sizes), 1)
        apart = np.abs(sizes[first] - sizes[second])
        chosen = apart > APART * np.maximum(sizes[first], sizes[second])
        if chosen.sum() < LEAST_PAIRS:
            return None
        first, second = first[chosen], second[chosen]
        slopes = (times[first] - times[second]) / (sizes[first] - sizes[second])
        slope = _median(slopes, weights[first] * weights[second] * apart[chosen])
        return slope if slope > 0 else None


def _median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


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
        # Of hops that seem alike the last: plans that stay nearer to the coordinator are tried, and show what is true.
        slowest = min(between, key=lambda k: (hops[k].bandwidth, -k))
        if seen.bandwidth < hops[slowest].bandwidth:
            hops[slowest] = replace(hops[slowest], bandwidth=seen.bandwidth)
        latency = sum(hops[k].latency for k in between)
        for k in between:
            share = hops[k].latency / latency if latency > 0 else 1 / len(between)
            hops[k] = Hop(max(hops[k].bandwidth, seen.bandwidth), share * seen.latency)
        self.hops = tuple(hops)

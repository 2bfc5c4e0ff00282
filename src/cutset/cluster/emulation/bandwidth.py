"""When frames arrive that share one wire: the arithmetic of an emulated link, without a clock or a thread.

A token bucket without a burst, as a fluid: the wire carries the frames one after another at its bandwidth, and each is
there a latency after its last byte left. Times are what they should be, not when somebody looked, so late wake-ups of
a thread don't add up.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cutset.partition.hop import Hop

__all__ = ["Wire"]


@dataclass(slots=True)
class _Waiting:
    offered: float
    left: float  # bytes that haven't left


class Wire:
    """Seconds are those of any clock that never goes back. Not for several threads at once."""

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self._queue: deque[_Waiting] = deque()
        self._in_flight: deque[float] = deque()  # when those that left arrive
        self._at = 0.0  # up to when the head of the queue has been carried

    @property
    def waiting(self) -> int:
        """Frames that haven't left whole."""
        return len(self._queue)

    def in_flight(self, now: float) -> int:
        """Frames that have left and not yet arrived."""
        self.carry(now)
        return sum(arrival > now for arrival in self._in_flight)

    def offer(self, nbytes: int, now: float) -> None:
        """Puts a frame at the end of the queue."""
        self.carry(now)
        self._queue.append(_Waiting(now, nbytes))

    def change(self, hop: Hop, now: float) -> None:
        """From now on the wire is like that; what left before arrives as it would have. Nothing overtakes."""
        self.carry(now)
        self._at = max(self._at, now)
        self.hop = hop

    def carry(self, now: float) -> None:
        """Lets everything leave that has left by `now`."""
        while self._queue:
            head = self._queue[0]
            start = max(self._at, head.offered)
            end = start + head.left / self.hop.bandwidth
            if end > now:
                if now > start:
                    head.left -= (now - start) * self.hop.bandwidth
                    self._at = now
                return
            self._queue.popleft()
            self._at = end
            arrival = end + self.hop.latency
            self._in_flight.append(max(arrival, self._in_flight[-1]) if self._in_flight else arrival)

    def arrived(self, now: float) -> int:
        """How many frames have arrived since the last call."""
        self.carry(now)
        count = 0
        while self._in_flight and self._in_flight[0] <= now:
            self._in_flight.popleft()
            count += 1
        return count

    def next_event(self) -> float | None:
        """When next a frame leaves or arrives, if nothing changes; None for an empty wire."""
        times = [self._in_flight[0]] if self._in_flight else []
        if self._queue:
            head = self._queue[0]
            times.append(max(self._at, head.offered) + head.left / self.hop.bandwidth)
        return min(times, default=None)

"""How long a silence is normal on a link: what follows from the round trips that were measured on it."""

from __future__ import annotations

__all__ = ["RoundTrips"]

TRIPS = 2.0  # round trips that a heartbeat may take before its link counts as silent
SMOOTH, DEVIATION = 1 / 8, 1 / 4  # gains of RFC 6298, TCP's retransmission timer
LONGEST = 300.0  # seconds; a longer trip is no measurement


class RoundTrips:
    """Smoothed round trip and mean deviation. `known`: seconds that a round trip takes at least, as an emulated one.

    Written by one thread, read by any.
    """

    def __init__(self, known: float = 0.0) -> None:
        self.known = known
        self._smoothed = self._deviation = 0.0
        self.count = 0

    def observe(self, seconds: float) -> None:
        """One round trip; nonsense is left out."""
        if not 0 <= seconds <= LONGEST:
            return
        if self.count:
            self._deviation += DEVIATION * (abs(seconds - self._smoothed) - self._deviation)
            self._smoothed += SMOOTH * (seconds - self._smoothed)
        else:
            self._smoothed, self._deviation = seconds, seconds / 2
        self.count += 1

    @property
    def seconds(self) -> float:
        """What a round trip takes, as far as measured."""
        return max(self.known, self._smoothed)

    @property
    def expected(self) -> float:
        """Seconds within which an answer comes, unless something is wrong."""
        return max(self.known, self._smoothed + 4 * self._deviation)

    def silence(self, least: float, queued: float = 0.0) -> float:
        """Seconds without a word, after which the other side counts as gone; `queued`: what a word may wait behind."""
        return max(least, TRIPS * self.expected) + queued

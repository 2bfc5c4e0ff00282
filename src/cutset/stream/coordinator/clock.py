"""How far another machine's clock is from this one's."""

from __future__ import annotations

from collections import deque

__all__ = ["Clock"]

KEPT = 32  # measurements; older ones know nothing of drift


class Clock:
    """The offset from round trips: the quickest of the last ones has the least room for error."""

    def __init__(self) -> None:
        self._trips: deque[tuple[float, float]] = deque(maxlen=KEPT)  # round trip, offset

    def learn(self, sent: float, theirs: float, came: float) -> None:
        """One round trip: this clock when the question went, the other's at its answer, this one when that came."""
        self._trips.append((came - sent, theirs - (sent + came) / 2))

    @property
    def offset(self) -> float:
        """Seconds to take from the other clock's times to have this one's; 0 while nothing is known."""
        return min(self._trips)[1] if self._trips else 0.0

    @property
    def round_trip(self) -> float | None:
        """Seconds of the quickest of the last round trips."""
        return min(self._trips)[0] if self._trips else None

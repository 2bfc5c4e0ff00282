"""A party's clock against ours, from the times at which heartbeats were sent, answered and received."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Clock"]

MOST_SAMPLES = 256
MOST_DRIFT = 500e-6  # seconds a second; a clock that is further off is broken
FIT_AFTER = 10.0  # seconds of samples before a drift is distinguished from noise


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float  # on our clock, the middle of the round trip
    offset: float  # theirs minus ours
    trip: float


class Clock:
    """Turns the times of another party's monotonic clock into ours.

    A heartbeat says that their clock showed `theirs` at some moment between `sent` and `received`; the middle is off by
    half the round trip at most. Short trips count most. Without a heartbeat, or where no heartbeat contradicts it,
    both clocks are taken for the same one, as they are on one machine.
    """

    def __init__(self) -> None:
        self._samples: list[_Sample] = []
        self._fitted: tuple[float, float, float] | None = None

    def observe(self, sent: float, theirs: float, received: float) -> None:
        """One heartbeat: sent and received by our clock, answered by theirs. Seconds; nonsense is left out."""
        trip = received - sent
        if not (0 <= trip < 60 and abs(theirs) < 1e12):
            return
        middle = (sent + received) / 2
        self._samples.append(_Sample(middle, theirs - middle, trip))
        self._fitted = None
        if len(self._samples) > MOST_SAMPLES:  # of every two neighbours the better one; still all of the time
            pairs = zip(self._samples[::2], self._samples[1::2], strict=False)
            rest = self._samples[-1:] if len(self._samples) % 2 else []
            self._samples = [min(pair, key=lambda sample: sample.trip) for pair in pairs] + rest

    def ours(self, theirs: float) -> float:
        """Their time on our clock, seconds."""
        at, offset, drift = self._fit()
        # offset(t) = offset + drift (t - at), and theirs = t + offset(t)
        return at + (theirs - at - offset) / (1 + drift)

    @property
    def uncertainty(self) -> float:
        """How far a time may be off: half of the shortest round trip, seconds; 0 without a heartbeat."""
        return min((sample.trip for sample in self._samples), default=0.0) / 2

    def _fit(self) -> tuple[float, float, float]:
        if self._fitted is None:
            self._fitted = self._compute()
        return self._fitted

    def _compute(self) -> tuple[float, float, float]:
        samples = self._samples
        if all(abs(sample.offset) <= sample.trip / 2 for sample in samples):
            return 0.0, 0.0, 0.0
        shortest = min(sample.trip for sample in samples)
        good = [sample for sample in samples if sample.trip <= 1.5 * shortest + 50e-6]
        weights = [1 / (sample.trip + 1e-6) ** 2 for sample in good]
        total = sum(weights)
        at = sum(w * s.at for w, s in zip(weights, good, strict=True)) / total
        offset = sum(w * s.offset for w, s in zip(weights, good, strict=True)) / total
        if good[-1].at - good[0].at < FIT_AFTER:
            return at, offset, 0.0
        spread = sum(w * (s.at - at) ** 2 for w, s in zip(weights, good, strict=True))
        drift = sum(w * (s.at - at) * (s.offset - offset) for w, s in zip(weights, good, strict=True)) / spread
        return at, offset, min(max(drift, -MOST_DRIFT), MOST_DRIFT)

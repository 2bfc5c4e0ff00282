"""What a source puts up with, and what it has put up with so far."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

from cutset.errors import SourceError

__all__ = ["Faults", "Tolerance", "quiet"]


def quiet(line: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of what a source puts up with. Raises SourceError for what can't be.

    `bad_packets`: how many that can't be decoded may come, one after another, without a picture between them.
    Of what is live, in seconds: `timeout` to answer, and from one packet to the next; `patience` to come back after it
    was lost (0: a lost source isn't dialled again); pauses between tries double from `pause` to `longest`.
    """

    bad_packets: int = 25
    timeout: float = 10.0
    patience: float = 60.0
    pause: float = 0.5
    longest: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.bad_packets <= 1_000_000:
            raise SourceError(f"a source may have from 0 to 1,000,000 bad packets, not {self.bad_packets}")
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if not (0 < value < math.inf or (field.name == "patience" and value == 0)):
                least = "0 s or more" if field.name == "patience" else "above 0 s"
                raise SourceError(f"the {field.name} of a source must be {least}, not {value:g}")

    def pauses(self, tries: int, jitter: Callable[[], float] = random.random) -> float:
        """Seconds before the next try, after so many that failed; half by chance, so that not all come at once."""
        whole = min(self.pause * 2.0 ** min(tries, 60), self.longest)
        return whole * (1 + jitter()) / 2


@dataclass(slots=True)
class Faults:
    """Counts of one source. Written by the thread that reads it, read by any."""

    bad_packets: int = 0  # that couldn't be decoded
    passed_over: int = 0  # packets after those, until a key frame
    lost: int = 0  # times that a live source went away
    reconnects: int = 0  # times that it came back
    away: float = 0.0  # seconds in all

    def line(self) -> str:
        """What is said at the end; empty where nothing was wrong."""
        found = []
        if self.lost:
            found.append(f"lost {self.lost}×, back {self.reconnects}×, away for {self.away:.1f} s")
        if self.bad_packets:
            rest = f", {self.passed_over} more passed over" if self.passed_over else ""
            found.append(f"{self.bad_packets} bad packet{'s' * (self.bad_packets > 1)}{rest}")
        return "; ".join(found)

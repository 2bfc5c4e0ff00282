"""What a source tolerates, what went wrong so far, and when that is too much."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields

from cutset.errors import SourceError

__all__ = ["Damage", "Faults", "Tolerance", "quiet"]

MOST_PASSED = 300  # packets that are passed over where groups are short, while the video goes on
MOST_LEFT = 25  # and at its end


def quiet(line: str) -> None:
    """Ignores what a source says."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of what a source tolerates. Raises SourceError for values out of their range.

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


class Damage:
    """Counts the packets of one source that can't be decoded, until there are too many.

    `waits`: nothing can be decoded until a key frame comes; `why`: the last error. A damaged key frame may have lost
    its mark, so waiting for longer than groups are is an error.
    """

    def __init__(self, name: str, faults: Faults, tolerance: Tolerance, tell: Callable[[str], None]) -> None:
        self._name, self._faults, self._tolerance, self._tell = name, faults, tolerance, tell
        self.pictures = 0
        self.waits, self.why = False, ""
        self._run = 0  # bad packets since a picture
        self._passed = 0  # packets since one was bad
        self._group = self._longest = 0  # packets of this group and of the longest one

    def picture(self) -> None:
        """One was shown."""
        self.pictures += 1
        self._run = 0

    def takes(self, key: bool) -> bool:
        """Whether the next packet is to be decoded. Raises SourceError where the wait is too long."""
        if key:
            self.waits, self._passed, self._group = False, 0, 0
        if not self.waits:
            self._group += 1
            self._longest = max(self._longest, self._group)
            return True
        self._passed += 1
        self._faults.passed_over += 1
        self._check(MOST_PASSED)
        return False

    def bad(self, why: str) -> None:
        """A packet can't be decoded. Raises SourceError for one too many."""
        self.waits, self.why = True, why
        self._run += 1
        count = self._faults.bad_packets = self._faults.bad_packets + 1
        if self._run > self._tolerance.bad_packets:
            many = f"{self._run} bad packets one after another, the last: " if self._run > 1 else ""
            raise SourceError(f"{self._name}: after {self.pictures} pictures: {many}{why}")
        if count & (count - 1) == 0:  # 1, 2, 4, 8: a log isn't flooded
            said = f"{count} bad packets so far" if count > 1 else "a bad packet"
            self._tell(f"{self._name}: after {self.pictures} pictures: {said} ({why}); on at the next key frame")

    def end(self) -> None:
        """There are no more packets. Raises SourceError where more than the rest of a group is missing."""
        self._check(MOST_LEFT)

    def _check(self, most: int) -> None:
        if self.waits and self._passed > max(most, 2 * self._longest):
            raise SourceError(
                f"{self._name}: after {self.pictures} pictures: a bad packet ({self.why}), and no key frame in the "
                f"{self._passed} after it"
            )

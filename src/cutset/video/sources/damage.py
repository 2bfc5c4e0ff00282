"""What is to be done about packets that can't be decoded: they are counted, until there are too many."""

from __future__ import annotations

from collections.abc import Callable

from cutset.errors import SourceError
from cutset.video.sources.faults import Faults, Tolerance

__all__ = ["Damage"]

MOST_PASSED = 300  # packets that are passed over where groups are short, while the video goes on
MOST_LEFT = 25  # and at its end


class Damage:
    """Of one source that is read. `waits`: nothing can be decoded until a key frame comes; `why`: the last error.

    Damage may take a key frame's mark as well, so who waits is told when that lasts for longer than groups are.
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

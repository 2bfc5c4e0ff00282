"""When to forget what was seen of a machine or link that isn't used any more: it may be quick again by now."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

__all__ = ["Stale"]

FIRST = 30  # looks without use, before it is forgotten for the first time; each time after takes twice as long
MOST = 1 << 20


class Stale:
    """Counts looks. What is tried in vain is forgotten ever more seldom, so that plans don't go back and forth."""

    def __init__(self, first: int = FIRST) -> None:
        self._first = first
        self._idle: dict[Hashable, int] = {}
        self._wait: dict[Hashable, int] = {}

    def look(self, things: Iterable[Hashable], used: Collection[Hashable]) -> list[Hashable]:
        """Those of `things` that weren't used for so many looks that what was seen of them should be forgotten now."""
        found = []
        for thing in things:
            idle = self._idle[thing] = 0 if thing in used else self._idle.get(thing, 0) + 1
            wait = self._wait.get(thing, self._first)
            if idle >= wait:
                self._idle[thing], self._wait[thing] = 0, min(2 * wait, MOST)
                found.append(thing)
        return found

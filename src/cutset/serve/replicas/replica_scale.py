"""How many replicas there should be, by how much waits for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cutset.errors import ConfigError

__all__ = ["MOST_REPLICAS", "ReplicaScale", "read_bounds"]

MOST_REPLICAS = 64


def read_bounds(text: str) -> tuple[int, int]:
    """`2` or `1-4`: least and most. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most <= MOST_REPLICAS:
        raise ConfigError(
            f"--replicas {text[:60]!r} can't be used: write a number from 1 to {MOST_REPLICAS}, a range, as 1-4, or "
            "addresses"
        )
    return least, most


@dataclass(slots=True)
class ReplicaScale:
    """Another replica is wanted when requests have waited for `up_s` seconds, and one fewer when for `down_s` seconds
    those that are left would have been half busy at most. Times are the caller's clock."""

    least: int
    most: int
    up_s: float = 2.0
    down_s: float = 60.0
    _busy_since: float | None = None
    _idle_since: float | None = None

    def wanted(self, now: float, count: int, samples: int, slots: int, waiting: int) -> int:
        """How many of now `count` replicas there should be. `samples` run or wait, and each replica has room for
        `slots`; `waiting`: of the samples, those for which there is no room yet."""
        busy = waiting > 0
        idle = not busy and samples <= (count - 1) * slots / 2
        self._busy_since = (now if self._busy_since is None else self._busy_since) if busy else None
        self._idle_since = (now if self._idle_since is None else self._idle_since) if idle else None
        if self._busy_since is not None and now - self._busy_since >= self.up_s and count < self.most:
            self._busy_since = now  # the next one has as long to help
            return count + 1
        if self._idle_since is not None and now - self._idle_since >= self.down_s and count > self.least:
            self._idle_since = now
            return count - 1
        return min(max(count, self.least), self.most)

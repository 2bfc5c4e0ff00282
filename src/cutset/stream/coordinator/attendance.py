"""Which workers are there and fit for work."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from cutset.stream.coordinator.remote import Remote
from cutset.stream.coordinator.switching import Options

__all__ = ["Attendance"]

STRIKES = 2  # failures without a picture in between, after which a worker is left out for a while
BENCH = 10.0  # seconds that it is left out
MOMENT = 0.25  # seconds that a worker which another one lost has to prove dead, before plans are made with it


class Attendance:
    """The workers' heartbeats, and their record of failures."""

    def __init__(self, remotes: Mapping[str, Remote], options: Options) -> None:
        self.remotes, self.options = remotes, options
        self._strikes: dict[str, int] = {}
        self._benched: dict[str, float] = {}
        self._pinged = self._doubted = 0.0
        self._alone_since: float | None = time.monotonic()

    def beat(self, now: float) -> None:
        """Asks everybody for a sign of life now and then, and takes who gives none for dead."""
        silence = self.options.silence
        if now - self._pinged >= self.options.beat:
            self._pinged = now
            for remote in self.remotes.values():
                if remote.up and now - remote.heard > silence:
                    remote.cut(f"no sign of life for {silence:g} s")
                elif remote.up:
                    remote.ping()

    def failed(self, name: str, why: str, said_by: str) -> None:
        """A plan failed because of this worker, as another one or itself says."""
        self._strikes[name] = self._strikes.get(name, 0) + 1
        if name != said_by:
            self._doubted = time.monotonic() + MOMENT
        if self._strikes[name] >= STRIKES:
            self.bench(name, why)

    def bench(self, name: str, why: str) -> None:
        """Leaves a worker out for a while."""
        self._benched[name] = time.monotonic() + BENCH
        self.remotes[name].why = why

    def worked(self, names: Iterable[str]) -> None:
        """A picture passed these."""
        for name in names:
            self._strikes.pop(name, None)

    def back(self, now: float) -> list[str]:
        """Those who were left out for long enough."""
        found = [name for name, until in self._benched.items() if until <= now]
        for name in found:
            del self._benched[name]
        return found

    def alive(self) -> list[str]:
        """The workers that a plan may use, in the order in which they were named."""
        return [name for name, remote in self.remotes.items() if remote.up and name not in self._benched]

    def in_doubt(self, now: float) -> bool:
        """Whether somebody may be dead without our knowing yet."""
        return now < self._doubted and all(self.remotes[name].up for name in self._strikes)

    def alone(self, now: float, alive: bool) -> float:
        """Seconds without any worker; tell it each time whether there is one. Infinite when all failed."""
        if alive:
            self._alone_since = None
            return 0.0
        if len(self._benched) == len(self.remotes):
            return float("inf")
        if self._alone_since is None:
            self._alone_since = now
        return now - self._alone_since

    def reasons(self, names: Iterable[str]) -> str:
        """Why these aren't there."""
        return "; ".join(f"{name}: {self.remotes[name].why}" for name in names)[:600]

"""Which workers are there and fit for work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.coordinator.switching import Options

__all__ = ["Membership"]

STRIKES = 2  # failures without an item in between, or losses, after which a worker is left out for a while
EXCLUDED = 10.0  # seconds that it is left out; after every further loss twice as long
LONGEST_EXCLUDED = 320.0
FLAPS = 3  # losses of one worker without an item in between, from which on being there doesn't renew the patience
MOMENT = 0.25  # seconds that a worker which another one lost has to prove dead, before plans are made with it


class Membership:
    """The workers' heartbeats, and their record of losses and failures. `queued` gives the seconds that a heartbeat of
    a worker may wait behind a frame of its own."""

    def __init__(
        self,
        remotes: Mapping[str, Remote],
        options: Options,
        queued: Callable[[str], float] = lambda name: 0.0,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.remotes, self.options, self._queued, self._tell = remotes, options, queued, tell
        self._strikes: dict[str, int] = {}
        self._losses: dict[str, int] = {}  # since the worker's last item
        self._excluded: dict[str, float] = {}
        self._failed: set[str] = set()  # those of them that can't do what they were asked to
        self._doubted = 0.0
        self._pinged = 0.0
        self._alone_since: float | None = time.monotonic()
        self._lost_since: float | None = None  # the first loss since the last item

    def beat(self, now: float) -> None:
        """Sends heartbeats, and takes who doesn't answer for dead."""
        if now - self._pinged >= self.options.beat:
            self._pinged = now
            for name, remote in self.remotes.items():
                silence = remote.trips.silence(self.options.silence, self._queued(name))
                if remote.up and remote.quiet > silence:
                    remote.cut(f"no sign of life for {silence:.3g} s")
                elif remote.up:
                    remote.ping()

    def lost(self, name: str, why: str) -> None:
        """A worker's link is gone. Who comes and goes is left out while others are there."""
        now = time.monotonic()
        self._losses[name] = count = self._losses.get(name, 0) + 1
        self._lost_since = self._lost_since or now
        if count >= STRIKES and any(other != name for other in self.alive()):
            seconds = min(EXCLUDED * 2.0 ** (count - STRIKES), LONGEST_EXCLUDED)
            self._excluded[name] = now + seconds
            self._tell(f"{name} was lost {count} times without an item in between: it is left out for {seconds:g} s")

    def comes_and_goes(self, name: str) -> bool:
        """Whether a worker was lost more than once without an item in between."""
        return self._losses.get(name, 0) >= STRIKES

    def failed(self, name: str, why: str, said_by: str) -> None:
        """A plan failed because of this worker, as another one or itself says."""
        self._strikes[name] = self._strikes.get(name, 0) + 1
        if name != said_by:
            self._doubted = time.monotonic() + MOMENT
        if self._strikes[name] >= STRIKES:
            self.exclude(name, why)

    def exclude(self, name: str, why: str) -> None:
        """Leaves a worker out for a while that can't do what it was asked to."""
        self._excluded[name] = time.monotonic() + EXCLUDED
        self._failed.add(name)
        self.remotes[name].why = why

    def worked(self, names: Iterable[str]) -> None:
        """An item passed these."""
        self._lost_since = None
        for name in names:
            self._strikes.pop(name, None)
            self._losses.pop(name, None)

    def back(self, now: float) -> list[str]:
        """Those who were left out for long enough."""
        found = [name for name, until in self._excluded.items() if until <= now]
        for name in found:
            del self._excluded[name]
            self._failed.discard(name)
        return found

    def alive(self) -> list[str]:
        """The workers that a plan may use, in the order in which they were named."""
        return [name for name, remote in self.remotes.items() if remote.up and name not in self._excluded]

    def in_doubt(self, now: float) -> bool:
        """Whether somebody may be dead without our knowing yet."""
        return now < self._doubted and all(self.remotes[name].up for name in self._strikes)

    def alone(self, now: float, alive: bool) -> float:
        """Seconds without any worker; tell it each time whether there is one. Infinite when all failed.

        Where a worker comes and goes without an item in between, the time counts from when it was first lost. What
        emulated links need to be dialled doesn't count.
        """
        if alive:
            self._alone_since = None
            return 0.0
        if len(self._failed) == len(self.remotes):
            return float("inf")
        if self._alone_since is None:
            self._alone_since = now
        since = self._alone_since
        if self._lost_since is not None and max(self._losses.values(), default=0) >= FLAPS:
            since = min(since, self._lost_since)
        return now - since - min(remote.emulated for remote in self.remotes.values())

    def reasons(self, names: Iterable[str]) -> str:
        """Why these aren't there."""
        found = []
        for name in names:
            count = self._losses.get(name, 0)
            often = f", lost {count} times without an item in between" if count > 1 else ""
            found.append(f"{name}: {self.remotes[name].why}{often}")
        return "; ".join(found)[:600]

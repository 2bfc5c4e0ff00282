"""How far a batch is, how fast, and how long it will take: a bar where somebody watches, now and then a line else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cutset.cli.progress import Progress

__all__ = ["BatchProgress", "Counted", "duration"]

WINDOW_S = 60.0  # over which a rate is measured
EVERY_S = 10.0  # a line, where nobody watches


class Counted(Protocol):
    """What is done so far, of which `failed` are errors."""

    done: int
    failed: int


class BatchProgress:
    """Call `changed` as often as you like."""

    def __init__(
        self,
        total: int,
        results: Counted,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._results, self._log, self._clock = total, results, log, clock
        self._bar = Progress()
        self._began = self._said = clock()
        self._before = results.done  # by an earlier run
        self._seen: deque[tuple[float, int]] = deque([(self._began, results.done)])

    def begin(self) -> None:
        """The rate counts from here: what came before was preparation."""
        self._began = self._said = self._clock()
        self._seen[0] = (self._began, self._results.done)

    def changed(self) -> None:
        """Shows how it stands."""
        now, done = self._clock(), self._results.done
        if now - self._seen[-1][0] >= 0.2:
            self._seen.append((now, done))
            while now - self._seen[0][0] > WINDOW_S and len(self._seen) > 2:
                self._seen.popleft()
        if self._bar.watched:
            self._bar(self.speed(), done, self._total)
        elif now - self._said >= EVERY_S and done < self._total:
            self._said = now
            self._log(f"{done} of {self._total} done, {self._results.failed} failed, {self.speed()}")

    def speed(self) -> str:
        """`12.5/s, 3 min 20 s to go`"""
        since, before = self._seen[0]
        seconds, done = self._clock() - since, self._results.done - before
        if seconds <= 0 or done <= 0:
            return "no rate yet"
        rate = done / seconds
        return f"{rate:.3g}/s, {duration((self._total - self._results.done) / rate)} to go"

    def clear(self) -> None:
        """Takes the bar away."""
        self._bar.clear()

    def summary(self, what: str) -> str:
        """What has come of it, for the end."""
        seconds, own = self._clock() - self._began, self._results.done - self._before
        rate = f", {own / seconds:.3g}/s" if seconds > 0 and own else ""
        earlier = f" ({self._before} before)" if self._before else ""
        done, failed = self._results.done, self._results.failed
        return f"{done} {what}{earlier}, {failed} failed, in {duration(seconds)}{rate}"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`"""
    whole = round(seconds)
    for large, small, names in ((86400, 3600, ("d", "h")), (3600, 60, ("h", "min")), (60, 1, ("min", "s"))):
        if whole >= large:
            return f"{whole // large} {names[0]} {whole % large // small} {names[1]}"
    return f"{whole} s" if seconds >= 10 else f"{seconds:.1f} s"

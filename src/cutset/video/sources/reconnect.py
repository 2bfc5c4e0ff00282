"""A camera or stream that is lost is opened again."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from cutset.errors import SourceError, SourceLost
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.faults import Tolerance
from cutset.video.sources.packets import size_text
from cutset.video.sources.picture import Picture, Source

__all__ = ["ReconnectingSource"]


class ReconnectingSource(Source):
    """Pictures of what `opens` gives, which is opened anew whenever it ends, fails or falls silent.

    `opens` gets the source that was there before, or None, and raises SourceError. Numbers of pictures go on where they
    ended, and times as the clock does. What is known to have an end (a recording that a server plays) ends with it.
    `tell` hears what happens. Raises SourceLost once `tolerance.patience` is over, or for pictures of another size.
    """

    live = True

    def __init__(
        self,
        opens: Callable[[ContainerSource | None], ContainerSource],
        tolerance: Tolerance,
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """`wait(seconds)` returns early, and True, when the source is cancelled."""
        self._opens, self._tolerance, self._tell = opens, tolerance, tell
        self._clock, self._jitter = clock, jitter
        self._cancelled = threading.Event()
        self._wait = wait or self._cancelled.wait
        self._source = opens(None)
        self.name, self.size, self.rate = self._source.name, self._source.size, self._source.rate
        self.codec, self.faults = self._source.codec, self._source.faults
        self._since = self._last = self._clock()  # the connection is there; the last picture came
        self._count, self._time = 0, 0.0  # pictures so far, the time of the last one
        self._first = (0, 0.0)  # number and time of this connection's first picture
        self._tries = 0  # since a connection lasted

    def __iter__(self) -> Iterator[Picture]:
        while True:
            try:
                for picture in self._source:
                    number, start = self._first
                    self._count, self._time = number + picture.index + 1, start + picture.time
                    self._last = self._clock()
                    yield replace(picture, index=self._count - 1, time=self._time)
                if self._source.finite:
                    return
                why = "the stream ended"
            except SourceError as error:
                why = re.sub(r"^after [0-9]+ pictures: ", "", str(error).removeprefix(f"{self.name}: "))
            self._source.close()
            if not self._again(why):
                return

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self.cancel()
        self._source.close()

    def _again(self, why: str) -> bool:
        """Opens it again; False if it was cancelled meanwhile."""
        lost = self._clock()
        self.faults.lost += 1
        if lost - self._since > self._tolerance.longest:
            self._tries = 0
        tries, away = 0, self.faults.away
        said = news = f"lost after {self._count} pictures ({why})"
        while True:
            left = self._tolerance.patience - (self._clock() - lost)
            if left <= 0:
                tried = f" in {self._tolerance.patience:g} s, {tries} tries; the last: {news}" if tries else ""
                raise SourceLost(f"{self.name}: {said} and not back{tried}")
            pause = self._tolerance.pauses(self._tries, self._jitter)
            self._tell(f"{self.name}: {news}; next try in {pause:.1f} s")
            if self._wait(min(pause, left)):
                return False
            tries, self._tries = tries + 1, self._tries + 1
            try:
                source = self._opens(self._source)
            except SourceError as error:
                news = str(error).removeprefix(f"can't open {self.name}: ").removeprefix(f"{self.name}: ")
                self.faults.away = away + self._clock() - self._last
                continue
            break
        if source.size != self.size:
            source.close()
            raise SourceLost(
                f"{self.name}: {size_text(source.size)} after it was lost, {size_text(self.size)} before; give a size "
                "to scale all of them to"
            )
        self._source = source
        now = self._clock()
        self._first = (self._count, self._time + now - self._last)
        self.faults.reconnects += 1
        self.faults.away = away + now - self._last
        self._since = self._last = now
        self._tell(f"{self.name}: back after {self.faults.away - away:.1f} s, at try {tries}")
        return True

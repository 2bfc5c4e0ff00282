"""No more pictures than are wanted, and no faster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from cutset.errors import SourceError
from cutset.video.sources.picture import Picture, Source

__all__ = ["Metered"]


class Metered(Source):
    """A source's first `limit` pictures, each no earlier than `rate` pictures a second allow. Raises SourceError.

    Who takes one late gets the next ones at once, until it has caught up.
    """

    def __init__(
        self,
        source: Source,
        *,
        limit: int | None = None,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if limit is not None and limit < 1:
            raise SourceError(f"{source.name}: a limit must be at least 1 picture, not {limit}")
        if rate is not None and not 0 < rate < math.inf:
            raise SourceError(f"{source.name}: a rate must be more than 0 pictures a second, not {rate:g}")
        self.name, self.size, self.codec, self.live = source.name, source.size, source.codec, source.live
        self.rate, self.faults = rate or source.rate, source.faults
        self._source, self._limit, self._pace = source, limit, rate
        self._clock, self._sleep = clock, sleep
        self._given, self._start = 0, 0.0

    def __iter__(self) -> Iterator[Picture]:
        if self._limit is not None and self._given >= self._limit:
            return
        for picture in self._source:
            now = self._clock()
            if not self._given:
                self._start = now
            if self._pace and (early := self._start + self._given / self._pace - now) > 0:
                self._sleep(early)
            self._given += 1
            yield picture
            if self._limit is not None and self._given >= self._limit:
                return

    def cancel(self) -> None:
        self._source.cancel()

    def close(self) -> None:
        self._source.close()

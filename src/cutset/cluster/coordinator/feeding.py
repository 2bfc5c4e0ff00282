"""Pictures from sources: each is read by a thread of its own, a little ahead."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.coordinator.flights import Flight
from cutset.errors import CutsetError, RequestError
from cutset.partition.node import Value
from cutset.video.sources.history import Restart

__all__ = ["Feeder"]

AHEAD = 2  # pictures
SLICE = 0.2  # seconds


class Feeder:
    """Reads one source. Its items are arrays, or have `pixels` and `time`. `woke` is called when there is news.

    With `rate`, pictures come no faster than that, counted from when the first one is taken, and one that nobody takes
    in time waits: whether it is then too old is for the deadline to say.

    A picture is captured when its source says (`captured`, of what is live), else when it is due at the rate, else when
    it is read. What was read ahead before the stream could take pictures counts from when it could.
    """

    def __init__(
        self, number: int, source: Iterable[Any], value: Value, woke: Callable[[], None], rate: float | None = None
    ) -> None:
        self.number = number
        self.error: CutsetError | None = None
        self.over = False
        self._source, self._value, self._woke, self._rate = source, value, woke, rate
        self._ready: queue.Queue[tuple[Flight, bool]] = queue.Queue(AHEAD)  # and whether it is live
        self._open = True
        self._began = 0.0  # when the first picture was taken
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"cutset-source-{number}", daemon=True)
        self._thread.start()

    def take(self) -> Flight | None:
        """The next picture, if there is one already."""
        try:
            flight, live = self._ready.get_nowait()
        except queue.Empty:
            return None
        if not self._begun.is_set():
            self._began = time.monotonic()
            self._begun.set()
        if not live:
            flight.captured = max(flight.captured, self._began)
        return flight

    @property
    def dry(self) -> bool:
        """Nothing will come any more."""
        return self.over and self._ready.empty()

    def close(self) -> None:
        """Ends the thread at its next picture. The source is the caller's to close."""
        self._open = False

    def _read(self) -> None:
        try:
            for number, item in enumerate(self._items()):
                due = None
                if self._rate and number:
                    while self._open and not self._begun.wait(SLICE):
                        continue
                    due = self._began + number / self._rate
                    self._sleep(due)
                flight, live = self._flight(number, item, due)
                while self._open:
                    try:
                        self._ready.put((flight, live), timeout=SLICE)
                        self._woke()
                        break
                    except queue.Full:
                        continue
                if not self._open:
                    return
        except CutsetError as error:
            self.error = error
        except Exception as error:  # a source is anyone's iterable
            self.error = RequestError(f"source {self.number} failed: {type(error).__name__}: {str(error)[:300]}")
            self.error.__cause__ = error
        finally:
            self.over = True
            self._woke()

    def _items(self) -> Iterator[Any]:
        for item in self._source:
            if not self._open:
                return
            yield item

    def _flight(self, number: int, item: Any, due: float | None) -> tuple[Flight, bool]:
        value = self._value
        pixels: NDArray[Any] = np.array(getattr(item, "pixels", item), order="C")  # a copy: sources reuse theirs
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if pixels.shape == value.shape[1:] and value.shape[0] == 1:
            pixels = pixels[np.newaxis]
        if pixels.shape != value.shape or pixels.dtype.name != value.dtype:
            raise RequestError(
                f"picture {number} of source {self.number} is {pixels.dtype} {list(pixels.shape)}; this stream is for "
                f"{value.dtype} {list(value.shape)}"
            )
        now, said = time.monotonic(), getattr(item, "captured", None)
        captured = said if said is not None else now if due is None else due
        flight = Flight(self.number, number, float(getattr(item, "time", now)), pixels, captured)
        packets = getattr(item, "packets", None)
        if packets is not None:
            flight.own = Restart(tuple(packets), item.skipped, item.opens)
        return flight, said is not None

    def _sleep(self, until: float) -> None:
        while self._open and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))

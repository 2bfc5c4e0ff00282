"""When steps of a decoder begin: at a constant rhythm, with steps that nobody needs where there is none to do.

Who multiplies then sees one step after the other as long as the session lasts, whatever there is to do.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable

from cutset.errors import CutsetError, OffloadError

__all__ = ["StepPacer"]

log = logging.getLogger(__name__)
MOST_AFTER = 5.0  # seconds for which steps in their place go on after the last one, at most


class StepPacer:
    """Gives ticks of a grid of `period` seconds to real steps, each to one, and what they leave to `idle`, which does a
    step that nobody needs and says whether it could."""

    def __init__(self, period: float, idle: Callable[[], bool]) -> None:
        self.period = period
        self._idle = idle
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._failure: Exception | None = None  # there is no rhythm any more
        self._given = 0  # the last tick that was given away
        self._closing = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="cutset-pace", daemon=True)
        self._thread.start()
        atexit.register(self._end)  # a daemon thread inside native code must not outlive the interpreter

    @property
    def ticks(self) -> int:
        """How many have passed."""
        return int((time.monotonic() - self._start) / self.period)

    def await_tick(self) -> None:
        """Waits for the next tick that nobody has, on which a step begins. Raises OffloadError where there is no rhythm
        any more."""
        if self._failure is not None:
            raise OffloadError("--pad-steps can't be kept any more; the log says why") from self._failure
        with self._lock:
            self._given = tick = max(self._given, self.ticks) + 1
        self._sleep(tick)

    def close(self) -> None:
        """Steps in their place go on until the number of ticks is a power of two, for some seconds at most: so the end
        of a session that was short tells its length by its power of two."""
        atexit.unregister(self._end)
        if self._closed:
            return
        self._closed = True
        if threading.current_thread() is not self._thread and self._thread.is_alive():
            last = 1 << max(0, self.ticks - 1).bit_length()
            left = self._start + last * self.period - time.monotonic()
            if left <= MOST_AFTER:
                time.sleep(max(0.0, left))
            self._end()

    def _end(self) -> None:
        self._closing.set()
        self._thread.join(10.0)

    def _sleep(self, tick: int) -> None:
        time.sleep(max(0.0, self._start + tick * self.period - time.monotonic()))

    def _run(self) -> None:
        tick, failing = 0, False
        while True:
            tick = max(tick, self.ticks) + 1
            if self._closing.wait(max(0.0, self._start + tick * self.period - time.monotonic())):
                return
            with self._lock:
                free = self._given < tick
                self._given = max(self._given, tick)
            if not free:
                continue
            try:
                self._idle()
                failing = False
            except CutsetError as error:  # nobody answers, or the session is over: a new one may come
                if not failing:
                    log.warning("steps in place of real ones fail: %s", error)
                failing = True
            except Exception as error:
                log.exception("the rhythm of steps has ended")
                self._failure = error
                return

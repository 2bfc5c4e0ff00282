"""Starts workers again that have ended, whoever launched them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cutset.cluster.launch import Launcher
from cutset.errors import CutsetError

__all__ = ["Supervisor"]

TICK = 0.25  # seconds between two looks
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds until one is started that ends soon again and again
STEADY = 30.0  # seconds after which a worker that ends counts as one that had run


class Supervisor:
    """Looks after a launcher's workers, in a thread of its own, until `close`.

    One that ends is started again at once; one that ends again soon, after pauses that grow from half a second to 30.
    `log` gets a line for each.
    """

    def __init__(self, launcher: Launcher, log: Callable[[str], None] = lambda line: None) -> None:
        self._launcher, self._log = launcher, log
        self._pauses: dict[str, float] = {}  # after its next end
        self._started: dict[str, float] = {}  # when it was last started again
        self._due: dict[str, float] = {}  # when it is to be started
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cutset-supervisor", daemon=True)
        self._thread.start()

    def look(self, now: float) -> None:
        """Takes note of who has ended, and starts those who are due."""
        ended = self._launcher.ended()
        for name in [name for name in self._due if name not in ended]:
            del self._due[name]
        for name, why in ended.items():
            if name not in self._due:
                if now - self._started.get(name, -STEADY) >= STEADY:
                    self._pauses[name] = 0.0
                self._due[name] = now + self._pauses[name]
                later = f" in {self._pauses[name]:g} s" if self._pauses[name] else ""
                self._log(f"{name} has ended: {why}; it is started again{later}")
            if now >= self._due[name]:
                del self._due[name]
                self._pauses[name] = min(max(2 * self._pauses[name], FIRST_PAUSE), LONGEST_PAUSE)
                self._started[name] = now
                self._launcher.start(name)

    def _run(self) -> None:
        while not self._closed.wait(TICK):
            try:
                self.look(time.monotonic())
            except (CutsetError, OSError) as error:
                self._log(f"nobody can be started: {error}")
                self._closed.wait(FIRST_PAUSE)

    def close(self) -> None:
        """Starts nobody any more. A second call does nothing."""
        self._closed.set()
        self._thread.join(10.0)

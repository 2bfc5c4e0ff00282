"""When is a client idle? When no product was wanted for a moment: only then are pads made ahead here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cutset.offload.client.pads import PadPool

__all__ = ["Idle"]

AFTER = 0.1  # seconds without a product


class Idle:
    """Tells a pool of pads that a request is running, from the first `touch` until none came for a moment."""

    def __init__(self, pads: PadPool) -> None:
        self._pads = pads
        self._last = 0.0
        self._held = False
        self._running = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="cutset-idle", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """A product is wanted."""
        self._last = time.monotonic()
        if not self._running.is_set():
            self._running.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Products are wanted until this ends, however long they take."""
        self._held = True
        self.touch()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._held = False

    def close(self) -> None:
        """Ends the watching."""
        self._closed = True
        self._running.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._running.wait()
            with ExitStack() as stack:
                stack.enter_context(self._pads.busy())
                while not self._closed:
                    left = AFTER if self._held else self._last + AFTER - time.monotonic()
                    if left <= 0:
                        break
                    time.sleep(left)
                if self._closed:
                    return
                self._running.clear()
                if self._held or self._last + AFTER > time.monotonic():  # somebody came just now, and saw it set
                    self._running.set()

"""Which of a worker's two threads listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Turns"]

LONG = 0.05  # seconds of computing, after which the other thread listens meanwhile
LOOK = 0.1  # seconds between two looks whether that is so


class Turns:
    """One thread at a time listens. Whoever computes what it has heard keeps its turn, since handing over would cost
    more than the rest of a short item; after `LONG` the other one takes it."""

    def __init__(self, computing: Callable[[], float] = lambda: 0.0) -> None:
        """`computing`: since when whoever has the turn computes without having said so (`leave`), or 0."""
        self._computing = computing
        self._changed = threading.Condition()
        self._whose: int | None = None
        self._away = 0.0  # since when whoever has the turn computes

    def take(self, stopped: Callable[[], bool]) -> bool:
        """Waits until this thread may listen, or `stopped()`: then False."""
        own = threading.get_ident()
        with self._changed:
            while not stopped():
                since = self._away or self._computing()
                away = since > 0 and time.monotonic() - since > LONG
                if self._whose is None or self._whose == own or away:
                    self._whose, self._away = own, 0.0
                    return True
                self._changed.wait(LOOK)
        return False

    def leave(self) -> None:
        """This thread computes now; it has its turn, unless the other one took it."""
        with self._changed:
            if self._whose == threading.get_ident():
                self._away = time.monotonic()

    def give(self) -> None:
        """This thread won't listen any more."""
        with self._changed:
            if self._whose == threading.get_ident():
                self._whose, self._away = None, 0.0
                self._changed.notify_all()

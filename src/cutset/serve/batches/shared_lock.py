"""A lock that many threads hold together, or one by itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["SharedLock"]


class SharedLock:
    """Once somebody wants it alone, nobody else gets it before."""

    def __init__(self) -> None:
        self._holders, self._exclusive = 0, False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, *, alone: bool) -> Iterator[None]:
        """Waits for it, and holds it inside the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._exclusive = alone
            if alone:
                self._changed.wait_for(lambda: not self._holders)
            else:
                self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._exclusive = False
                else:
                    self._holders -= 1
                self._changed.notify_all()

"""From the engine's thread to the event loop: one wake-up for everything that a step brings."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Mailbox"]


class Mailbox:
    """`put` may be called from any thread and never blocks; what it was given is called on the event loop, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._waking = False

    def put(self, receive: Callable[[Any], object], content: Any) -> None:
        """Schedules `receive(content)` on the loop; does nothing once the loop has closed."""
        self._letters.append((receive, content))
        if self._waking:
            return  # a call to `_deliver` is on its way, and takes this one too
        self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            self._letters.clear()

    def _deliver(self) -> None:
        self._waking = False  # first: what comes from here on may be missed by the loop below
        while self._letters:
            receive, content = self._letters.popleft()
            receive(content)

"""From the engine's thread to the event loop: one wake-up for everything that a step brings."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from cutset.engine.delivery import Letter

__all__ = ["Mailbox"]


class Mailbox:
    """`put` may be called from any thread and never blocks; what it was given is delivered on the event loop, in
    order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[Letter] = deque()
        self._waking = False

    def put(self, letters: Sequence[Letter]) -> None:
        """A `Deliver`: has the loop call the receivers; does nothing once the loop has closed."""
        self._letters.extend(letters)
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
            receive, delta = self._letters.popleft()
            receive(delta)

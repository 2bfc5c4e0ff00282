"""Ctrl-C and SIGTERM while a command runs that has something to write at its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Interruption"]


class Interrupted(KeyboardInterrupt):
    """A signal ends the command where it is; `code` is its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Interruption:
    """Hears both signals inside its block, unless they are ignored already.

    They raise `Interrupted`, until `on_signal` was called: then the first one calls back and is noted, so that the
    command can end in order, and the second one raises.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that was noted
        self._stop: Callable[[], object] | None = None
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """Of the signal that was noted, or empty."""
        return signal.Signals(self.number).name if self.number else ""

    def on_signal(self, stop: Callable[[], object]) -> None:
        """`stop` is called from a signal handler: it may do little."""
        self._stop = stop

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._stop is None or self.number:
            raise Interrupted(number)
        self.number = number
        self._stop()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

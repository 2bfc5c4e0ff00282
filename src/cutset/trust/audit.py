"""The audit log: a line of JSON for each refusal, lie and use of a key, which this program only ever adds to."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from cutset.errors import ConfigError, printable

__all__ = ["AuditLog"]

MOST_VALUE = 500  # characters
EVENTS = ("refused", "lied", "key released", "key refused", "key used", "evidence shown")


class AuditLog:
    """A file that is opened to append, 0600, and synchronised after each line. Any thread may write, and several
    processes; lines don't mix. Prompts, answers and keys never go there: callers give digests and reasons.

    Raises ConfigError where it can't be opened. A line that can't be written is an error too: what has to be logged
    isn't done unseen."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"the audit log {path} can't be opened: {error.strerror}") from None

    def write(self, event: str, **facts: str | int) -> None:
        """Adds a line. Texts that come from others are shortened, without what a terminal would obey."""
        assert event in EVENTS, event
        shown = {
            name: printable(value, lines=False)[:MOST_VALUE] if isinstance(value, str) else value
            for name, value in facts.items()
        }
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **shown}
        data = (json.dumps(line, ensure_ascii=True) + "\n").encode()
        with self._lock:
            if self._file < 0:
                raise ConfigError(f"the audit log {self.path} can't be written: it was closed")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:
                    if os.write(self._file, data) != len(data):
                        raise ConfigError(f"the audit log {self.path} took only a part of a line: is its disk full?")
                    os.fsync(self._file)
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            except OSError as error:
                raise ConfigError(f"the audit log {self.path} can't be written: {error.strerror}") from None

    def close(self) -> None:
        """Nothing is written afterwards."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

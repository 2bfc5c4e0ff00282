"""The audit log: a line of JSON for each refusal, lie and use of a key, which this program only ever adds to.

Each line says which one it came after, by its SHA-256; so none can be changed, taken out or put in between without all
behind it being written anew. That the last ones are there shows a digest that was kept elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from cutset.errors import ConfigError, EvidenceError, printable

__all__ = ["AuditLog", "audit_head"]

MOST_VALUE = 500  # characters
MOST_LINE = 64 << 10  # bytes: what no line has
EVENTS = ("refused", "lied", "key released", "key refused", "key used", "evidence shown")


class AuditLog:
    """A file that is opened to append, 0600, and synchronised after each line. Any thread may write, and several
    processes; lines don't mix. Prompts, answers and keys never go there: callers give digests and reasons.

    Raises ConfigError where it can't be opened. A line that can't be written is an error too: what has to be logged
    isn't done unseen."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
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
        with self._lock:
            if self._file < 0:
                raise ConfigError(f"the audit log {self.path} can't be written: it was closed")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:
                    after = {"after": _digest(self._last())}
                    data = (json.dumps(line | after, ensure_ascii=True) + "\n").encode()
                    before = os.fstat(self._file).st_size
                    if os.write(self._file, data) != len(data):
                        with contextlib.suppress(OSError):  # half a line would be in the way of all that follow
                            os.ftruncate(self._file, before)
                        raise ConfigError(f"the audit log {self.path} took only a part of a line: is its disk full?")
                    os.fsync(self._file)
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            except OSError as error:
                raise ConfigError(f"the audit log {self.path} can't be written: {error.strerror}") from None

    def _last(self) -> bytes:
        """The last line that is there, without its end; nothing in a new file."""
        size = os.fstat(self._file).st_size
        data = os.pread(self._file, MOST_LINE, max(0, size - MOST_LINE)) if size else b""
        return data.removesuffix(b"\n").rpartition(b"\n")[2]

    def close(self) -> None:
        """Nothing is written afterwards."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def audit_head(path: Path, kept: str = "") -> tuple[int, str]:
    """How many lines a log has, and the digest of the last one, if each came after the one before it. `kept`: a digest
    of a line that has to be there. Raises EvidenceError where that isn't so, ConfigError for a file that can't be read.
    Lines of before there were digests count where they stand at the beginning."""
    count, last, chained, found = 0, b"", False, not kept
    try:
        with path.open("rb") as file:
            for line in iter(lambda: file.readline(MOST_LINE + 1), b""):
                count += 1
                try:
                    said = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    said = None
                if not isinstance(said, dict):
                    raise EvidenceError(f"line {count} is no whole line of an audit log")
                if "after" in said or chained:
                    chained = True
                    if said.get("after") != _digest(last):
                        raise EvidenceError(f"line {count} came after another one than stands before it")
                last = line.removesuffix(b"\n")
                found = found or _digest(last) == kept
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    if not found:
        raise EvidenceError(f"the line {kept[:64]} isn't there: the log was cut short, or is another one")
    return count, _digest(last)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else ""

"""Files that are read again when they change, while the server runs: keys and certificates."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.errors import CutsetError

__all__ = ["FileWatch"]

PERIOD_S = 1.0

log = logging.getLogger(__name__)
Stamp = tuple[int, int, int] | None


@dataclass(slots=True)
class _Watched:
    paths: Sequence[Path]
    read: Callable[[], str]
    stamps: list[Stamp]


class FileWatch:
    """Calls back when files have other contents than before; `report` gets a line about it.

    What can't be used is logged, and what was read before stays in force. Nothing of a file's contents is ever said.
    """

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self._report, self._watched = report, list[_Watched]()
        self._lock = threading.Lock()

    def add(self, paths: Sequence[Path], read: Callable[[], str]) -> None:
        """`read` is called when one of the paths has changed; it says what it did, or raises CutsetError or OSError."""
        self._watched.append(_Watched(paths, read, [_stamp(path) for path in paths]))

    def check(self) -> None:
        """Reads what has changed since the last time. Any thread may call it."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        for one in self._watched:
            stamps = [_stamp(path) for path in one.paths]
            if stamps == one.stamps or None in stamps:  # gone: it is being replaced
                continue
            one.stamps = stamps
            try:
                self._report(one.read())
            except (CutsetError, OSError) as error:
                log.warning("what was read before stays in force: %s", error)

    async def run(self) -> None:
        """Looks every second until it is cancelled."""
        while self._watched:
            await asyncio.sleep(PERIOD_S)
            await asyncio.to_thread(self.check)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

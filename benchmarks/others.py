"""What processes that aren't a benchmark's own take of the machine while it measures."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Others"]

PROC = Path("/proc")


class Others:
    """Begins to count when it is made. Where the system doesn't tell, others take nothing."""

    def __init__(self) -> None:
        self._ticks = float(os.sysconf("SC_CLK_TCK"))
        self._busy, self._own, self._at = _busy(), _own(), time.monotonic()

    def cores(self) -> float:
        """That others than this process and its children kept busy, on average, since then."""
        ticks = (_busy() - self._busy) - (_own() - self._own)
        return max(0.0, ticks / self._ticks / max(1e-9, time.monotonic() - self._at))


def _busy() -> int:
    """Ticks of all cores so far that weren't idle."""
    try:
        user, nice, system, _, _, *interrupts = map(int, (PROC / "stat").read_text().split("\n")[0].split()[1:8])
    except (OSError, ValueError):
        return 0
    return user + nice + system + sum(interrupts)


def _own() -> int:
    """Ticks of this process and its children that live."""
    found, me = 0, os.getpid()
    for path in PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
        if me in (int(fields[1]), int(path.parent.name)):
            found += int(fields[11]) + int(fields[12])
    return found

"""How many cores there are to compute with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: by affinity, and by the quota of every control group above it, at least 1.

    A fraction of a core is dropped: a thread too many waits for the quota, and the others wait for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Whole cores that each control group grants, in version 2 (no controllers named) or 1 of that file system."""
    listed = root / "proc/self/cgroup"
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # Inside a container the group's name may be the host's, of which only the top is mounted.
        inner = root / "sys/fs/cgroup" / controllers / group.strip("/")
        for folder in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such file, or "max": no quota here
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if int(quota) > 0:
                    yield int(quota) // int(period)

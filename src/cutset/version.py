"""The installed version, for greetings and `--version`."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

__all__ = ["ARITHMETIC", "compatible", "software"]

# Raised by every change after which a kernel or an executor gives other bits than before, on any instruction set:
# parties that compute one model together have the same.
ARITHMETIC = 3
RELEASE = re.compile(r"cutset ([0-9]+)\.([0-9]+)(?:\.([0-9]+))?")


@cache
def software() -> str:
    """`cutset 0.1.0`."""
    try:
        return f"cutset {importlib.metadata.version('cutset')}"
    except importlib.metadata.PackageNotFoundError:
        return "cutset (not installed)"


def compatible(ours: str, theirs: str) -> bool:
    """Whether parties that are called so, as `software` calls this one, run one model together: releases of one major
    version, at most one minor version apart. Before 1.0 a minor version counts as a major one, a patch as a minor one.
    """
    found = [RELEASE.match(name) for name in (ours, theirs)]
    if ours == theirs or None in found:
        return ours == theirs
    (major, minor), (other, step) = (_significant(*(int(part or 0) for part in one.groups())) for one in found if one)
    return major == other and abs(minor - step) <= 1


def _significant(major: int, minor: int, patch: int) -> tuple[tuple[int, int], int]:
    return ((major, 0), minor) if major else ((0, minor), patch)

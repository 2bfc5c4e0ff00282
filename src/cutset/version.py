"""The installed version, for greetings and `--version`."""

from __future__ import annotations

import importlib.metadata
from functools import cache

__all__ = ["software"]


@cache
def software() -> str:
    """`cutset 0.1.0`."""
    try:
        return f"cutset {importlib.metadata.version('cutset')}"
    except importlib.metadata.PackageNotFoundError:
        return "cutset (not installed)"

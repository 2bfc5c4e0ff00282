"""How a worker runs, whoever comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """Threads, device, limits and places of a worker."""

    threads: int = 1
    device: str = "cpu"
    memory: int = 0  # bytes, 0: no limit
    cache: Path | None = None
    weights: Path | None = None
    keys: Any = None  # cutset.link.keys.Keys, with tcp
    coordinators: frozenset[bytes] | None = None  # with tcp: the public keys of those who may give orders
    speed: float = 1.0  # emulated, as a share of this machine's

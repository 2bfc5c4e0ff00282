"""How a worker runs, whoever comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.cluster.stage import Runtime

__all__ = ["WorkerSettings"]


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker computes with, its limits and its places."""

    runtime: Runtime
    threads: int = 1  # of the runtime, for the card
    memory: int = 0  # bytes, 0: no limit
    cache: Path | None = None
    weights: Path | None = None
    keys: Any = None  # cutset.link.keys.Keys, with tcp
    coordinators: frozenset[bytes] | None = None  # with tcp: the public keys of those who may give orders
    speed: float = 1.0  # emulated, as a share of this machine's

"""How a worker runs, whoever comes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cutset.cluster.messages import HANDSHAKE
from cutset.link.keys import Keys
from cutset.link.peer import Handshake

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """Threads, device, limits and places of a worker."""

    threads: int = 1
    device: str = "cpu"
    memory: int = 0  # bytes, 0: no limit
    cache: Path | None = None
    weights: Path | None = None
    keys: Keys | None = None  # with tcp
    coordinators: frozenset[bytes] | None = None  # with tcp: the public keys of those who may give orders
    handshake: Handshake = HANDSHAKE  # what it proves to others, and what they must prove
    speed: float = 1.0  # emulated, as a share of this machine's

"""How a worker runs, whoever comes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from cutset.cluster.messages import HANDSHAKE
from cutset.cluster.stage import Abilities, Runtime
from cutset.link.keys import Keys
from cutset.link.peer import Binding, Handshake

__all__ = ["WorkerSettings"]


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker computes with, its limits and its places."""

    runtime: Runtime
    threads: int = 1  # of the runtime, for the card
    memory: int = 0  # bytes, 0: no limit
    cache: Path | None = None
    weights: Path | None = None
    keys: Keys | None = None  # with tcp
    coordinators: Collection[bytes] | None = None  # with tcp: the public keys of those who may give orders
    handshake: Handshake = HANDSHAKE  # with those who dial it: what it proves, and what they must prove
    verify_next: Callable[[bytes, Binding], bool] | None = None  # whether the next worker's evidence is enough
    abilities: Abilities = Abilities()  # noqa: RUF009 (it is frozen)
    joined: str = ""  # where it dials in instead of being dialled, which is where it finds others that do
    speed: float = 1.0  # emulated, as a share of this machine's

"""The file of `cutset stream simulate`: a network, machines and links that aren't there, in TOML or JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cutset.errors import ConfigError
from cutset.partition.machine_file import (
    FLAG,
    NUMBER,
    TABLES,
    TEXT,
    WHOLE,
    checked,
    hop_of,
    read_machine_file,
    workers_of,
)
from cutset.video.profile.setup import Wish

__all__ = ["Scenario", "read_scenario"]

KEYS: dict[str, tuple[type, ...]] = {
    "model": TEXT,
    "size": TEXT,
    "features": FLAG,
    "weights": TEXT,
    "seed": WHOLE,
    "source": TEXT,
    "pictures": WHOLE,
    "changed": NUMBER,
    "profile": TEXT,
    "objective": TEXT,
    "in_flight": WHOLE,
    "rate": NUMBER,
    "mode": TEXT,
    "horizon": NUMBER,
    "pictures_stay": FLAG,
    "jpeg": FLAG,
    "worker": TABLES,
}
WORKER_KEYS: dict[str, tuple[type, ...]] = {
    "name": TEXT,
    "link": TEXT,
    "speed": NUMBER,
    "memory": TEXT,
    "profile": TEXT,
}
CHOICES = {"objective": ("latency", "throughput"), "mode": ("delta", "full")}
MOST_WORKERS = 64


@dataclass(frozen=True)
class Scenario:
    """What the file says. Paths are beside it."""

    model: str
    size: str
    features: bool
    weights: Path | None
    seed: int
    source: str | None
    pictures: int
    profile: Path | None
    profiles: tuple[Path | None, ...]  # of each worker
    memory: tuple[str, ...]  # of each worker, as written
    wish: Wish


def read_scenario(path: Path) -> Scenario:
    """Raises ConfigError for what isn't right, with the nearest known key for one that is unknown."""
    given = checked(read_machine_file(path), KEYS, str(path))
    if "model" not in given or not given.get("worker"):
        raise ConfigError(f"{path} must name a model, and a [[worker]] with its link for each machine")
    workers = workers_of(given, WORKER_KEYS, MOST_WORKERS, path)
    names = [worker.get("name", f"worker{i + 1}") for i, worker in enumerate(workers)]
    hops = [hop_of(worker, name, path) for name, worker in zip(names, workers, strict=True)]
    for key, known in CHOICES.items():
        if key in given and given[key] not in known:
            raise ConfigError(f"{path}: {key} is {' or '.join(known)}, not {given[key]!r}")
    pictures = given.get("pictures", 8)
    if not 2 <= pictures <= 1000:
        raise ConfigError(f"{path}: pictures must be from 2 to 1000")
    source = given.get("source")
    if source and ":" not in source:
        source = str(path.parent / source)
    wish = Wish(
        speeds=[float(worker.get("speed", 1.0)) for worker in workers],
        hops=hops,
        names=names,
        objective=given.get("objective", "latency"),
        in_flight=given.get("in_flight", 1),
        rate=given.get("rate"),
        mode=given.get("mode", "delta"),
        horizon=given.get("horizon", math.inf),
        pictures_stay=given.get("pictures_stay", False),
        changed=given.get("changed", 0.2),
        jpeg=given.get("jpeg", False),
    )
    return Scenario(
        model=given["model"],
        size=given.get("size", ""),
        features=given.get("features", False),
        weights=_beside(path, given.get("weights")),
        seed=given.get("seed", 0),
        source=source,
        pictures=pictures,
        profile=_beside(path, given.get("profile")),
        profiles=tuple(_beside(path, worker.get("profile")) for worker in workers),
        memory=tuple(worker.get("memory", "") for worker in workers),
        wish=wish,
    )


def _beside(path: Path, name: str | None) -> Path | None:
    return None if name is None else path.parent / name

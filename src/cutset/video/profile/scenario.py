"""The file of `cutset stream simulate`: a network, machines and links that aren't there, in TOML or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.config import did_you_mean, parse_toml, read_bounded
from cutset.errors import ConfigError
from cutset.partition.hop import parse_hop
from cutset.video.profile.setup import Wish

__all__ = ["Scenario", "read_scenario"]

TEXT, WHOLE, NUMBER, FLAG = (str,), (int,), (int, float), (bool,)
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
    "worker": (list,),
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
MOST_NUMBER = 1e15


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
    text = read_bounded(path)
    try:
        table = json.loads(text) if path.suffix == ".json" else parse_toml(text, "it")
    except (ConfigError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    given = _checked(table, KEYS, str(path))
    if "model" not in given or not given.get("worker"):
        raise ConfigError(f"{path} must name a model, and a [[worker]] with its link for each machine")
    if len(given["worker"]) > MOST_WORKERS:
        raise ConfigError(f"{path}: at most {MOST_WORKERS} workers")
    workers = [_checked(one, WORKER_KEYS, f"{path}, worker {i + 1}") for i, one in enumerate(given["worker"])]
    names = [worker.get("name", f"worker{i + 1}") for i, worker in enumerate(workers)]
    hops = []
    for name, worker in zip(names, workers, strict=True):
        try:
            hops.append(parse_hop(worker["link"]))
        except KeyError:
            raise ConfigError(f'{path}: {name} has no link, as link = "8MB/s,20ms"') from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {name}: {error}") from None
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


def _checked(table: Any, known: Mapping[str, tuple[type, ...]], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: a table of keys is expected")
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{where}: {key!r} is not a key{did_you_mean(key, known)}")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            raise ConfigError(f"{where}: {key} must be {known[key][0].__name__}, not {type(value).__name__}")
        if isinstance(value, int | float) and not abs(value) <= MOST_NUMBER and value != math.inf:
            raise ConfigError(f"{where}: {key} must be a number of at most {MOST_NUMBER:g}")
    return table


def _beside(path: Path, name: str | None) -> Path | None:
    return None if name is None else path.parent / name

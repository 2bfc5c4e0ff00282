"""The file of `cutset simulate` for many cameras: a network, sites with cameras and an edge box, and one cloud."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.errors import ConfigError
from cutset.partition.hop import Hop, parse_hop
from cutset.partition.machine_file import (
    FLAG,
    NUMBER,
    TABLE,
    TABLES,
    TEXT,
    WHOLE,
    Keys,
    checked,
    hop_of,
    read_machine_file,
)

__all__ = ["CameraSite", "Cloud", "SiteScenario", "is_of_sites", "read_sites"]

KEYS: Keys = {
    "model": TEXT,
    "size": TEXT,
    "features": FLAG,
    "profile": TEXT,
    "changed": NUMBER,
    "rate": NUMBER,
    "pictures": WHOLE,
    "seed": WHOLE,
    "cloud": TABLE,
    "site": TABLES,
}
SITE_KEYS: Keys = {
    "name": TEXT,
    "count": WHOLE,
    "cameras": WHOLE,
    "link": TEXT,
    "local": TEXT,
    "speed": NUMBER,
    "cost": NUMBER,
}
CLOUD_KEYS: Keys = {"speed": NUMBER, "machines": WHOLE, "cost": NUMBER}
MOST_SITES, MOST_CAMERAS = 10_000, 1_000_000
LOCAL = Hop(125e6, 0.0005)  # a gigabit between cameras and the box


@dataclass(frozen=True)
class CameraSite:
    """`link` leads to the cloud, `local` from the cameras to the box; `speed` is the box's, in times of the profile's
    machine; `cost` is that of the site for an hour."""

    name: str
    cameras: int
    link: Hop
    local: Hop
    speed: float
    cost: float


@dataclass(frozen=True)
class Cloud:
    """Machines that share the work of all sites."""

    speed: float
    machines: int
    cost: float  # of a machine for an hour


@dataclass(frozen=True)
class SiteScenario:
    """What the file says. Paths are beside it."""

    model: str
    size: str
    features: bool  # without the head
    profile: Path | None
    changed: float  # share of every value that changes from picture to picture
    rate: float  # pictures a second of a camera
    pictures: int  # of each site that are simulated, at least
    seed: int
    cloud: Cloud
    sites: tuple[CameraSite, ...]


def is_of_sites(table: Any) -> bool:
    """Whether a file is one of sites."""
    return isinstance(table, dict) and "site" in table


def read_sites(path: Path) -> SiteScenario:
    """Raises ConfigError for what isn't right, with the nearest known key for one that is unknown."""
    given = checked(read_machine_file(path), KEYS, str(path))
    for name in ("model", "cloud", "site", "rate"):
        if not given.get(name):
            raise ConfigError(
                f"{path} must name a model, a rate (pictures a second of a camera), [cloud] and [[site]]s"
            )
    cloud = {"machines": 1, "speed": 1.0, "cost": 0.0} | checked(given["cloud"], CLOUD_KEYS, f"{path}, cloud")
    sites: list[CameraSite] = []
    for number, table in enumerate(given["site"], 1):
        sites += _sites(checked(table, SITE_KEYS, f"{path}, site {number}"), number, path)
    names = [one.name for one in sites]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two sites have one name: give each another")
    if len(sites) > MOST_SITES or sum(one.cameras for one in sites) > MOST_CAMERAS:
        raise ConfigError(f"{path}: at most {MOST_SITES:,} sites and {MOST_CAMERAS:,} cameras")
    found = SiteScenario(
        model=given["model"],
        size=given.get("size", ""),
        features=given.get("features", False),
        profile=path.parent / given["profile"] if "profile" in given else None,
        changed=float(given.get("changed", 0.2)),
        rate=float(given["rate"]),
        pictures=given.get("pictures", 300),
        seed=given.get("seed", 0),
        cloud=Cloud(float(cloud["speed"]), cloud["machines"], float(cloud["cost"])),
        sites=tuple(sites),
    )
    for name, value, least, most in (
        ("rate", found.rate, 1e-6, 1e5),
        ("changed", found.changed, 0, 1),
        ("pictures", found.pictures, 10, 100_000),
        ("seed", found.seed, 0, 1 << 62),
        ("cloud's speed", found.cloud.speed, 1e-6, 1e6),
        ("cloud's machines", found.cloud.machines, 1, 1_000_000),
        ("cloud's cost", found.cloud.cost, 0, 1e6),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{path}: the {name} must be from {least:g} to {most:,g}, not {value:g}")
    return found


def _sites(table: dict[str, Any], number: int, path: Path) -> list[CameraSite]:
    name, count = table.get("name", f"site{number}"), table.get("count", 1)
    cameras, speed = table.get("cameras", 1), float(table.get("speed", 1.0))
    if not 1 <= count <= MOST_SITES or not 1 <= cameras <= MOST_CAMERAS:
        raise ConfigError(f"{path}: {name}: count and cameras are from 1 to {MOST_SITES:,} and {MOST_CAMERAS:,}")
    if not 0 < speed < math.inf or not 0 <= table.get("cost", 0) <= 1e6:
        raise ConfigError(f"{path}: {name}: a speed must be above 0, as 0.5, and a cost from 0 on")
    try:
        local = parse_hop(table["local"]) if "local" in table else LOCAL
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error}") from None
    names = [name] if count == 1 else [f"{name}-{i + 1}" for i in range(count)]
    link, cost = hop_of(table, name, path), float(table.get("cost", 0.0))
    return [CameraSite(one, cameras, link, local, speed, cost) for one in names]

"""The table [serving] of `cutset simulate`: what is asked of many machines, how often they fail, and what they cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cutset.errors import ConfigError
from cutset.partition.machine_file import NUMBER, TEXT, WHOLE, Keys, checked

__all__ = ["MOST_REQUESTS", "FleetServing", "read_serving"]

KEYS: Keys = {
    "requests": NUMBER,
    "prompt": WHOLE,
    "answer": WHOLE,
    "stages": WHOLE,
    "spares": WHOLE,
    "mtbf": TEXT,
    "restart": TEXT,
    "detect": TEXT,
    "cost": NUMBER,
    "count": WHOLE,
    "seed": WHOLE,
}
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(ms|s|min|h|d)")
MOST_REQUESTS = 200_000


@dataclass(frozen=True)
class FleetServing:
    """Times are in seconds. Groups of `stages` machines each run the whole model (0: as many as serve most); `spares`
    stand by."""

    requests: float  # a second, of all machines together
    prompt: int  # tokens
    answer: int
    stages: int = 0
    spares: int = 0
    mtbf: float = 0.0  # mean time between failures of a machine; 0: none fails
    restart: float = 300.0  # until a machine that failed is back
    detect: float = 3.0  # until a failure is noticed
    cost: float = 0.0  # of a machine for an hour
    count: int = 0  # requests that are simulated; 0: those of ten times as long as one takes
    seed: int = 0


def read_serving(table: Any, where: str) -> FleetServing:
    """Raises ConfigError."""
    given = dict(checked(table, KEYS, f"{where}, serving"))
    for name in ("requests", "prompt", "answer"):
        if name not in given:
            raise ConfigError(f"{where}, serving: {name} is missing; it has requests (a second), prompt and answer")
    for name in ("mtbf", "restart", "detect"):
        if name in given:
            given[name] = _seconds(given[name], f"{where}, serving: {name}")
    bounds = {
        "requests": (1e-6, 1e7),
        "prompt": (1, 1 << 24),
        "answer": (1, 1 << 24),
        "stages": (0, 64),
        "spares": (0, 10_000),
        "cost": (0, 1e6),
        "count": (100, MOST_REQUESTS),
        "seed": (0, 1 << 62),
    }
    for name, (least, most) in bounds.items():
        if name in given and not least <= given[name] <= most:
            raise ConfigError(f"{where}, serving: {name} must be from {least:g} to {most:,g}, not {given[name]:,}")
    return FleetServing(**given)


def _seconds(text: str, where: str) -> float:
    found = DURATION.fullmatch(text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{where} {text[:40]!r} is no time: write 3s, 5min or 30d")
    return float(found[1]) * UNITS[found[2]]

"""Files of machines that aren't there, in TOML or JSON: what all of them have in common, and how keys are checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutset.config import did_you_mean, parse_toml, read_bounded
from cutset.errors import ConfigError
from cutset.partition.hop import Hop, parse_hop

__all__ = [
    "FLAG",
    "NUMBER",
    "TABLE",
    "TABLES",
    "TEXT",
    "WHOLE",
    "Keys",
    "checked",
    "hop_of",
    "read_machine_file",
    "workers_of",
]

TEXT, WHOLE, NUMBER, FLAG, TABLES, TABLE = (str,), (int,), (int, float), (bool,), (list,), (dict,)
MOST_NUMBER = 1e15
Keys = Mapping[str, tuple[type, ...]]


def read_machine_file(path: Path) -> Any:
    """What the file holds, not yet checked. Raises ConfigError."""
    text = read_bounded(path)
    try:
        return json.loads(text) if path.suffix == ".json" else parse_toml(text, "it")
    except (ConfigError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None


def checked(table: Any, known: Keys, where: str) -> dict[str, Any]:
    """The table, if it has known keys with values of their types alone. Raises ConfigError."""
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


def workers_of(given: Mapping[str, Any], known: Keys, most: int, path: Path) -> list[dict[str, Any]]:
    """The file's [[worker]] tables. Raises ConfigError."""
    if len(given["worker"]) > most:
        raise ConfigError(f"{path}: at most {most:,} workers")
    return [checked(one, known, f"{path}, worker {i + 1}") for i, one in enumerate(given["worker"])]


def hop_of(worker: Mapping[str, Any], name: str, path: Path) -> Hop:
    """A worker's link. Raises ConfigError where it has none."""
    try:
        return parse_hop(worker["link"])
    except KeyError:
        raise ConfigError(f'{path}: {name} has no link, as link = "8MB/s,20ms"') from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error}") from None

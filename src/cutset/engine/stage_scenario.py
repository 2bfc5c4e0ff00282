"""The file of `cutset simulate`: a decoder, and machines that aren't there, in TOML or JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cutset.engine.decoder_times import Rates
from cutset.engine.fleet_scenario import FleetServing, read_serving
from cutset.errors import ConfigError
from cutset.models.random import RandomModel
from cutset.partition.hop import BYTES, Hop, parse_hop
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
    workers_of,
)
from cutset.partition.problem import Objective

__all__ = ["DecoderScenario", "SimulatedMachine", "read_decoder_scenario"]

KEYS: Keys = {
    "model": TEXT,
    "shape": TABLE,
    "objective": TEXT,
    "context": WHOLE,
    "sequences": WHOLE,
    "link": TEXT,
    "reference": TABLE,
    "worker": TABLES,
    "serving": TABLE,
}
RATE_KEYS: Keys = {"bandwidth": TEXT, "gflops": NUMBER}
WORKER_KEYS: Keys = {"name": TEXT, "link": TEXT, "speed": NUMBER, "memory": TEXT, "count": WHOLE, **RATE_KEYS}
SHAPE_KEYS: Keys = {
    "hidden": WHOLE,
    "layers": WHOLE,
    "heads": WHOLE,
    "kv_heads": WHOLE,
    "intermediate": WHOLE,
    "vocab": WHOLE,
    "experts": WHOLE,
    "top_k": WHOLE,
    "tied": FLAG,
    "qk_norm": FLAG,
    "bits": NUMBER,
}
NEEDED = ("hidden", "layers", "heads")
MOST_WORKERS = 10_000
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([kMGT]?i?B)")
UNITS = BYTES | {"TB": 1e12, "TiB": 2.0**40}


@dataclass(frozen=True)
class SimulatedMachine:
    """A machine of the file. With `rates` these say how fast it is, else `speed` times that of the reference."""

    name: str
    link: Hop
    speed: float
    memory: float  # bytes; infinite for no limit
    rates: Rates | None


@dataclass(frozen=True)
class DecoderScenario:
    """What the file says. Either `model` or `shape` is there."""

    model: str
    shape: RandomModel | None
    bits: float  # of a weight, where there is a shape
    objective: Objective
    context: int
    sequences: int
    link: Hop  # of the coordinator
    reference: Rates | None  # of a machine of speed 1; None: this one is measured
    machines: tuple[SimulatedMachine, ...]
    serving: FleetServing | None = None  # of many groups of these machines


def read_decoder_scenario(path: Path) -> DecoderScenario:
    """Raises ConfigError for what isn't right, with the nearest known key for one that is unknown."""
    table = read_machine_file(path)
    if isinstance(table, dict) and {"source", "size", "changed", "features", "pictures"} & set(table):
        raise ConfigError(f"{path} is of a network of pictures: cutset stream simulate {path.name}")
    given = checked(table, KEYS, str(path))
    if ("model" in given) == ("shape" in given) or not given.get("worker"):
        raise ConfigError(f"{path} must name a model or a [shape], and a [[worker]] with its link for each machine")
    objective = given.get("objective", "throughput")
    if objective not in get_args(Objective):
        raise ConfigError(f"{path}: objective is {' or '.join(get_args(Objective))}, not {objective!r}")
    context, sequences = given.get("context", 2048), given.get("sequences", 1)
    for name, value in (("context", context), ("sequences", sequences)):
        if not 1 <= value <= 1 << 24:
            raise ConfigError(f"{path}: {name} must be from 1 to {1 << 24:,}, not {value:,}")
    shape, bits = (None, 0.0) if "model" in given else _shape(given["shape"], context, path)
    machines: list[SimulatedMachine] = []
    for number, worker in enumerate(workers_of(given, WORKER_KEYS, MOST_WORKERS, path)):
        machines += _machines(worker, number, path)
    if len(machines) > MOST_WORKERS:
        raise ConfigError(f"{path}: at most {MOST_WORKERS:,} workers, not {len(machines):,}")
    names = [one.name for one in machines]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(f"{path}: two workers are called {twice!r}")
    return DecoderScenario(
        model=given.get("model", ""),
        shape=shape,
        bits=bits,
        objective=objective,
        context=context,
        sequences=sequences,
        link=_hop(given["link"], path) if "link" in given else Hop(),
        reference=_rates(checked(given["reference"], RATE_KEYS, f"{path}, reference"), f"{path}, reference")
        if "reference" in given
        else None,
        machines=tuple(machines),
        serving=read_serving(given["serving"], str(path)) if "serving" in given else None,
    )


def _shape(table: Any, context: int, path: Path) -> tuple[RandomModel, float]:
    where = f"{path}, shape"
    given = dict(checked(table, SHAPE_KEYS, where))
    if missing := [name for name in NEEDED if name not in given]:
        raise ConfigError(f"{where}: {missing[0]} is missing; a shape has {', '.join(NEEDED)}")
    bits = float(given.pop("bits", 4.5))
    if not 1 <= bits <= 32:
        raise ConfigError(f"{where}: bits of a weight are from 1 to 32, not {bits:g}")
    if wrong := [name for name, value in given.items() if type(value) is int and not 0 <= value <= 1 << 24]:
        raise ConfigError(f"{where}: {wrong[0]} must be from 0 to {1 << 24:,}")
    defaults: dict[str, Any] = {"kv_heads": given["heads"], "vocab": 32_000, "tied": False, "max_pos": max(context, 16)}
    return RandomModel(**(defaults | given)), bits


def _machines(worker: Mapping[str, Any], number: int, path: Path) -> list[SimulatedMachine]:
    name, count = worker.get("name", f"worker{number + 1}"), worker.get("count", 1)
    where = f"{path}: {name}"
    if not 1 <= count <= MOST_WORKERS:
        raise ConfigError(f"{where}: count must be from 1 to {MOST_WORKERS:,}, not {count:,}")
    speed = float(worker.get("speed", 1.0))
    if not 0 < speed < math.inf:
        raise ConfigError(f"{where}: a speed must be above 0, as 0.125 for an eighth, not {speed:g}")
    rates = None
    if "bandwidth" in worker or "gflops" in worker:
        if "speed" in worker:
            raise ConfigError(f"{where}: give a speed, or bandwidth and gflops")
        rates = _rates(worker, where)
    memory = _bytes(worker["memory"], where) if "memory" in worker else math.inf
    link = hop_of(worker, name, path)
    names = [name] if count == 1 else [f"{name}-{i + 1}" for i in range(count)]
    return [SimulatedMachine(one, link, speed, memory, rates) for one in names]


def _rates(table: Mapping[str, Any], where: str) -> Rates:
    if "bandwidth" not in table or "gflops" not in table:
        raise ConfigError(f'{where}: a machine\'s rates are bandwidth, as "40GB/s", and gflops')
    text, gflops = table["bandwidth"].strip(), float(table["gflops"])
    if not text.endswith("/s") or not 0 < gflops < math.inf:
        raise ConfigError(f'{where}: a bandwidth is written as "40GB/s", and gflops are above 0')
    return Rates(_bytes(text.removesuffix("/s"), where), gflops * 1e9)


def _bytes(text: str, where: str) -> float:
    found = SIZE.fullmatch(text.strip())
    if found is None or found[2] not in UNITS or float(found[1]) == 0:
        raise ConfigError(f"{where}: {text[:40]!r} is not a size: write 500MB or 2GiB")
    return float(found[1]) * UNITS[found[2]]


def _hop(text: str, path: Path) -> Hop:
    try:
        return parse_hop(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None

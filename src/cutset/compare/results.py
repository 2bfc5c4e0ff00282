"""Result files: what a command measured, on which machine, one row a figure.

    {"command": …, "machine": {"cpu", "cores", "threads", "versions"},
     "rows": [{"workload", "system", "metric", "value", "unit", "spread"}]}

A command may add more beside `rows`; it is ignored here. `value` is a median. `spread` is half the range between the
quartiles, as a share of the median (0.03 is 3 %), or null where it was measured once. A system of ours has a name that
starts with "cutset"; any other is an opponent.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cutset.config import read_bounded, usable_cores
from cutset.errors import ConfigError
from cutset.files import write_json

__all__ = ["MachineInfo", "Results", "Row", "load", "machine", "save", "summarise"]

MAX_BYTES = 16 << 20
MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. Rows of the same workload and metric can be divided by each other."""

    workload: str
    system: str
    metric: str
    value: float  # in `unit`
    unit: str
    spread: float | None = None  # a share of `value`

    @property
    def key(self) -> tuple[str, str, str]:
        """Workload, metric and system: a result file has each once."""
        return (self.workload, self.metric, self.system)

    @property
    def ours(self) -> bool:
        """Whether the system is Cutset; anything else is an opponent."""
        return self.system.startswith("cutset")


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """Where it was measured. `cores` are those the process could use, `threads` those it computed with."""

    cpu: str
    cores: int
    threads: int
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Results:
    """What one command measured; `command` is the line that measures it again."""

    command: str
    machine: MachineInfo
    rows: tuple[Row, ...]


def summarise(workload: str, system: str, metric: str, samples: Sequence[float], unit: str) -> Row:
    """The row for repeated measurements of one figure: median and spread. Raises `ConfigError` without samples."""
    if not samples:
        raise ConfigError(f"{workload}, {system}: {metric} was measured not once; give at least one repetition")
    median = statistics.median(samples)
    spread = None
    if len(samples) > 1 and median:
        low, _, high = statistics.quantiles(samples, method="inclusive")
        spread = (high - low) / 2 / abs(median)
    return Row(workload, system, metric, median, unit, spread)


def machine(threads: int = 0, packages: Sequence[str] = ()) -> MachineInfo:
    """This machine. `threads` are those computed with, 0 for all usable cores; `packages` are named with their
    versions beside python, numpy and cutset, where they are installed. Nothing is imported to find out."""
    versions = {"python": platform.python_version()}
    for name in ("cutset", "numpy", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = usable_cores()
    return MachineInfo(_cpu_name(), cores, threads or cores, versions)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def save(results: Results, path: str | os.PathLike[str]) -> None:
    """Writes a result file, whole or not at all. Raises `ConfigError`, also for what `load` would refuse."""
    document = asdict(results)
    _results(document, os.fspath(path))
    write_json(path, document)


def load(path: str | os.PathLike[str]) -> Results:
    """Reads a result file. Raises `ConfigError` that says what is wrong with it."""
    text = read_bounded(Path(path), MAX_BYTES)
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{os.fspath(path)} is not valid JSON: {error}") from error
    return _results(document, os.fspath(path))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _results(document: Any, where: str) -> Results:
    _keys(document, ("command", "machine", "rows"), where, more=True)
    at = document["machine"]
    _keys(at, ("cpu", "cores", "threads", "versions"), f"{where}: machine")
    versions = at["versions"]
    if not isinstance(versions, dict):
        raise ConfigError(f"{where}: machine: versions must be an object")
    for name, version in versions.items():
        _text(name, f"{where}: machine: a name in versions")
        _text(version, f"{where}: machine: the version of {name!r}")
    for name in ("cores", "threads"):
        if type(at[name]) is not int or not 0 < at[name] < 1 << 20:
            raise ConfigError(f"{where}: machine: {name} must be a positive whole number")
    if not isinstance(document["rows"], list | tuple):
        raise ConfigError(f"{where}: rows must be a list")
    rows = tuple(_row(row, f"{where}: row {i}") for i, row in enumerate(document["rows"]))
    seen = set()
    for i, row in enumerate(rows):
        if row.key in seen:
            raise ConfigError(f"{where}: row {i}: {row.metric} of {row.system} on {row.workload} is there twice")
        seen.add(row.key)
    where_to = MachineInfo(_text(at["cpu"], f"{where}: machine: cpu"), at["cores"], at["threads"], dict(versions))
    if not isinstance(document["command"], str) or not document["command"]:
        raise ConfigError(f"{where}: command must be the command line that measured")
    return Results(document["command"], where_to, rows)


def _row(row: Any, where: str) -> Row:
    _keys(row, ("workload", "system", "metric", "value", "unit", "spread"), where)
    workload, system, metric, unit = (
        _text(row[name], f"{where}: {name}") for name in ("workload", "system", "metric", "unit")
    )
    spread = None if row["spread"] is None else _number(row["spread"], f"{where}: spread")
    if spread is not None and spread < 0:
        raise ConfigError(f"{where}: spread must not be negative")
    return Row(workload, system, metric, _number(row["value"], f"{where}: value"), unit, spread)


def _keys(value: Any, names: tuple[str, ...], where: str, more: bool = False) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object with {', '.join(names)}")
    for name in names:
        if name not in value:
            raise ConfigError(f"{where} has no {name!r}")
    for name in value:
        if name not in names and not more:
            raise ConfigError(f"{where} has the unknown key {name[:60]!r}; known: {', '.join(names)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise ConfigError(f"{where} must be a printable text of 1 to {MAX_TEXT} characters")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise ConfigError(f"{where} must be a finite number")
    return float(value)

"""Round trips and bandwidth between two processes over every link, by size."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cutset.bench.wires import ANSWER, ECHO, RING, SINK, STOP, ZEROMQ, Wire, address_of, open_client
from cutset.compare.results import Row, summarise
from cutset.link import segment
from cutset.link.keys import new_keys, save_keys
from cutset.link.launch import Child

__all__ = ["SIZES", "TARGETS", "named", "run_sizes"]

SIZES = (64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
SECONDS = 0.1  # of each measurement
BETWEEN = (5, 2000)  # repetitions in it
# size, ours, the other one, how many times shorter the round trip shall be
TARGETS = (
    (64, RING, ZEROMQ, 20.0),
    (64, "cutset shm", "cutset ipc", 5.0),
    (256 << 10, "cutset shm", "cutset ipc", 2.5),
)


def named(nbytes: int) -> str:
    """64 B, 256 KiB, 4 MiB."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size and nbytes % size == 0:
            return f"{nbytes // size} {unit}"
    return f"{nbytes} B"


def run_sizes(
    sizes: Sequence[int], systems: Sequence[str], rounds: int, tell: Callable[[str], None]
) -> tuple[list[Row], dict[str, int]]:
    """Rows of all sizes, and how many round trips were timed for each. All systems take turns in every round."""
    rows: list[Row] = []
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=segment.directory()) as name, contextlib.ExitStack() as stack:
        wires = {system: stack.enter_context(_pair(system, Path(name))) for system in systems}
        for size in sizes:
            tell(f"{named(size)} …")
            fitting = {system: wire for system, wire in wires.items() if size <= wire.largest}
            trips: dict[str, list[float]] = {system: [] for system in fitting}
            rates: dict[str, list[float]] = {system: [] for system in fitting}
            medians: dict[str, list[float]] = {system: [] for system in fitting}
            for number in range(rounds + 1):
                for system, wire in fitting.items():
                    found, rate = _trips(wire, size), _stream(wire, size)
                    if number:  # the first one is for warming up
                        trips[system] += found
                        medians[system].append(statistics.median(found))
                        rates[system].append(rate)
            for system in fitting:
                rows += _rows(size, system, trips[system], medians[system], rates[system])
                counts[f"{system}, {named(size)}"] = len(trips[system])
    return rows, counts


def _rows(size: int, system: str, trips: list[float], medians: list[float], rates: list[float]) -> list[Row]:
    workload, trips = f"link {named(size)}", sorted(trips)
    spread = summarise(workload, system, "round trip", medians, "µs").spread
    return [
        Row(workload, system, "round trip", statistics.median(trips) * 1e6, "µs", spread),
        Row(workload, system, "round trip p99", trips[min(len(trips) - 1, len(trips) * 99 // 100)] * 1e6, "µs"),
        summarise(workload, system, "one way", rates, "GB/s"),
    ]


def _trips(wire: Wire, size: int) -> list[float]:
    """Seconds of single round trips."""
    message, found = wire.message(ECHO, size), list[float]()
    low, high = BETWEEN
    end = time.perf_counter() + SECONDS
    while len(found) < low or (len(found) < high and time.perf_counter() < end):
        start = time.perf_counter()
        wire.send(message)
        wire.recv()
        found.append(time.perf_counter() - start)
    return found


def _stream(wire: Wire, size: int) -> float:
    """GB/s one way: many messages, and an answer when the last one has come."""
    message, question, count = wire.message(SINK, size), wire.message(ANSWER, 1), 0
    start = time.perf_counter()
    while count < BETWEEN[0] or (count < BETWEEN[1] and time.perf_counter() - start < SECONDS):
        wire.send(message)
        count += 1
    wire.send(question)
    wire.recv()
    return count * size / (time.perf_counter() - start) / 1e9


@contextlib.contextmanager
def _pair(system: str, folder: Path) -> Iterator[Wire]:
    """A client's wire whose other end is a process of its own."""
    if system == "cutset tcp":
        for side in ("server", "client"):
            save_keys(new_keys(), side, folder)
    command = ["cutset.bench.wires", system, address_of(system, folder), str(folder)]
    child = Child(f"the other side of {system}", command, stdout=subprocess.PIPE, stderr=None)
    try:
        address = child.until(r"\S+")[0]
        wire = open_client(system, address, folder)
        yield wire
        wire.send(wire.message(STOP, 1))
        child.process.wait(10)
        wire.close()
    finally:
        child.end()

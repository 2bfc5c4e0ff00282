"""Round trips and bandwidth between two processes over every link, by size."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cutset.bench.turns import Turn, medians, take_turns
from cutset.bench.wires import ANSWER, ECHO, SINK, BenchWire, Opener
from cutset.compare.results import Row
from cutset.link import segment

__all__ = ["SIZES", "named", "run_sizes"]

SIZES = (64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
SECONDS = 0.1  # of each measurement
BETWEEN = (5, 2000)  # repetitions in it


def named(nbytes: int) -> str:
    """64 B, 256 KiB, 4 MiB."""
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size and nbytes % size == 0:
            return f"{nbytes // size} {unit}"
    return f"{nbytes} B"


def run_sizes(
    sizes: Sequence[int], systems: Mapping[str, Opener], rounds: int, tell: Callable[[str], None]
) -> tuple[list[Row], dict[str, int]]:
    """Rows of all sizes, and how many round trips were timed for each. All systems take turns in every round."""
    rows: list[Row] = []
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=segment.directory()) as name, contextlib.ExitStack() as stack:
        wires = {system: stack.enter_context(opener(Path(name))) for system, opener in systems.items()}
        for size in sizes:
            tell(f"{named(size)} …")
            trips: dict[str, list[float]] = {system: [] for system, wire in wires.items() if size <= wire.largest}
            turns = [_turn(system, wires[system], size, found) for system, found in trips.items()]
            for row in medians(take_turns(named(size), turns, rounds)):
                found = sorted(trips[row.system])
                if row.metric == "round trip":  # the median of all, with the spread of the rounds
                    late = found[min(len(found) - 1, len(found) * 99 // 100)]
                    rows.append(replace(row, value=statistics.median(found) * 1e6))
                    rows.append(Row(row.workload, row.system, "round trip p99", late * 1e6, "µs"))
                    counts[f"{row.system}, {named(size)}"] = len(found)
                else:
                    rows.append(row)
    return rows, counts


def _turn(system: str, wire: BenchWire, size: int, trips: list[float]) -> Turn:
    """One measurement of a wire; single round trips are added to `trips` in the rounds that count."""

    def turn(number: int) -> Iterator[Row]:
        found, rate = _trips(wire, size), _stream(wire, size)
        if number:
            trips.extend(found)
        yield Row(f"link {named(size)}", system, "round trip", statistics.median(found) * 1e6, "µs")
        yield Row(f"link {named(size)}", system, "one way", rate, "GB/s")

    return turn


def _trips(wire: BenchWire, size: int) -> list[float]:
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


def _stream(wire: BenchWire, size: int) -> float:
    """GB/s one way: many messages, and an answer when the last one has come."""
    message, question, count = wire.message(SINK, size), wire.message(ANSWER, 1), 0
    start = time.perf_counter()
    while count < BETWEEN[0] or (count < BETWEEN[1] and time.perf_counter() - start < SECONDS):
        wire.send(message)
        count += 1
    wire.send(question)
    wire.recv()
    return count * size / (time.perf_counter() - start) / 1e9

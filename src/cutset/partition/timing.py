"""Seconds of every layer on this machine, measured by whoever can run them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["PAUSE", "LayerTimes", "Run", "in_turns", "measure_layers", "quickest"]

ROUNDS = 7
BUDGET = 20.0  # seconds; a network that takes longer is measured at least twice
WARM = 1
PAUSE = 0.05  # seconds before each run: a stage waits between items, and works slower for a while then
FEW_TURNS, MOST_TURNS = 3, 15  # of each of several runs: of all, and of those that are close
FAR, CLOSE = 4.0, 1.2  # times the quickest: what is slower has no further turn; what is quicker isn't decided yet
TURNS_BUDGET = 6.0  # seconds, after which those that are close are as good as each other

Run = Callable[[Callable[[float], None] | None], object]  # all layers once; the callback gets each one's seconds


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Medians, in seconds. The layers are scaled so that their sum is the whole network's time without observing."""

    seconds: tuple[float, ...]  # of each node
    spread: tuple[float, ...]  # half the range between the quartiles, as a share of each median
    whole: float  # of a run of all nodes that nobody observes
    overhead: float  # of observing, as a share of `whole`; the sum before scaling less `whole`
    rounds: int


def measure_layers(
    run: Run,
    *,
    rounds: int = ROUNDS,
    budget: float = BUDGET,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> LayerTimes:
    """Runs the network, observed and not in turn, with pauses as between items that come from a live source."""
    for _ in range(WARM):
        run(None)
    alone: list[float] = []
    observed: list[list[float]] = []
    start = time.perf_counter()
    for done in range(rounds):
        alone.append(_timed(run))
        times: list[float] = []
        time.sleep(PAUSE)
        run(times.append)
        observed.append(times)
        progress("layers", done + 1, rounds)
        if done >= 1 and time.perf_counter() - start > budget:
            break
    progress("layers", rounds, rounds)
    medians = [statistics.median(of) for of in zip(*observed, strict=True)]
    whole, total = statistics.median(alone), sum(medians)
    factor = whole / total if total > 0 else 1.0
    return LayerTimes(
        tuple(seconds * factor for seconds in medians),
        tuple(_spread(of) for of in zip(*observed, strict=True)),
        whole,
        total / whole - 1 if whole > 0 else 0.0,
        len(alone),
    )


def in_turns(runs: Mapping[str, Run], timed: Callable[[Run], float] | None = None) -> dict[str, float]:
    """Seconds of the quickest turn of each, which come round after round: what disturbs the machine for a while falls
    on all of them. All warm up alike; those that are close to the quickest go on until one is clearly quicker.

    `timed` gives the seconds of a run.
    """
    timed = timed or _timed
    least = dict.fromkeys(runs, math.inf)
    for run in runs.values():
        run(None)
    start = time.perf_counter()
    for turn in range(MOST_TURNS):
        most = min(least.values(), default=0.0) * (FAR if turn < FEW_TURNS else CLOSE)
        going = [name for name, seconds in least.items() if seconds <= most]
        if turn >= FEW_TURNS and (len(going) < 2 or time.perf_counter() - start > TURNS_BUDGET):
            break
        for name in going:
            least[name] = min(least[name], timed(runs[name]))
    return least


def quickest(run: Run, runs: int = 2) -> float:
    """Seconds of the quickest of a few runs of the whole network, as `measure_layers` makes them."""
    return min(_timed(run) for _ in range(runs))


def _timed(run: Run) -> float:
    """Seconds of a run after a pause."""
    time.sleep(PAUSE)
    begin = time.perf_counter()
    run(None)
    return time.perf_counter() - begin


def _spread(times: tuple[float, ...]) -> float:
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle > 0 else 0.0

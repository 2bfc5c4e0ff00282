"""What a run has seen of its machines and values, beside what was known at its start."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from cutset.partition.plan import COORDINATOR
from cutset.partition.problem import Machine, Problem
from cutset.partition.traffic import Coded, Traffic

__all__ = ["Observed", "Running", "Stale"]

WINDOW = 9  # observations; their median ignores a few that went wrong, and follows a change after half of them
LEAST_SECONDS = 1e-4  # what is over sooner says more of the clock than of the machine
FIRST_LOOKS = 30  # without use, before what was seen is forgotten; each next time takes twice as many
MOST_LOOKS = 1 << 20

KINDS = ("key", "delta")  # of payloads; what is sent otherwise says nothing of values


class Running:
    """The median of the last observations."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)

    def observe(self, value: float) -> None:
        """Takes one observation; what is no number from 0 up is left out."""
        if math.isfinite(value) and value >= 0:
            self._last.append(value)

    @property
    def value(self) -> float | None:
        """None before the first observation."""
        return statistics.median(self._last) if self._last else None


class Observed:
    """Running medians, by worker and by value."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._expected = {machine.name: machine for machine in problem.machines}
        self._pace = {machine.name: Running() for machine in problem.machines}
        self._codec = {name: Running() for name in (*self._pace, COORDINATOR)}
        self._nodes: dict[str, dict[int, Running]] = {machine.name: {} for machine in problem.machines}
        self._sizes: dict[tuple[str, str, bool], Running] = {}
        self._changed = Running()  # what changed took on any machine, times what was expected: the scene moves more
        self.holds: dict[str, frozenset[str]] = {}
        self.memory: dict[str, int] = {}  # that workers say they may use, 0 for no limit

    def layers(self, worker: str, nodes: Sequence[int], seconds: Sequence[float]) -> None:
        """A worker took so long for each of these nodes, for one item."""
        if worker in self._nodes and len(nodes) == len(seconds):
            for node, took in zip(nodes, seconds, strict=True):
                self._nodes[worker].setdefault(node, Running()).observe(took)
            self.stage(worker, nodes, sum(seconds))

    def stage(self, worker: str, nodes: Sequence[int], seconds: float) -> None:
        """A worker took so long for all of these nodes, for one item: it may be faster or slower than thought."""
        machine = self._expected.get(worker)
        if machine is not None and seconds >= LEAST_SECONDS:
            expected = float(machine.seconds[list(nodes)].sum())
            if expected > 0:
                self._pace[worker].observe(seconds / expected)

    def partial(self, worker: str, nodes: Sequence[int], passed: float, seconds: float, *, dense: bool) -> None:
        """A worker took so long for a stage that computes what changed alone, and takes and gives so many elements.

        `dense`: it computed all of the item, since that was quicker.
        """
        machine = self._expected.get(worker)
        if machine is None or machine.changed is None or seconds < LEAST_SECONDS:
            return
        if dense:
            self.stage(worker, nodes, seconds)
        pace = self._pace[worker].value or 1.0
        expected = pace * (float(machine.changed.seconds[list(nodes)].sum()) + machine.changed.passing * passed)
        if expected > 0:
            self._changed.observe(seconds / expected)

    def forget_changed(self) -> None:
        """Takes what changes for as little as at the start, if it seems more."""
        if (self._changed.value or 0.0) > 1.0:
            self._changed = Running()

    def forget(self, worker: str) -> None:
        """Takes a worker for as quick as at the start, if it seems slower."""
        if worker in self._pace and (self._pace[worker].value or 0.0) > 1.0:
            self._pace[worker], self._nodes[worker] = Running(), {}

    def payload(self, value: str, kind: str, nbytes: int, *, partial: bool = False) -> None:
        """A value was sent with so many bytes; `partial`: by a stage that computed what changed alone."""
        if value in self._problem.traffic and kind in KINDS:
            self._sizes.setdefault((value, kind, partial), Running()).observe(nbytes)

    def codec(self, worker: str, value: str, kind: str, which: Literal["encode", "decode"], seconds: float) -> None:
        """A party, as plans name it, took so long to encode or decode a value."""
        traffic = self._problem.traffic.get(value)
        if traffic is None or kind not in KINDS or worker not in self._codec or seconds < LEAST_SECONDS:
            return
        ways = (traffic.delta if kind == "delta" else ()) or traffic.key
        expected = getattr(ways[0], which)
        if expected > 0:
            self._codec[worker].observe(seconds / expected)

    def machines(self) -> tuple[Machine, ...]:
        """The machines as they were seen to be; a layer that wasn't timed there goes with the others."""
        found = []
        for machine in self._problem.machines:
            pace = self._pace[machine.name].value
            seconds = machine.seconds * (1.0 if pace is None else pace)
            timed = {node: running.value for node, running in self._nodes[machine.name].items()}
            if timed:
                seconds = np.array(seconds)
                for node, value in timed.items():
                    if value is not None:
                        seconds[node] = value
            changed, scene = machine.changed, self._changed.value
            if changed is not None:
                changed = changed.times((1.0 if pace is None else pace) * (1.0 if scene is None else scene))
            codec = self._codec[machine.name].value
            limits = [limit for limit in (machine.memory, self.memory.get(machine.name)) if limit]
            found.append(
                replace(
                    machine,
                    seconds=seconds,
                    codec=machine.codec if codec is None else codec,
                    memory=min(limits, default=None),
                    holds=self.holds.get(machine.name, machine.holds),
                    changed=changed,
                )
            )
        return tuple(found)

    def traffic(self, base: Mapping[str, Traffic] | None = None) -> dict[str, Traffic]:
        """Sizes as they were seen. Deltas of values that weren't: as in `base`, which is foreseen for the items that
        come now; without it, as at the start, moved as those that were seen did."""
        return self._seen(self._problem.traffic if base is None else base, foreseen=base is not None, partial=False)

    def partial_traffic(self) -> dict[str, Traffic]:
        """The same of values of stages that compute what changed alone."""
        return self._seen(self._problem.partial, foreseen=False, partial=True)

    def _seen(self, base: Mapping[str, Traffic], *, foreseen: bool, partial: bool) -> dict[str, Traffic]:
        known = {value: traffic for value, traffic in base.items() if traffic.delta and not foreseen}
        ratios = []
        for value, traffic in known.items():
            seen = self._size(value, "delta", partial)
            if seen is not None:
                ratios.append(seen / _nearest(traffic.delta, seen))
        shift = statistics.median(ratios) if ratios else 1.0
        found = {}
        for value, traffic in base.items():
            most = max(way.nbytes for way in traffic.key)
            key, delta = self._size(value, "key", partial), self._size(value, "delta", partial)
            deltas = _moved(traffic.delta, shift, most) if delta is None else _matching(traffic.delta, delta)
            keys = traffic.key if key is None else _matching(traffic.key, key)
            found[value] = replace(traffic, key=keys, delta=deltas)
        return found

    def _size(self, value: str, kind: str, partial: bool) -> float | None:
        running = self._sizes.get((value, kind, partial))
        return None if running is None else running.value


def _moved(ways: tuple[Coded, ...], factor: float, most: float) -> tuple[Coded, ...]:
    """With sizes that many times as large, but no larger than a key."""
    return tuple(way._replace(nbytes=min(way.nbytes * factor, max(most, way.nbytes))) for way in ways)


def _matching(ways: tuple[Coded, ...], seen: float) -> tuple[Coded, ...]:
    """With sizes moved so that the way that comes nearest to what was seen has that size."""
    if not ways:
        return ()
    factor = seen / _nearest(ways, seen)
    return tuple(way._replace(nbytes=way.nbytes * factor) for way in ways)


def _nearest(ways: tuple[Coded, ...], seen: float) -> float:
    return min((max(way.nbytes, 1.0) for way in ways), key=lambda size: abs(math.log(size / max(seen, 1.0))))


class Stale:
    """Counts looks. What is tried in vain is forgotten ever more seldom, so that plans don't go back and forth."""

    def __init__(self, first: int = FIRST_LOOKS) -> None:
        self._first = first
        self._idle: dict[Hashable, int] = {}
        self._wait: dict[Hashable, int] = {}

    def look(self, things: Iterable[Hashable], used: Collection[Hashable]) -> list[Hashable]:
        """Those of `things` that weren't used for so many looks that what was seen of them should be forgotten now."""
        found = []
        for thing in things:
            idle = self._idle[thing] = 0 if thing in used else self._idle.get(thing, 0) + 1
            wait = self._wait.get(thing, self._first)
            if idle >= wait:
                self._idle[thing], self._wait[thing] = 0, min(2 * wait, MOST_LOOKS)
                found.append(thing)
        return found

"""The least latency of any plan whose parts all stay under a limit: dynamic programming over cuts and workers.

A plan is a path: at a cut from one worker to a later one, then at that worker from this cut to a later one, and so on.
Workers are taken in the order of the line. For each, `arrive` is the least time after which the values of a cut are
there, and `leave` the least after which the nodes before a cut are done, the last of them there. A machine that may
compute what changed alone counts as two workers side by side, between which nothing goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cutset.partition.cost import CostModel, work_of
from cutset.partition.lattice import Lattice
from cutset.partition.memory import held_bytes, pair_bytes
from cutset.partition.plan import Plan, StagePlan

__all__ = ["Found", "Search", "StepSearch"]

Floats = NDArray[np.float64]
SLACK = 1 + 1e-12  # of a limit: sums in another order differ by that


@dataclass(frozen=True, slots=True)
class Found:
    """A plan, and its latency."""

    latency: float
    plan: Plan


class Search:
    """All plans over some cuts of a problem."""

    def __init__(self, model: CostModel, sets: Lattice) -> None:
        problem, crossings = model.problem, model.crossings
        self.problem, self.sets = problem, sets
        self._workers = np.array([worker for worker, _ in problem.variants])  # the machine of each column
        works = [work_of(problem, variant) for variant in range(len(problem.variants))]
        # One column for each variant of a worker: seconds of all nodes in a set, and of the values that cross there.
        self._work = sets.done @ np.stack([seconds for seconds, _ in works]).T
        passing = np.array([each for _, each in works])
        self._ends = np.zeros((len(sets.values), len(works)))
        if passing.any():
            crossing = [sum(problem.elements[name] for name in names) for names in sets.values]
            self._ends += np.array(crossing, float)[:, None] * passing
        self._overhead = np.array([problem.machines[worker].overhead for worker in self._workers])
        cuts, self._kind = crossings.cuts(sets.values)
        self._hop = cuts.seconds + crossings.latency  # (kinds of cuts, senders, receivers)
        self._hop[:, 1:, 1:] += np.where(self._workers[:, None] == self._workers[None, :], math.inf, 0.0)
        self._worst = np.maximum(np.maximum(cuts.encode, cuts.wire), cuts.decode)
        inputs = crossings.inputs
        self._start = (inputs.seconds + crossings.latency)[:, 0, 1:]
        self._start_worst = np.maximum(np.maximum(inputs.encode, inputs.wire), inputs.decode)[:, 0, 1:]
        shut = problem.private | problem.uncut  # where no worker goes on from another one
        self._shut = np.array([bool(shut.intersection(values)) for values in sets.values])
        if problem.private.intersection(sets.values[0]):
            self._start[:, self._workers > 0] = math.inf
        self._needs: Floats | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Which pairs of cuts have a stage between them, and what it needs."""
        self._legal = self.sets.after()
        if any(machine.memory is not None for machine in self.problem.machines):
            self._needs = pair_bytes(self.problem, self.sets)
            self._held = held_bytes(self.problem.graph, self.sets)

    def run(self, limit: float = math.inf) -> Found | None:
        """The plan of least latency in which no part takes more than `limit` seconds; None if there is none."""
        limit *= SLACK
        sets, workers = self._work.shape
        leave = np.full((sets, workers), math.inf)
        stage_from = np.zeros((sets, workers), np.int64)  # the cut at which the last stage began
        came_from = np.full((sets, workers), -1, np.int64)  # the worker before; -1 at the first cut
        start = np.where(self._start_worst <= limit, self._start, math.inf)
        way = np.argmin(start, axis=0)
        for w in range(workers):
            arrive = np.full(sets, math.inf)
            if w:
                hop = np.where(self._worst[:, 1 : w + 1, w + 1] <= limit, self._hop[:, 1 : w + 1, w + 1], math.inf)
                before = leave[:, :w] + hop[self._kind]
                before[self._shut] = math.inf
                came_from[:, w] = np.argmin(before, axis=1)
                arrive = np.min(before, axis=1)
            arrive[0], came_from[0, w] = start[way[w], w], -1
            leave[:, w], stage_from[:, w] = self._stage(w, arrive, limit)
        end = self._kind[-1]
        back = np.where(self._worst[end, 1:, 0] <= limit, self._hop[end, 1:, 0], math.inf)
        last = int(np.argmin(leave[-1] + back))
        latency = float(leave[-1, last] + back[last])
        if math.isinf(latency):
            return None
        stages: list[StagePlan] = []
        at, worker = sets - 1, last
        while worker >= 0:
            begin = int(stage_from[at, worker])
            nodes = np.flatnonzero(self.sets.done[at] & ~self.sets.done[begin])
            stages.append(self.problem.stage(worker, tuple(int(i) for i in nodes)))
            first, at, worker = worker, begin, int(came_from[begin, worker])
        chosen = list(self.problem.inputs)[way[first]]
        return Found(latency, Plan(self.problem.digest, tuple(reversed(stages)), chosen))

    def _stage(self, w: int, arrive: Floats, limit: float) -> tuple[Floats, NDArray[np.int64]]:
        """When worker `w` has done each set if it began at the best one, and which that is."""
        work, overhead = self._work[:, w], self._overhead[w]
        begins = np.flatnonzero(np.isfinite(arrive))
        if not begins.size:
            return np.full(len(work), math.inf), np.zeros(len(work), np.int64)
        ends = self._ends[:, w]
        takes = work[None, :] - work[begins, None] + overhead + ends[begins, None] + ends[None, :]
        good = self._legal[begins] & (takes <= limit)
        worker, partial = self.problem.variants[w]
        memory = self.problem.machines[worker].memory
        if self._needs is not None and memory is not None:
            held = self._held[begins] if partial else 0.0
            good &= self._needs[begins] + held <= memory
        done = np.where(good, arrive[begins, None] + takes, math.inf)
        best = np.argmin(done, axis=0)
        return done[best, np.arange(len(work))], begins[best]


class StepSearch(Search):
    """The same where nothing is limited, for many more cuts: stages grow by one node at a time.

    Without limits a stage's seconds are a sum over its nodes, so the best place to begin is the best one of any set
    that lacks one node, or that set itself: no pairs of cuts are looked at.
    """

    def _prepare(self) -> None:
        size = self.sets.done.sum(1)
        before, after = self.sets.steps()
        order = np.lexsort((after, size[after]))
        self._before, after = before[order], after[order]
        # For each number of nodes: its steps, the sets that they lead to, and where each set's steps begin.
        self._levels = []
        for first, last in pairwise([*np.flatnonzero(np.diff(size[after], prepend=-1)).tolist(), len(after)]):
            reached, starts = np.unique(after[first:last], return_index=True)
            self._levels.append((first, last, reached, starts))

    def _stage(self, w: int, arrive: Floats, limit: float) -> tuple[Floats, NDArray[np.int64]]:
        if not math.isinf(limit):
            raise ValueError("a search without pairs knows no limits")
        work, ends = self._work[:, w], self._ends[:, w]
        begin = np.arange(len(work))  # the best place to begin, of the set itself and all that it has
        least = arrive - work + ends
        inner = np.full(len(work), math.inf)  # the same without the set itself: a stage has at least one node
        inner_begin = np.zeros(len(work), np.int64)
        for first, last, reached, starts in self._levels:
            given = least[self._before[first:last]]
            lowest = np.minimum.reduceat(given, starts)
            counts = np.diff([*starts, last - first])
            is_lowest = given == np.repeat(lowest, counts)
            at = np.minimum.reduceat(np.where(is_lowest, np.arange(last - first), last), starts)
            inner[reached], inner_begin[reached] = lowest, begin[self._before[first:last][at]]
            better = lowest < least[reached]
            least[reached[better]], begin[reached[better]] = lowest[better], inner_begin[reached[better]]
        return inner + work + ends + self._overhead[w], inner_begin

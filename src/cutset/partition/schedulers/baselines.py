"""Simple schedulers, to compare `optimal` with: all on one machine, load balance, and a search from there.

They decide by what layers take when all of an item is computed; what their stages do where only what changed may be is
decided in the end, stage by stage.
"""

from __future__ import annotations

import numpy as np

from cutset.partition.cost import CostModel, choose, rank, why_not
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.plan_scheduler import allowed, cut_at, none_fits, plain_input, settled, single

__all__ = ["Balance", "BestSide", "Neighbourhood", "Side", "balanced_cuts"]

ROUNDS = 100


class Side:
    """All on the first worker (`edge`) or the last one (`cloud`), with the input as ordinary payloads."""

    def __init__(self, name: str, worker: int) -> None:
        self.name, self._worker = name, worker

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError where that worker hasn't the memory, or private values may not go there."""
        worker = range(len(problem.machines))[self._worker]
        plan = single(problem, worker, plain_input(problem), self.name)
        return allowed(problem, settled(problem, plan, model))


class BestSide:
    """All on the one worker, and with the one encoding of the input, that is best."""

    name = "forward"

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError where no worker can do all of it."""
        model = model or CostModel(problem)
        plans = [
            single(problem, worker, given, self.name, partial=partial)
            for worker, partial in problem.variants
            for given in problem.inputs
        ]
        legal = [plan for plan in plans if why_not(problem, plan) is None]
        if not legal:
            raise none_fits(problem)
        return legal[choose(problem, [model.cost(plan) for plan in legal])]


class Balance:
    """Load balance: each worker's share of the work is as large as its share of the speed, whatever is sent.

    As older systems have it: the layers' times on the first worker are the work, one number a worker is the speed, and
    each ideal boundary is moved to the nearest cut of the order.
    """

    name = "balance"

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError where the balanced plan isn't allowed: it looks at no limit."""
        return allowed(problem, settled(problem, cut_at(problem, balanced_cuts(problem), self.name), model))


def balanced_cuts(problem: Problem) -> list[int]:
    """Where the order is cut: a rising list from 0 to the number of nodes, one longer than the workers."""
    seconds = [machine.seconds for machine in problem.machines]
    done = np.concatenate([[0.0], np.cumsum(seconds[0])])
    totals = np.array([times.sum() for times in seconds])
    speeds = 1 / np.maximum(totals, 1e-12)
    ideal = done[-1] * np.cumsum(speeds) / speeds.sum()
    cuts = [int(np.argmin(np.abs(done - boundary))) for boundary in ideal[:-1]]
    return [0, *np.maximum.accumulate([*cuts, len(done) - 1]).tolist()]


class Neighbourhood:
    """Neighbourhood search: from the balanced plan, move the boundary whose link costs most, as long as that helps.

    The layers of the two workers on a link's ends are divided anew in every way, and the best division is kept. When
    the most expensive link can't be made better the next one is tried; the search ends when none can.
    """

    name = "neighbourhood"

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError where it finds no plan that is allowed."""
        model = model or CostModel(problem)
        cuts = balanced_cuts(problem)
        best = self._rank(problem, model, cuts)
        for _ in range(ROUNDS):
            for boundary in self._boundaries(model, cuts):
                tries = [
                    [*cuts[:boundary], at, *cuts[boundary + 1 :]]
                    for at in range(cuts[boundary - 1], cuts[boundary + 1] + 1)
                ]
                ranks = [self._rank(problem, model, each) for each in tries]
                found = min(range(len(tries)), key=ranks.__getitem__)
                if ranks[found] < best:
                    best, cuts = ranks[found], tries[found]
                    break
            else:
                break
        return allowed(problem, settled(problem, self._plan(problem, cuts), model))

    def _plan(self, problem: Problem, cuts: list[int]) -> Plan:
        return cut_at(problem, cuts, self.name)

    def _rank(self, problem: Problem, model: CostModel, cuts: list[int]) -> tuple[bool, float, float]:
        plan = self._plan(problem, cuts)
        return (why_not(problem, plan) is not None, *rank(problem, model.cost(plan)))

    def _boundaries(self, model: CostModel, cuts: list[int]) -> list[int]:
        """The inner boundaries, those with the most seconds on the link to the next worker first."""
        names = [machine.name for machine in model.problem.machines]
        seconds = dict.fromkeys(names, 0.0)
        for part in model.cost(self._plan(model.problem, cuts)).parts:
            if part.kind == "link" and part.to in seconds:
                seconds[part.to] += part.seconds + part.latency
        return sorted(range(1, len(cuts) - 1), key=lambda i: -seconds[names[i]])

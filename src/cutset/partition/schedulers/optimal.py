"""The best plan under the cost model, among all plans whose stages lie between cuts of the graph.

Latency is one search (see `search`). The time between items is the larger of the slowest part and the latency over
the items in flight: a plan that stays under p in both exists if the least latency with all parts under p is at most
p times their number. Halving the range of p, then going down until nothing better is found, gives the least p exactly.
"""

from __future__ import annotations

import math

import numpy as np

from cutset.partition.cost import CostModel
from cutset.partition.lattice import Lattice, lattice
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.plan_scheduler import none_fits, signed
from cutset.partition.search import Found, Search, StepSearch

__all__ = ["Optimal"]

MOST_SETS = 1200  # closed sets of which all pairs are looked at; a chain has one more than nodes
MOST_STAGES = 6_000_000  # pairs of sets, for each worker
MOST_WITH_MEMORY = 150  # where memory is limited, and every pair of sets must be measured
CLOSE = 0.02  # the range of p at which halving ends
STEP = 1 - 1e-10


class Optimal:
    """The best plan: see this module's docstring."""

    name = "optimal"

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError where no plan is allowed."""
        model = model or CostModel(problem)
        limited = any(machine.memory is not None for machine in problem.machines)
        if problem.objective == "latency" and not limited and len((sets := lattice(problem.graph)).values) > MOST_SETS:
            alone = StepSearch(model, sets).run()
            if alone is not None and _keeps_up(model, alone):
                return signed(alone.plan, self.name)
        search = Search(model, candidates(problem))
        quickest = search.run()
        if quickest is None:
            raise none_fits(problem)
        if problem.objective == "latency":
            if problem.rate is None:
                return signed(quickest.plan, self.name)
            keeps_up = search.run(1 / problem.rate)
            if keeps_up and keeps_up.latency * problem.rate <= (problem.in_flight or math.inf):
                return signed(keeps_up.plan, self.name)
        return signed(_throughput(model, search, quickest).plan, self.name)


def candidates(problem: Problem) -> Lattice:
    """The cuts to search: all, or where branches make too many, those of the order and the smallest of the others."""
    sets = lattice(problem.graph)
    limited = any(machine.memory is not None for machine in problem.machines)
    chain = len(problem.graph.nodes) + 1
    if len(sets.values) <= chain:
        return sets
    most = MOST_WITH_MEMORY if limited else min(MOST_SETS, math.isqrt(MOST_STAGES // len(problem.variants)))
    if len(sets.values) <= most:
        return sets
    size = sets.done.sum(1)
    order = np.flatnonzero((np.cumsum(sets.done, 1)[np.arange(len(size)), size - 1] == size) | (size == 0))
    if limited:
        return sets.only(order.tolist())
    others = np.setdiff1d(np.argsort(sets.nbytes, kind="stable"), order, assume_unique=True)
    return sets.only([*order.tolist(), *others[: max(most - len(order), 0)].tolist()])


def _keeps_up(model: CostModel, found: Found) -> bool:
    problem = model.problem
    if problem.rate is None:
        return True
    between = model.cost(found.plan).period
    return between * problem.rate <= 1 + 1e-9


def _throughput(model: CostModel, search: Search, quickest: Found) -> Found:
    share = 1 / model.problem.in_flight if model.problem.in_flight else 0.0

    def period(found: Found) -> float:
        return max(model.cost(found.plan).slowest.seconds, found.latency * share)

    best, high = quickest, period(quickest)
    low = quickest.latency * share
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        found = search.run(middle)
        if found is None or found.latency * share > middle:
            low = middle
        else:
            best, high = found, min(period(found), middle)
    while (found := search.run(high * STEP)) is not None and period(found) < high * STEP:
        best, high = found, period(found)
    # Among those that are as quick, the one of least latency.
    slack = model.problem.slack if model.problem.objective == "throughput" else 0.0
    return search.run(high * (1 + slack)) or best

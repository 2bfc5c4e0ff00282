"""Every plan, one by one: the twin that `optimal` is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

import numpy as np

from cutset.errors import ConfigError
from cutset.partition.cost import CostModel, choose, why_not
from cutset.partition.lattice import closed_sets
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.common import none_fits, signed

__all__ = ["Exhaustive", "every_plan"]

MOST_PLANS = 200_000


class Exhaustive:
    """The best of all plans, which are looked at one by one."""

    name = "exhaustive"

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Raises ConfigError for a problem with more than 200,000 plans."""
        model = model or CostModel(problem)
        plans = [plan for plan in every_plan(problem) if why_not(problem, plan) is None]
        if not plans:
            raise none_fits(problem)
        return signed(plans[choose(problem, [model.cost(plan) for plan in plans])], self.name)


def every_plan(problem: Problem) -> Iterator[Plan]:
    """All plans with stages between closed sets, workers in order, with every encoding of the input."""
    sets = closed_sets(problem.graph, 2000)
    workers = [machine.name for machine in problem.machines]
    if sets is None or _count(sets, len(workers)) * len(problem.inputs) > MOST_PLANS:
        raise ConfigError(
            f"exhaustive: {len(problem.graph.nodes)} layers on {len(workers)} workers have more than {MOST_PLANS:,} "
            "plans; take --scheduler optimal, which finds the best of them"
        )
    chains = [[0]]
    for _ in workers:
        chains = [[*chain, b] for chain in chains for b in sets if b & chain[-1] == chain[-1] and b != chain[-1]]
        for chain in chains:
            if chain[-1] == sets[-1]:
                parts = [tuple(_bits(b & ~a)) for a, b in pairwise(chain)]
                for chosen in combinations(workers, len(parts)):
                    stages = tuple(StagePlan(worker, nodes) for worker, nodes in zip(chosen, parts, strict=True))
                    for given in problem.inputs:
                        yield Plan(problem.digest, stages, given)


def _bits(number: int) -> Iterator[int]:
    return (i for i in range(number.bit_length()) if number >> i & 1)


def _count(sets: list[int], workers: int) -> float:
    """How many plans there are, with one encoding of the input."""
    after = np.array([[a & b == a and a != b for b in sets] for a in sets], float)
    ways, total = after[0], 0.0
    for stages in range(1, workers + 1):
        total += ways[-1] * comb(workers, stages)
        ways = ways @ after
    return total

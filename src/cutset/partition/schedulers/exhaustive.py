"""Every plan, one by one: the twin that `optimal` is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise, product

import numpy as np

from cutset.errors import ConfigError
from cutset.partition.cost import CostModel, choose, why_not
from cutset.partition.lattice import closed_sets
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.plan_scheduler import none_fits, signed

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
    """All plans with stages between closed sets, workers in order and every variant, every encoding of the input."""
    sets = closed_sets(problem.graph, 2000)
    workers: list[list[int]] = [[] for _ in problem.machines]  # the variants of each
    for variant, (worker, _) in enumerate(problem.variants):
        workers[worker].append(variant)
    if sets is None or _count(sets, [len(ways) for ways in workers]) * len(problem.inputs) > MOST_PLANS:
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
                    for ways in product(*chosen):
                        stages = tuple(problem.stage(way, nodes) for way, nodes in zip(ways, parts, strict=True))
                        for given in problem.inputs:
                            yield Plan(problem.digest, stages, given)


def _bits(number: int) -> Iterator[int]:
    return (i for i in range(number.bit_length()) if number >> i & 1)


def _count(sets: list[int], variants: list[int]) -> float:
    """How many plans there are for workers with so many variants each, with one encoding of the input."""
    after = np.array([[a & b == a and a != b for b in sets] for a in sets], float)
    # chosen[k]: the ways to choose k workers, each in one variant.
    chosen = [1.0, *[0.0] * len(variants)]
    for count in variants:
        chosen = [chosen[0], *(more + count * less for less, more in pairwise(chosen))]
    ways, total = after[0], 0.0
    for choices in chosen[1:]:
        total += ways[-1] * choices
        ways = ways @ after
    return total

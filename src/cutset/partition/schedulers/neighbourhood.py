"""Neighbourhood search: from the balanced plan, move the boundary whose link costs most, as long as that helps.

The layers of the two workers on a link's ends are divided anew in every way, and the best division is kept. When the
most expensive link can't be made better the next one is tried; the search ends when none can.
"""

from __future__ import annotations

from cutset.partition.cost import Model, rank, why_not
from cutset.partition.plan import PictureForm, Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.balance import balanced_cuts
from cutset.partition.schedulers.interface import allowed, cut_at

__all__ = ["Neighbourhood"]

ROUNDS = 100


class Neighbourhood:
    name = "neighbourhood"

    def plan(self, problem: Problem, model: Model | None = None) -> Plan:
        """Raises ConfigError where it finds no plan that is allowed."""
        model = model or Model(problem)
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
        return allowed(problem, self._plan(problem, cuts))

    def _plan(self, problem: Problem, cuts: list[int]) -> Plan:
        picture: PictureForm = "uint8" if "uint8" in problem.pictures else next(iter(problem.pictures))
        return cut_at(problem, cuts, picture, self.name)

    def _rank(self, problem: Problem, model: Model, cuts: list[int]) -> tuple[bool, float, float]:
        plan = self._plan(problem, cuts)
        return (why_not(problem, plan) is not None, *rank(problem, model.cost(plan)))

    def _boundaries(self, model: Model, cuts: list[int]) -> list[int]:
        """The inner boundaries, those with the most seconds on the link to the next worker first."""
        names = [machine.name for machine in model.problem.machines]
        seconds = dict.fromkeys(names, 0.0)
        for part in model.cost(self._plan(model.problem, cuts)).parts:
            if part.kind == "link" and part.to in seconds:
                seconds[part.to] += part.seconds + part.latency
        return sorted(range(1, len(cuts) - 1), key=lambda i: -seconds[names[i]])

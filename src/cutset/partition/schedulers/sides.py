"""All layers on one machine: the first, the last, or whichever is best, with the pictures sent there."""

from __future__ import annotations

from cutset.partition.cost import Model, choose, why_not
from cutset.partition.plan import PictureForm, Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers.interface import allowed, none_fits, single

__all__ = ["Forward", "Side"]


class Side:
    """All on the first worker (`edge`) or the last one (`cloud`), the pictures as they come from the camera."""

    def __init__(self, name: str, worker: int) -> None:
        self.name, self._worker = name, worker

    def plan(self, problem: Problem, model: Model | None = None) -> Plan:
        """Raises ConfigError where that worker hasn't the memory, or the picture may not go there."""
        picture: PictureForm = "uint8" if "uint8" in problem.pictures else next(iter(problem.pictures))
        return allowed(problem, single(problem, range(len(problem.machines))[self._worker], picture, self.name))


class Forward:
    """All on the one worker, and in the one form of the pictures, that is best."""

    name = "forward"

    def plan(self, problem: Problem, model: Model | None = None) -> Plan:
        """Raises ConfigError where no worker can do all of it."""
        model = model or Model(problem)
        plans = [
            single(problem, worker, picture, self.name)
            for worker in range(len(problem.machines))
            for picture in problem.pictures
        ]
        legal = [plan for plan in plans if why_not(problem, plan) is None]
        if not legal:
            raise none_fits(problem)
        return legal[choose(problem, [model.cost(plan) for plan in legal])]

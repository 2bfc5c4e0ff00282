"""What every scheduler does, and what they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from cutset.errors import ConfigError
from cutset.partition.cost import CostModel, why_not
from cutset.partition.plan import Plan, StagePlan
from cutset.partition.problem import Problem

__all__ = ["PlanScheduler", "allowed", "cut_at", "none_fits", "plain_input", "signed", "single"]


class PlanScheduler(Protocol):
    """Makes plans. Deterministic: the same problem gives the same plan."""

    name: str

    def plan(self, problem: Problem, model: CostModel | None = None) -> Plan:
        """Its plan for a problem; `model` is the problem's, where the caller has it already.

        Raises ConfigError where it has no plan that is allowed.
        """


def signed(plan: Plan, name: str) -> Plan:
    """The plan with its maker's name."""
    return replace(plan, scheduler=name)


def allowed(problem: Problem, plan: Plan) -> Plan:
    """The plan, or ConfigError with why it isn't allowed."""
    if reason := why_not(problem, plan):
        raise ConfigError(f"{plan.scheduler}: {reason}")
    return plan


def plain_input(problem: Problem) -> str:
    """The input as ordinary payloads where that is possible, else in the problem's first encoding."""
    return "" if "" in problem.inputs else next(iter(problem.inputs))


def single(problem: Problem, worker: int, given: str, name: str) -> Plan:
    """All layers on one worker, which is given the input in that encoding."""
    stage = StagePlan(problem.machines[worker].name, tuple(range(len(problem.graph.nodes))))
    return Plan(problem.digest, (stage,), given, name)


def cut_at(problem: Problem, cuts: list[int], name: str) -> Plan:
    """Worker i runs the nodes from cuts[i] to cuts[i + 1] of the order; those without any are left out."""
    stages = [
        StagePlan(machine.name, tuple(range(first, last)))
        for machine, first, last in zip(problem.machines, cuts, cuts[1:], strict=False)
        if last > first
    ]
    return Plan(problem.digest, tuple(stages), plain_input(problem), name)


def none_fits(problem: Problem) -> ConfigError:
    """What to say where no plan is allowed."""
    if any(machine.memory is not None for machine in problem.machines):
        needs = problem.graph.weight_bytes(range(len(problem.graph.nodes))) / 1e6
        room = sum(machine.memory or 0 for machine in problem.machines) / 1e6
        limits = f"the weights alone are {needs:,.0f} MB, the workers may use {room:,.0f} MB in all"
    else:
        limits = "the first worker can't be left out"
    stay = "; private values must stay with the first" if problem.private else ""
    return ConfigError(f"no plan fits these workers: {limits}{stay}. Give them more memory, or use a smaller input")

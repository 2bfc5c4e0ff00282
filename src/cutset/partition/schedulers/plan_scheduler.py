"""What every scheduler does, and what they share."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Protocol

from cutset.errors import ConfigError
from cutset.partition.cost import CostModel, rank, why_not
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem

__all__ = ["PlanScheduler", "allowed", "cut_at", "none_fits", "plain_input", "settled", "signed", "single"]


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


def single(problem: Problem, worker: int, given: str, name: str, *, partial: bool = False) -> Plan:
    """All layers on one worker, given the input in that encoding; `partial`: which computes what changed alone."""
    stage = problem.stage(problem.variants.index((worker, partial)), tuple(range(len(problem.graph.nodes))))
    return Plan(problem.digest, (stage,), given, name)


def cut_at(problem: Problem, cuts: list[int], name: str) -> Plan:
    """Worker i runs the nodes from cuts[i] to cuts[i + 1] of the order, all of every item; those without any are left
    out."""
    stages = [
        problem.stage(problem.variants.index((worker, False)), tuple(range(first, last)))
        for worker, (first, last) in enumerate(pairwise(cuts))
        if last > first
    ]
    return Plan(problem.digest, tuple(stages), plain_input(problem), name)


def settled(problem: Problem, plan: Plan, model: CostModel | None = None) -> Plan:
    """The plan with those stages computing what changed alone that make it better so, one after another."""
    if not any(partial for _, partial in problem.variants):
        return plan
    model = model or CostModel(problem)
    for at, stage in enumerate(plan.stages):
        stages = (*plan.stages[:at], replace(stage, dense=False), *plan.stages[at + 1 :])
        tried = replace(plan, stages=stages)
        if not problem.partial_stage(stages[at]) or why_not(problem, tried) is not None:
            continue
        if why_not(problem, plan) is not None or rank(problem, model.cost(tried)) < rank(problem, model.cost(plan)):
            plan = tried
    return plan


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

"""Whether another plan is worth a switch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cutset.partition.cost import Cost, Model, why_not
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem

__all__ = ["Decision", "Policy", "decide", "each_picture", "same"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How much better a plan must be, and how often it must have been seen to be."""

    margin: float = 0.1  # share of a picture's time that must be gained
    horizon: int = 300  # pictures within which a switch must have paid for itself
    patience: int = 3  # looks in a row; 1 switches at once


@dataclass(frozen=True, slots=True)
class Decision:
    """What a comparison of two plans came to. Seconds."""

    better: bool  # the candidate is worth a switch
    now: float  # a picture under the current plan; infinite if that isn't possible any more
    then: float  # a picture under the candidate
    switch: float  # once: weights and keys to send
    why: str


def each_picture(problem: Problem, cost: Cost) -> float:
    """Seconds of a picture as the objective counts them: between pictures, or its latency; where it can't keep up with
    the rate, the latency that it has when all pictures in flight wait."""
    if problem.objective == "throughput":
        return cost.period
    if problem.rate is not None and cost.period * problem.rate > 1 + 1e-9:
        return max(cost.latency, max(problem.in_flight, 1) * cost.period)
    return cost.latency


def decide(model: Model, current: Plan, candidate: Plan, policy: Policy) -> Decision:
    """Compares the plan that runs with another one of the same problem."""
    problem = model.problem
    then = model.cost(candidate)
    after = each_picture(problem, then)
    switch = then.weights + max(then.first - then.latency, 0.0)
    if reason := why_not(problem, current):
        return Decision(True, float("inf"), after, switch, f"the current plan is over: {reason}")
    before = each_picture(problem, model.cost(current))
    if same(current, candidate):
        return Decision(False, before, after, 0.0, f"{_ms(before)} a picture; no plan is better")
    gain = before - after
    text = f"{_ms(before)} a picture now, {_ms(after)} with another plan"
    if gain <= policy.margin * before:
        return Decision(False, before, after, switch, f"{text}: less than {policy.margin:.0%} to gain")
    if gain * policy.horizon <= switch * (1 + policy.margin):
        return Decision(False, before, after, switch, f"{text}, but {_ms(switch)} to switch")
    pictures = math.ceil(switch / gain)
    worth = f"{_ms(switch)}, which {pictures} pictures win back" if pictures > 1 else f"{_ms(switch)}"
    return Decision(True, before, after, switch, f"{text}; the switch takes {worth}")


def same(a: Plan, b: Plan) -> bool:
    """Whether they do the same, whoever made them."""
    return (a.stages, a.picture) == (b.stages, b.picture)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"

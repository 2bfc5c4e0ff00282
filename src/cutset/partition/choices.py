"""The plans of all schedulers side by side, and those that send the input to one machine; which is best, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from cutset.errors import ConfigError
from cutset.partition.cost import Cost, CostModel, choose, per_item, why_not
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers import SCHEDULERS, scheduler
from cutset.partition.schedulers.common import single
from cutset.partition.traffic import Traffic

__all__ = ["PlanChoice", "best", "compare", "explain", "stages_text"]

ALWAYS = tuple(name for name in SCHEDULERS if name != "exhaustive")


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """A plan, or why there is none."""

    name: str  # of the scheduler, or of the machine and the encoding of the input
    plan: Plan | None
    cost: Cost | None
    why_not: str = ""  # why it isn't allowed; the plan and its cost may be there all the same


def compare(
    problem: Problem,
    names: Iterable[str] = ALWAYS,
    others: Mapping[str, Traffic] = MappingProxyType({}),
    refused: Mapping[str, str] = MappingProxyType({}),
) -> list[PlanChoice]:
    """The plans of these schedulers, and all on the last machine with every encoding of the input.

    `others` are encodings that the schedulers don't take, for comparison; `refused` says why some aren't allowed.
    """
    model = CostModel(problem)
    found = []
    for name in names:
        try:
            plan = scheduler(name).plan(problem, model)
            found.append(PlanChoice(name, plan, model.cost(plan)))
        except ConfigError as error:
            found.append(PlanChoice(name, None, None, str(error).removeprefix(f"{name}: ")))
    every = CostModel(replace(problem, inputs=dict(problem.inputs) | dict(others)))
    for name in filter(None, every.problem.inputs):
        plan = single(problem, len(problem.machines) - 1, name, "")
        reason = refused.get(name) if name not in problem.inputs else None
        found.append(PlanChoice(f"cloud, {name}", plan, every.cost(plan), reason or why_not(every.problem, plan) or ""))
    return found


def best(problem: Problem, choices: Iterable[PlanChoice]) -> PlanChoice:
    """The best that is allowed. Raises ConfigError if none is."""
    allowed = [(one, one.cost) for one in choices if one.plan and one.cost and not one.why_not]
    if not allowed:
        raise ConfigError(next((one.why_not for one in choices if one.why_not), "no plan is allowed"))
    return allowed[choose(problem, [cost for _, cost in allowed])][0]


def explain(
    problem: Problem,
    chosen: PlanChoice,
    choices: Iterable[PlanChoice],
    words: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Why the chosen plan wins, in a line or two. `words` say what is sent, by `Plan.input`."""
    if chosen.plan is None or chosen.cost is None:
        return chosen.why_not
    what = _what(problem, chosen.plan, words)
    mine = per_item(problem, chosen.cost)
    others = sorted(
        (per_item(problem, one.cost), one.name)
        for one in choices
        if one.cost and one.plan and not one.why_not and _key(one.plan) != _key(chosen.plan)
    )
    slow = chosen.cost.slowest
    text = f"{what}. Its slowest part is {slow.name}, {slow.seconds * 1e3:,.1f} ms an item."
    if not others:
        return f"{text} Every other plan is the same or isn't allowed."
    if others[0][0] <= mine * 1.005:
        return f"{text}\n{others[0][1]} is as good under this model."
    unit = "between items" if problem.objective == "throughput" else "an item"
    return f"{text}\nThe next is {others[0][1]}: {others[0][0] * 1e3:,.1f} ms {unit}, not {mine * 1e3:,.1f}."


def _key(plan: Plan) -> object:
    return plan.stages, plan.input


def _what(problem: Problem, plan: Plan, words: Mapping[str, str]) -> str:
    if len(plan.stages) > 1:
        return f"Splitting over {len(plan.stages)} workers is best"
    worker = plan.stages[0].worker
    sent = words.get(plan.input, f"the {plan.input or 'inputs'}")
    if not plan.input and problem.mode == "delta":
        sent = f"what changed of {sent}"
    return f"Not splitting is best: send {sent} to {worker}, which runs all layers"


def stages_text(plan: Plan, count: int) -> str:
    """`edge 0–5 → cloud 6–22`: nodes by their numbers, `…` where they aren't in a row."""
    parts = []
    for stage in plan.stages:
        first, last = stage.nodes[0], stage.nodes[-1]
        row = last - first + 1 == len(stage.nodes)
        text = "all" if len(stage.nodes) == count else f"{first}–{last}" if row else f"{first}…{last}"
        parts.append(f"{stage.worker} {text}")
    return " → ".join(parts)

"""The plans of all schedulers side by side, and those that send the input to one machine; which is best, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from cutset.errors import ConfigError
from cutset.partition.cost import Cost, CostModel, choose, per_item, why_not
from cutset.partition.plan import Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers import SCHEDULERS, scheduler
from cutset.partition.schedulers.plan_scheduler import plain_input, signed, single
from cutset.partition.traffic import Traffic

__all__ = ["DELTA", "DENSE", "PlanChoice", "best", "compare", "explain", "stages_text"]

DELTA, DENSE = ", delta compute", ", dense"  # end the names of plans that are shown for comparison
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
    """The plans of these schedulers, and all on the last machine with every encoding of the input. Where stages may
    compute what changed alone, also the best plan without that, and all on one machine with it and without.

    `others` are encodings that the schedulers don't take, for comparison; `refused` says why some aren't allowed.
    """
    model, asked = CostModel(problem), tuple(names)
    found = []
    for name in asked:
        try:
            plan = scheduler(name).plan(problem, model)
            found.append(PlanChoice(name, plan, model.cost(plan)))
        except ConfigError as error:
            found.append(PlanChoice(name, None, None, str(error).removeprefix(f"{name}: ")))
    if any(partial for _, partial in problem.variants):
        found += _variants(problem, model, asked)
    every = CostModel(replace(problem, inputs=dict(problem.inputs) | dict(others)))
    for name in filter(None, every.problem.inputs):
        plan = single(problem, len(problem.machines) - 1, name, "")
        reason = refused.get(name) if name not in problem.inputs else None
        found.append(PlanChoice(f"cloud, {name}", plan, every.cost(plan), reason or why_not(every.problem, plan) or ""))
    return found


def _variants(problem: Problem, model: CostModel, names: Sequence[str]) -> list[PlanChoice]:
    """What says how much delta compute gains or loses, of the schedulers that were asked for."""
    plans: list[tuple[str, Plan]] = []
    machines = {machine.name: machine for machine in problem.machines}
    if "optimal" in names:
        try:
            plan = scheduler("optimal").plan(problem.all_dense())
            stages = tuple(replace(stage, dense=machines[stage.worker].changed is not None) for stage in plan.stages)
            plans.append((f"optimal{DENSE}", replace(plan, stages=stages)))
        except ConfigError:
            pass  # the other plans say why
    for name, worker in (("edge", 0), ("cloud", len(problem.machines) - 1)):
        if name not in names or problem.machines[worker].changed is None:
            continue
        for partial in (False, True):
            called = f"{name}{DELTA if partial else DENSE}"
            plans.append((called, single(problem, worker, plain_input(problem), called, partial=partial)))
    return [
        PlanChoice(name, signed(plan, name), model.cost(plan), why_not(problem, plan) or "") for name, plan in plans
    ]


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
    what = _what(problem, chosen.plan, words) + _how(problem, chosen.plan)
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


def _how(problem: Problem, plan: Plan) -> str:
    """Which stages compute what changed alone, where any may."""
    if not any(partial for _, partial in problem.variants):
        return ""
    names = [stage.worker for stage in plan.stages if problem.partial_stage(stage)]
    if not names:
        return ", and computing all of every item: what changes is too much for less"
    return f", and computing only what changed{'' if len(names) == len(plan.stages) else ' on ' + ' and '.join(names)}"


def stages_text(plan: Plan, count: int, problem: Problem | None = None) -> str:
    """`edge 0–5 → cloud 6–22`: nodes by their numbers, `…` where they aren't in a row. With the problem, `delta` stands
    after the stages that compute what changed alone."""
    parts = []
    for stage in plan.stages:
        first, last = stage.nodes[0], stage.nodes[-1]
        row = last - first + 1 == len(stage.nodes)
        text = "all" if len(stage.nodes) == count else f"{first}–{last}" if row else f"{first}…{last}"
        delta = " delta" if problem is not None and problem.partial_stage(stage) else ""
        parts.append(f"{stage.worker} {text}{delta}")
    return " → ".join(parts)

"""The plans of all schedulers side by side, and those that send the pictures to one machine; which is best, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from cutset.errors import ConfigError
from cutset.partition.cost import Cost, Model, choose, why_not
from cutset.partition.plan import PictureForm, Plan
from cutset.partition.problem import Problem
from cutset.partition.replan import each_picture
from cutset.partition.schedulers import SCHEDULERS, scheduler
from cutset.partition.schedulers.interface import single
from cutset.partition.traffic import Traffic

__all__ = ["Choice", "best", "compare", "explain", "stages_text"]

ALWAYS = tuple(name for name in SCHEDULERS if name != "exhaustive")


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, or why there is none."""

    name: str  # of the scheduler, or of the machine and the form of the pictures
    plan: Plan | None
    cost: Cost | None
    why_not: str = ""  # why it isn't allowed; the plan and its cost may be there all the same


def compare(
    problem: Problem, names: Iterable[str] = ALWAYS, others: Mapping[PictureForm, Traffic] = MappingProxyType({})
) -> list[Choice]:
    """The plans of these schedulers, and all on the last machine in every form of the picture.

    `others` are forms that the schedulers don't take, for comparison: a JPEG changes the picture.
    """
    model = Model(problem)
    found = []
    for name in names:
        try:
            plan = scheduler(name).plan(problem, model)
            found.append(Choice(name, plan, model.cost(plan)))
        except ConfigError as error:
            found.append(Choice(name, None, None, str(error).removeprefix(f"{name}: ")))
    forms = dict(problem.pictures) | dict(others)
    every = Model(replace(problem, pictures=forms))
    for form in forms:
        if form != "uint8":
            plan = single(problem, len(problem.machines) - 1, form, "")
            lossy = form == "jpeg" and form not in problem.pictures
            reason = "it changes the picture" if lossy else why_not(every.problem, plan) or ""
            found.append(Choice(f"cloud, {form}", plan, every.cost(plan), reason))
    return found


def best(problem: Problem, choices: Iterable[Choice]) -> Choice:
    """The best that is allowed. Raises ConfigError if none is."""
    allowed = [(one, one.cost) for one in choices if one.plan and one.cost and not one.why_not]
    if not allowed:
        raise ConfigError(next((one.why_not for one in choices if one.why_not), "no plan is allowed"))
    return allowed[choose(problem, [cost for _, cost in allowed])][0]


def explain(problem: Problem, chosen: Choice, choices: Iterable[Choice]) -> str:
    """Why the chosen plan wins, in a line or two."""
    if chosen.plan is None or chosen.cost is None:
        return chosen.why_not
    what = _what(problem, chosen.plan)
    mine = each_picture(problem, chosen.cost)
    others = sorted(
        (each_picture(problem, one.cost), one.name)
        for one in choices
        if one.cost and one.plan and not one.why_not and _key(one.plan) != _key(chosen.plan)
    )
    slow = chosen.cost.slowest
    text = f"{what}. Its slowest part is {slow.name}, {slow.seconds * 1e3:,.1f} ms a picture."
    if not others:
        return f"{text} Every other plan is the same or isn't allowed."
    if others[0][0] <= mine * 1.005:
        return f"{text}\n{others[0][1]} is as good under this model."
    unit = "between pictures" if problem.objective == "throughput" else "a picture"
    return f"{text}\nThe next is {others[0][1]}: {others[0][0] * 1e3:,.1f} ms {unit}, not {mine * 1e3:,.1f}."


def _key(plan: Plan) -> object:
    return plan.stages, plan.picture


def _what(problem: Problem, plan: Plan) -> str:
    if len(plan.stages) > 1:
        return f"Splitting over {len(plan.stages)} workers is best"
    worker = plan.stages[0].worker
    how = {"packets": "the encoded video", "jpeg": "JPEG pictures", "float32": "float32 pictures"}
    sent = how.get(plan.picture, "the pictures" if problem.mode == "full" else "what changed of the pictures")
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

"""The plainest plan, and whether a plan can be run by these workers, with these inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.inputs import Inputs
from cutset.cluster.messages import MOST_EDGES
from cutset.cluster.model import Model
from cutset.errors import ConfigError
from cutset.partition.plan import Plan, StagePlan

__all__ = ["NoPlan", "check_fits", "crowded", "even_plan", "lacking"]


class NoPlan(ConfigError):
    """These workers can't run it, which others could: a planner says so, and the coordinator waits for them."""


def check_fits(plan: Plan, model: Model, workers: Collection[str], inputs: Inputs) -> None:
    """Raises ConfigError that names what doesn't fit; `workers` are all that the run has, there or not."""
    plan.check(model.graph, model.digest)
    if missing := lacking(plan, workers):
        raise ConfigError(
            f"the plan is for {', '.join(missing)}; the workers are {', '.join(workers)}. Make it for those: "
            "`cutset stream plan --workers NAMES`"
        )
    for names in plan.edges(model.graph):
        if len(names) > MOST_EDGES:
            raise ConfigError(f"the plan cuts {len(names)} values in one place; {MOST_EDGES} is the most")
    if plan.input:
        inputs.check(plan.input, model.input)


def lacking(plan: Plan, workers: Collection[str]) -> list[str]:
    """The workers of a plan that aren't among these."""
    return [stage.worker for stage in plan.stages if stage.worker not in workers]


def crowded(remotes: Mapping[str, Remote], plan: Plan, current: Plan) -> bool:
    """Whether a worker with a limit of memory would hold its stages of both plans at once."""
    both = {stage.worker for stage in plan.stages} & {stage.worker for stage in current.stages}
    return any((card := remotes[name].card) is not None and card.memory for name in both)


def even_plan(model: Model, workers: Sequence[str]) -> Plan:
    """Consecutive layers with about equal floating-point operations. Knows neither speeds nor links."""
    if not workers:
        raise ConfigError("a plan needs at least one worker")
    nodes, total, done = model.graph.nodes, model.graph.flops or 1, 0
    parts: list[list[int]] = [[] for _ in workers]
    for i, node in enumerate(nodes):
        at = min(int(done / total * len(workers)), len(workers) - 1)
        if model.graph.flops == 0:
            at = i * len(workers) // len(nodes)
        parts[at].append(i)
        done += node.flops
    stages = [StagePlan(name, tuple(part)) for name, part in zip(workers, parts, strict=True) if part]
    return Plan(model.digest, tuple(stages), scheduler="even split")

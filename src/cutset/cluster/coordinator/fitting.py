"""Whether a plan can be played: by these workers, with these inputs."""

from __future__ import annotations

from collections.abc import Collection

from cutset.cluster.inputs import Inputs
from cutset.cluster.messages import MOST_EDGES
from cutset.cluster.model import Model
from cutset.errors import ConfigError
from cutset.partition.plan import Plan

__all__ = ["check_fits", "lacking"]


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

"""The plan for a decoder's stages beside what else could be done: even shares, and each machine alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutset.engine.stage_planner import Division, StageMachine, StagePlanner
from cutset.partition.cost import CostModel
from cutset.partition.memory import stage_memory
from cutset.partition.mesh import Mesh
from cutset.partition.plan import StagePlan
from cutset.partition.problem import Objective

__all__ = ["StageChoices", "model_of", "stage_choices"]

NAMED = 8  # machines in a line of text


@dataclass(frozen=True, eq=False)
class StageChoices:
    """Plans under one cost model. `alone` are the machines by themselves, whether they have the memory or not."""

    planner: StagePlanner
    machines: Sequence[StageMachine]
    mesh: Mesh
    chosen: Division
    even: Division | None
    alone: list[Division]

    @property
    def best_alone(self) -> Division | None:
        """The best machine that can do all of it."""
        objective = self.planner.load.objective
        able = [one for one in self.alone if not one.refused]
        return min(able, key=lambda one: one.token if objective == "latency" else -one.rate, default=None)

    @property
    def left_out(self) -> list[str]:
        """Machines that the plan gives nothing."""
        used = {stage.worker for stage in self.chosen.plan.stages}
        return [one.name for one in self.machines if one.name not in used]

    def layers(self, stage: StagePlan) -> str:
        """The layers of a stage, as `0-11`."""
        nodes = [self.planner.graph.nodes[i] for i in stage.nodes]
        first, last = nodes[0].args[0], int(str(nodes[-1].args[1])) - 1
        return f"{first}-{last}"

    def plan_text(self, division: Division) -> str:
        """`a 0-11 → b 12-29`."""
        return " → ".join(f"{stage.worker} {self.layers(stage)}" for stage in division.plan.stages)

    def needs(self, stage: StagePlan) -> float:
        """Bytes of a stage."""
        graph = self.planner.graph
        takes, gives = graph.cut(range(stage.nodes[0])), graph.cut(range(stage.nodes[-1] + 1))
        return stage_memory(graph, stage.nodes, takes.nbytes, gives.nbytes, self.planner.held)

    def seconds(self, stage: StagePlan) -> tuple[float, float]:
        """Of a step of one sequence, and of one as the plan makes them with all sequences."""
        number = next(i for i, one in enumerate(self.machines) if one.name == stage.worker)
        return self._step(number, stage, "latency", 1), self._step(number, stage, "throughput", self.chosen.depth)

    def _step(self, number: int, stage: StagePlan, objective: Objective, depth: int) -> float:
        pair = self.mesh.among([0, number + 1])
        machine = self.planner.problem([self.machines[number]], pair, objective, depth).machines[0]
        return float(machine.seconds[list(stage.nodes)].sum()) + machine.overhead

    def why(self) -> str:
        """What the plan does, whom it leaves out, and what one machine alone would do."""
        chosen, best, objective = self.chosen, self.best_alone, self.planner.load.objective
        slow = chosen.cost.slowest
        text = f"{len(chosen.plan.stages)} of {len(self.machines)} machines run layers"
        if len(chosen.plan.stages) == 1:
            text = f"One machine runs all layers: {chosen.plan.stages[0].worker}"
        text += f"; the slowest part is {slow.name}, {slow.seconds * 1e3:,.2f} ms a step."
        if self.left_out:
            more = f" and {len(self.left_out) - NAMED} more" if len(self.left_out) > NAMED else ""
            text += f"\nLeft out, since it is no slower without: {', '.join(self.left_out[:NAMED])}{more}."
        if best is None:
            return f"{text}\nNo machine alone has the memory for all layers."
        figure = f"{best.token * 1e3:,.1f} ms a token" if objective == "latency" else f"{best.rate:,.1f} tokens/s"
        times = best.token / chosen.token if objective == "latency" else chosen.rate / best.rate
        who = best.plan.stages[0].worker
        return f"{text}\nThe best machine alone, {who}, would do {figure}: the plan does {times:.2f} times that."

    def document(self) -> dict[str, Any]:
        """All of it for a file."""
        load = self.planner.load
        return {
            "graph": self.planner.digest,
            "objective": load.objective,
            "context": load.context,
            "sequences": load.sequences,
            "machines": [
                {
                    "name": one.name,
                    "speed": one.speed,
                    "memory": None if one.room == float("inf") else int(one.room),
                    "overhead": one.overhead,
                }
                for one in self.machines
            ],
            "plan": self._entry("optimal", self.chosen) | {"stages": list(map(self._stage, self.chosen.plan.stages))},
            "even": None if self.even is None else self._entry("even", self.even),
            "alone": [self._entry(one.plan.stages[0].worker, one) for one in self.alone],
            "left_out": self.left_out,
        }

    def _stage(self, stage: StagePlan) -> dict[str, Any]:
        alone, loaded = self.seconds(stage)
        return {
            "worker": stage.worker,
            "layers": self.layers(stage),
            "nodes": list(stage.nodes),
            "bytes": int(self.needs(stage)),
            "step_alone": alone,
            "step": loaded,
        }

    def _entry(self, name: str, one: Division) -> dict[str, Any]:
        return {
            "name": name,
            "plan": self.plan_text(one),
            "token": one.token,
            "first": one.first,
            "rate": one.rate,
            "depth": one.depth,
            "why_not": one.refused,
        }


def stage_choices(
    planner: StagePlanner, machines: Sequence[StageMachine], mesh: Mesh, *, all_of_them: bool = False
) -> StageChoices:
    """Raises ConfigError, with what is missing, where there is no plan."""
    chosen = planner.divide(machines, mesh, all_of_them=all_of_them)
    even = planner.even(machines, mesh) if len(machines) <= 64 else None
    return StageChoices(planner, machines, mesh, chosen, even, planner.alone(machines, mesh))


def model_of(choices: StageChoices) -> CostModel:
    """The cost model of the plan's steps."""
    objective = choices.planner.load.objective
    depth = 1 if objective == "latency" else choices.chosen.depth
    return CostModel(choices.planner.problem(choices.machines, choices.mesh, objective, depth))

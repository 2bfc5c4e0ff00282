"""A network with the cuts of a plan, computed in one place: what workers whose runtime fuses layers must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutset.cluster.stage import Stage
from cutset.cluster.values import Array, copied, readable
from cutset.errors import GraphError
from cutset.partition.plan import Plan
from cutset.video.network_model import NetworkModel
from cutset.video.result import Result
from cutset.video.runtimes import open_stage

__all__ = ["Pieces"]


class Pieces:
    """Computes a result's picture by the stages of the plan that made it, with so many threads each; torch's kernels,
    which run nodes one by one, compute it in one piece.

    `plans` are those of the run until now, with their numbers, newest last.
    """

    def __init__(
        self, model: NetworkModel, plans: Callable[[], Sequence[tuple[int, Plan, Any]]], threads: int = 1
    ) -> None:
        self._model, self._plans, self._threads = model, plans, threads
        self._stages: dict[int, list[Stage]] = {}

    def __call__(self, result: Result) -> Mapping[str, Array]:
        """The outputs, as `NetworkModel.run` gives them. Raises GraphError for a plan that isn't known."""
        if result.plan not in self._stages:
            found = [plan for number, plan, _ in self._plans() if number == result.plan]
            if not found:
                raise GraphError(f"plan {result.plan} isn't known")
            graph, tensors = self._model.graph, self._model.tensors
            stages = [(stage.nodes, stage.runtime) for stage in found[0].stages]
            if {runtime for _, runtime in stages} == {"torch"}:  # node by node: in one piece
                stages = [(tuple(range(len(graph.nodes))), "torch")]
            self._stages[result.plan] = [
                open_stage(graph, nodes, tensors, runtime, threads=self._threads) for nodes, runtime in stages
            ]
        value = self._model.input
        values = {value.name: copied(result.pixels.reshape(value.shape), value)}
        for stage in self._stages[result.plan]:
            values |= stage.run(0, values)
        return {name: readable(values[name], self._model.graph.values[name]) for name in self._model.graph.outputs}

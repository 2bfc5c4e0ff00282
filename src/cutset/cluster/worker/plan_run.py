"""One plan's stage at a worker: what comes in, which layers, what goes out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.codecs import Receiver, Sender
from cutset.cluster.messages import MOST_EDGES, Allow, EdgeReport, Prepare, Work
from cutset.codec import Budget
from cutset.errors import ConfigError, GraphError
from cutset.partition.graph import Graph
from cutset.partition.memory import stage_memory
from cutset.partition.plan import Plan
from cutset.video.forms import FormReceiver
from cutset.video.stage import Stage

__all__ = ["PlanRun", "memory_of", "place_of", "warm_up"]


def memory_of(graph: Graph, plan: Plan, name: str, in_flight: int) -> float:
    """Bytes that this worker's stage may need."""
    at, hops = place_of(plan, name), plan.edges(graph)
    takes, gives = (sum(graph.values[value].nbytes for value in hops[i]) for i in (at, at + 1))
    return stage_memory(graph, plan.stages[at].nodes, takes, gives, in_flight)


def place_of(plan: Plan, name: str) -> int:
    """Which stage of the plan is this worker's. Raises ConfigError where none is."""
    for i, stage in enumerate(plan.stages):
        if stage.worker == name:
            return i
    raise ConfigError(f"the plan has no stage for {name}")


class PlanRun:
    """A stage with its codecs. Each of decode, compute and encode is called from one thread."""

    def __init__(
        self, order: Prepare, graph: Graph, plan: Plan, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> None:
        self.order, self.graph, self.plan = order, graph, plan
        self.number = order.plan
        at = place_of(plan, order.name)
        self.first, self.last = at == 0, at == len(plan.stages) - 1
        hops = plan.edges(graph)
        for names in hops:
            if len(names) > MOST_EDGES:
                raise ConfigError(f"the plan cuts {len(names)} values in one place; {MOST_EDGES} is the most")
        self.takes, self.gives = hops[at], hops[at + 1]
        self.stage = Stage(graph, plan.stages[at].nodes, tensors, device)
        self.receiver = Receiver([graph.values[name] for name in self.takes], plan=order.plan)
        self._forms: FormReceiver | None = None
        if self.first and plan.input:
            self._forms = FormReceiver(graph.inputs[0], order.codecs)
        self.sender = Sender(
            [graph.values[name] for name in self.gives],
            plan=order.plan,
            epoch=order.epoch,
            deltas=order.deltas,
            bandwidth=order.bandwidth,
            exact=[v.name for v in graph.values.values() if v.dtype == "uint8" and v not in graph.inputs],  # no pixels
        )
        self.allow(order)

    def allow(self, said: Prepare | Allow) -> None:
        """What is sent may be off by so much; results are what was computed."""
        if not self.last:
            self.sender.allow(Budget(said.threshold, said.half), said.levels)

    @property
    def limit(self) -> int:
        """The most bytes that a picture may have on its way here."""
        return self.receiver.limit if self._forms is None else self._forms.limit

    def decode(self, work: Work, arrays: Sequence[NDArray[np.uint8]]) -> tuple[dict[str, Tensor], list[EdgeReport]]:
        """The values of a picture, and what decoding cost. Raises Gap, and FrameError for what isn't right."""
        if self._forms is not None:
            return self._forms.decode(work, arrays)
        return self.receiver.decode(work, arrays)

    def compute(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[float] | None]:
        """The values of the next hop: made here, or passed on. And each layer's seconds, if they were asked for."""
        seconds: list[float] | None = [] if self.order.profile else None
        made = self.stage.run(values, None if seconds is None else lambda _, spent: seconds.append(spent))
        return {name: made[name] if name in made else values[name] for name in self.gives}, seconds


def warm_up(run: PlanRun) -> float:
    """Runs the stage once on zeros, so that the first picture doesn't pay for what torch sets up. Seconds."""
    start = time.perf_counter()
    values = {}
    for name in run.stage.inputs:
        value = run.graph.values[name]
        values[name] = torch.zeros(value.shape, dtype=getattr(torch, value.dtype))
    try:
        run.stage.run(values)
    except RuntimeError as error:
        raise GraphError(f"the stage can't run here: {str(error).splitlines()[0][:200]}") from None
    return time.perf_counter() - start

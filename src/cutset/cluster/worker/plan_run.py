"""One plan's stage at a worker: what comes in, which layers, what goes out."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cutset.cluster.codecs import Receiver, Sender
from cutset.cluster.inputs import InputDecoder
from cutset.cluster.messages import MOST_EDGES, Allow, EdgeReport, Prepare
from cutset.cluster.stage import ExpectingStage, IncrementalRuntime, IncrementalStage, NativeStage, Runtime, Stage
from cutset.cluster.values import Array, copied
from cutset.cluster.wire import ArrivedItem
from cutset.cluster.worker.inputs_ahead import InputsAhead, RestOfItem
from cutset.codec import Budget
from cutset.codec.changed import Changed
from cutset.errors import ConfigError
from cutset.partition.graph import Graph
from cutset.partition.memory import held_memory, stage_memory
from cutset.partition.plan import Plan

__all__ = ["PlanRun", "memory_of", "place_of"]


def memory_of(graph: Graph, plan: Plan, name: str, in_flight: int, *, incremental: bool = False) -> float:
    """Bytes that this worker's stage may need; one that is incremental holds all its values and weights of its own, of
    one source."""
    at, hops = place_of(plan, name), plan.edges(graph)
    takes, gives = (sum(graph.values[value].nbytes for value in hops[i]) for i in (at, at + 1))
    nodes = plan.stages[at].nodes
    needs = stage_memory(graph, nodes, takes, gives, in_flight)
    return needs + held_memory(graph, nodes, takes) if incremental else needs


def place_of(plan: Plan, name: str) -> int:
    """Which stage of the plan is this worker's. Raises ConfigError where none is."""
    for i, stage in enumerate(plan.stages):
        if stage.worker == name:
            return i
    raise ConfigError(f"the plan has no stage for {name}")


class PlanRun:
    """A stage with its codecs. Each of decode, compute and encode is called from one thread."""

    def __init__(
        self, order: Prepare, graph: Graph, plan: Plan, weights: Mapping[str, Array], runtime: Runtime
    ) -> None:
        self.order, self.graph, self.plan = order, graph, plan
        self.number = order.plan
        at = place_of(plan, order.name)
        self.first, self.last = at == 0, at == len(plan.stages) - 1
        hops = plan.edges(graph, direct=order.direct)
        for names in hops:
            if len(names) > MOST_EDGES:
                raise ConfigError(f"the plan cuts {len(names)} values in one place; {MOST_EDGES} is the most")
        self.takes, self.gives = hops[at], hops[at + 1]
        self.receiver = Receiver(
            [graph.values[name] for name in self.takes], plan=order.plan, watch=order.delta_scale is not None
        )
        self._input: InputDecoder | None = None
        if self.first and plan.input:
            self._input = runtime.decoder(plan.input, graph.inputs[0], order.inputs)
        # What comes from the coordinator besides, where another stage is before this one.
        self.ahead: InputsAhead | None = None
        if order.direct and (plan.input or not all(value.bounded for value in graph.inputs)):
            raise ConfigError("only bounded inputs go straight to every stage")
        if order.direct and not self.first and plan.readers(graph)[at]:
            self.ahead = InputsAhead(graph.inputs, order.plan, order.in_flight)
        self.sender = Sender(
            [graph.values[name] for name in self.gives],
            plan=order.plan,
            epoch=order.epoch,
            deltas=order.deltas,
            bandwidth=order.bandwidth,
            # Levels are for inputs: other values of 8 bits may be numbers of something.
            exact=[v.name for v in graph.values.values() if v.dtype == "uint8" and v not in graph.inputs],
        )
        self.incremental: IncrementalStage | None = None
        self.allow(order)
        self.plain = all(graph.values[name].bounded for name in (*self.takes, *self.gives)) and not plan.input
        nodes = plan.stages[at].nodes
        chosen = [plan.stages[at].runtime] if plan.stages[at].runtime else []
        if order.delta_scale is None:
            self.stage: Stage = runtime.stage(graph, nodes, weights, *chosen)
        elif isinstance(runtime, IncrementalRuntime):
            self.stage = self.incremental = runtime.incremental_stage(graph, nodes, weights, order.delta_scale, *chosen)
        else:
            raise ConfigError(f"{runtime.software} can't compute what changed alone; leave out --delta-compute")
        self._expects = self.stage if isinstance(self.stage, ExpectingStage) else None
        # The stage, where native code may run its items (`native_item`).
        self.native: NativeStage | None = None
        alone = order.direct and self.plain and len(self.takes) == 1 and self.gives == self.stage.outputs
        if isinstance(self.stage, NativeStage) and alone and not order.profile:
            self.native = self.stage

    def allow(self, said: Prepare | Allow) -> None:
        """What is sent may be off by so much; results are what was computed."""
        if not self.last:
            self.sender.allow(Budget(said.threshold, said.half), said.levels)
        if self.incremental is not None and said.delta_scale is not None:
            if said.delta_factors is not None:
                self.incremental.factors = said.delta_factors
            self.incremental.scale = said.delta_scale

    @property
    def limit(self) -> int:
        """The most bytes that an item may have on its way here."""
        limit = self.receiver.limit if self._input is None else self._input.limit
        return limit if self.ahead is None else max(limit, self.ahead.limit)

    def decode(self, arrival: ArrivedItem) -> tuple[dict[str, Array], list[EdgeReport]]:
        """The values of an item, and what decoding cost. Raises Gap, and FrameError for what isn't right."""
        work = arrival.work
        if self._input is None:
            values, reports = self.receiver.decode(work, arrival.arrays)
            if self.ahead is not None:
                values |= self.ahead.take(work)
            return values, reports
        start, value = time.perf_counter(), self.graph.inputs[0]
        found = copied(self._input.decode(work.source, work.head, arrival.arrays), value)
        seconds = time.perf_counter() - start
        return {value.name: found}, [EdgeReport(value.name, "input", sum(work.lengths), 1.0, found.size, 0.0, seconds)]

    def expect(self, arrival: ArrivedItem) -> tuple[dict[str, Array], RestOfItem | None]:
        """Takes the input of an item whose other values come from the stage before; and these, where they are here
        already. The stage does what it can before they are. Raises FrameError."""
        assert self.ahead is not None
        values, rest = self.ahead.came(arrival)
        if rest is None and self._expects is not None:
            self._expects.expect(arrival.work.source, values)
        return values, rest

    def compute(
        self, source: int, values: Mapping[str, Array], changed: Mapping[str, Changed] | None = None
    ) -> tuple[dict[str, Array], list[float] | None]:
        """The values of the next hop: made here, or passed on. And each layer's seconds, if they were asked for."""
        seconds: list[float] | None = [] if self.order.profile else None
        observe = None if seconds is None else seconds.append
        if self.incremental is not None:
            made = self.incremental.run(source, values, observe, changed)
        else:
            made = self.stage.run(source, values, observe)
        return {name: made[name] if name in made else values[name] for name in self.gives}, seconds

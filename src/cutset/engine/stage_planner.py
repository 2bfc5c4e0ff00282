"""Which machine runs which layers of a decoder: by what each takes for them, what lies between, and what they hold.

An item of a plan is a step. For `latency` one sequence decodes alone, a row a step. For `throughput` all sequences
decode, shared out among as many steps on their way as are best: few read the weights seldom, many fill the stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cutset.engine.decoder_stage import BATCH, CHOICES
from cutset.engine.decoder_times import DecoderTimes
from cutset.engine.stage_graph import uncut
from cutset.errors import ConfigError
from cutset.models.spec import DecoderSpec
from cutset.partition.cost import Cost, CostModel, why_not
from cutset.partition.graph import Graph
from cutset.partition.lattice import Lattice, lattice
from cutset.partition.memory import hop_memory, order_bytes
from cutset.partition.mesh import Mesh
from cutset.partition.plan import Plan
from cutset.partition.problem import Machine, Objective, Problem
from cutset.partition.schedulers import scheduler
from cutset.partition.schedulers.by_weight import by_weight
from cutset.partition.schedulers.plan_scheduler import single
from cutset.partition.search import Search
from cutset.partition.traffic import Coded, Traffic

__all__ = ["Division", "StageLoad", "StageMachine", "StagePlanner"]

SLACK = 0.01  # plans that differ by this share count as equal: the one of less latency is taken then
MOST_ALONE = 16  # machines of which it is said what one alone would do
ENGINE = 4e-4  # seconds of the engine's own work on a step,
ENGINE_ROW = 1.5e-5  # and on each of its sequences
OVERHEAD = 3e-4  # seconds of a worker's own work on an item
MOST_DEPTHS = 20  # numbers of steps on their way that are tried
MOST_MACHINES = 96  # among which plans are searched; of more, the best by what they could do alone


@dataclass(frozen=True)
class StageMachine:
    """A machine that could run a stage."""

    name: str
    speed: float = 1.0  # times that of the machine whose times are known
    room: float = math.inf  # bytes that it may use
    overhead: float = OVERHEAD  # seconds of a step beside its layers
    times: DecoderTimes | None = None  # its own, in the place of a speed


@dataclass(frozen=True)
class StageLoad:
    """What is to be run. Raises ConfigError for what can't be."""

    objective: Objective = "throughput"
    context: int = 2048  # tokens of a sequence, prompt and answer
    sequences: int = 1

    def __post_init__(self) -> None:
        if self.context < 1 or self.sequences < 1:
            raise ConfigError(
                f"a plan is for a context of at least 1 token and at least 1 sequence, not {self.context} and "
                f"{self.sequences}"
            )


@dataclass(frozen=True)
class Division:
    """A plan, and what it is expected to do. Seconds."""

    plan: Plan
    depth: int  # steps on their way at once
    token: float  # of one sequence alone, a token after the other
    first: float  # until the first token of a prompt of half the context
    rate: float  # tokens a second of all sequences together
    cost: Cost  # of a step for the objective
    refused: str = ""  # why it can't be run

    def better(self, other: Division, objective: Objective) -> bool:
        """Whether this one does more of what counts."""
        return self.token < other.token if objective == "latency" else self.rate > other.rate


class StagePlanner:
    """Plans for a decoder and a load; `held` steps may wait at a worker, for which it has memory."""

    def __init__(
        self, graph: Graph, digest: str, spec: DecoderSpec, times: DecoderTimes, load: StageLoad, held: int
    ) -> None:
        self.graph, self.digest, self.spec = graph, digest, spec
        self.times, self.load, self.held = times, load, held
        self.uncut = uncut(spec)

    def divide(self, machines: Sequence[StageMachine], mesh: Mesh, *, all_of_them: bool = False) -> Division:
        """The best plan. With `all_of_them` none of the machines is left out that has memory for a layer.

        Raises ConfigError, which says what is missing, where no plan is allowed.
        """
        if all_of_them:
            return self._shared(machines, mesh)
        models = _Models(self, *self._likely(machines, mesh))
        if self.load.objective == "latency":
            return self._judged(self._best(models.alone, machines), models)
        found: Division | None = None
        sets = lattice(self.graph)
        for depth in self._depths():
            model = models.loaded(depth)
            if found is not None and not _does_more(model, sets, self.load.sequences / depth / found.rate):
                continue
            one = self._judged(self._best(model, machines), models)
            if found is None or one.rate > found.rate:
                found = one
        assert found is not None
        return found

    def judged(self, plan: Plan, machines: Sequence[StageMachine], mesh: Mesh) -> Division:
        """What a plan does, with as many steps on their way as are best for it."""
        return self._judged(plan, _Models(self, machines, mesh))

    def alone(self, machines: Sequence[StageMachine], mesh: Mesh) -> list[Division]:
        """What each machine would do with all layers, whether it has the memory or not; of many the quickest ones."""
        found = []
        quickest = sorted(range(len(machines)), key=lambda i: float(self._machine(machines[i], 1).seconds.sum()))
        for number in sorted(quickest[:MOST_ALONE]):
            models = _Models(self, [machines[number]], mesh.among([0, number + 1]))
            found.append(self._judged(single(models.alone.problem, 0, "", "alone"), models))
        return found

    def even(self, machines: Sequence[StageMachine], mesh: Mesh) -> Division | None:
        """As many bytes of weights for each; None where they don't fit so."""
        names = [one.name for one in machines]
        stages = by_weight(self.graph, names, _rooms(machines), self.held, uncut=self.uncut)
        return None if stages is None else self.judged(Plan(self.digest, stages, "", "even"), machines, mesh)

    def problem(
        self, machines: Sequence[StageMachine], mesh: Mesh, objective: Objective = "latency", depth: int = 1
    ) -> Problem:
        """What a planner is asked: of one sequence alone, or of all of them with so many steps on their way."""
        alone = objective == "latency"
        rows = 1 if alone else -(-self.load.sequences // depth)
        batch, hidden, choices = self._bytes(rows)
        traffic = dict.fromkeys(self.graph.values, hidden) | {BATCH: batch, CHOICES: choices}
        given = Traffic((batch.key[0]._replace(encode=ENGINE + ENGINE_ROW * rows),))
        return Problem(
            self.graph,
            self.digest,
            tuple(self._machine(one, rows) for one in machines),
            (),
            traffic,
            {"": given},
            objective=objective,
            in_flight=depth,
            mode="full",
            slack=0.0 if alone else SLACK / 2,
            uncut=self.uncut,
            mesh=mesh,
            held=self.held,
        )

    def missing(self, machines: Sequence[StageMachine]) -> str:
        """Why these have too little memory, in numbers."""
        graph, load = self.graph, self.load
        nodes = range(len(graph.nodes))
        weights = graph.weight_bytes(nodes)
        kept = sum(node.state for node in graph.nodes)
        cuts = np.array([cut.nbytes for cut in graph.cuts])
        needs = order_bytes(graph) + hop_memory(cuts[:, None], cuts[None, :], self.held)
        ends = [k for k, cut in enumerate(graph.cuts) if not self.uncut.intersection(cut.values)]
        largest = max(float(needs[a, b]) for a, b in pairwise(ends))
        each = ", ".join(f"{one.name} {one.room / 2**20:,.0f}" for one in machines[:8])
        more = f" and {len(machines) - 8} more" if len(machines) > 8 else ""
        total, there = (weights + kept) / 2**20, sum(one.room for one in machines) / 2**20
        return (
            f"the stages need about {total:,.0f} MiB for weights and cache ({load.sequences} sequences of "
            f"{load.context} tokens), and the {len(machines)} that are there may use {there:,.0f} MiB ({each}{more}); "
            f"the largest layer needs {largest / 2**20:,.0f} MiB on one of them: give another --stages or --spares, "
            "more --memory, or a smaller cache (--cache-mib, --max-model-len, --max-num-seqs)"
        )

    def _best(self, model: CostModel, machines: Sequence[StageMachine]) -> Plan:
        try:
            return scheduler("optimal").plan(model.problem, model)
        except ConfigError:
            raise ConfigError(self.missing(machines)) from None

    def _shared(self, machines: Sequence[StageMachine], mesh: Mesh) -> Division:
        """The least largest share of the seconds for each of the machines."""
        rows = 1 if self.load.objective == "latency" else -(-self.load.sequences // (len(machines) + 1))
        seconds = [self._machine(one, rows).seconds for one in machines]
        names = [one.name for one in machines]
        stages = by_weight(self.graph, names, _rooms(machines), self.held, uncut=self.uncut, seconds=seconds)
        if stages is None:
            raise ConfigError(self.missing(machines))
        return self.judged(Plan(self.digest, stages, "", "balanced"), machines, mesh)

    def _judged(self, plan: Plan, models: _Models) -> Division:
        alone = models.alone.cost(plan)
        rates = {}
        for depth in self._depths():
            cost = models.loaded(depth).cost(plan)
            rates[depth] = self.load.sequences / depth / cost.period, cost
        depth = max(rates, key=lambda each: rates[each][0])
        rate, loaded = rates[depth]
        refused = why_not(models.alone.problem, plan) or ""
        first = self._prompt(plan, models.machines, alone)
        cost = alone if self.load.objective == "latency" else loaded
        return Division(plan, depth, alone.latency, first, rate, cost, refused)

    def _prompt(self, plan: Plan, machines: Sequence[StageMachine], alone: Cost) -> float:
        """Until the first token: steps of a prompt follow each other through the stages, so the slowest one counts, and
        once each of the others."""
        tokens = max(self.load.context // 2, 1)
        steps = max(-(-tokens // 128), 1)
        by_name = {one.name: one for one in machines}
        each = []
        for stage in plan.stages:
            machine = by_name[stage.worker]
            times = machine.times or self.times.faster(machine.speed)
            each.append(float(times.prompt(tokens)[list(stage.nodes)].sum()) / steps + machine.overhead)
        ways = alone.total("link") + alone.total("encode")
        return (steps - 1) * max(each) + sum(each) + ways

    def _machine(self, one: StageMachine, rows: int) -> Machine:
        context = self.load.context / 2
        seconds = self.times.step(rows, context) / one.speed if one.times is None else one.times.step(rows, context)
        room = None if math.isinf(one.room) else max(int(one.room), 1)
        return Machine(one.name, seconds, room, overhead=one.overhead)

    def _bytes(self, rows: int) -> tuple[Traffic, Traffic, Traffic]:
        """Of a step's batch, hidden states and choices."""
        sequence = 160 + 4 * -(-self.load.context // 16)
        return (
            Traffic((Coded(200.0 + rows * sequence),)),
            Traffic((Coded(rows * self.spec.hidden * 4.0),)),
            Traffic((Coded(60.0 + 16.0 * rows),)),
        )

    def _depths(self) -> list[int]:
        """Numbers of steps on their way that are worth a look, the largest first."""
        most = max(min(self.load.sequences, self.held), 1)
        if most <= MOST_DEPTHS:
            return list(range(most, 0, -1))
        return sorted({round(most ** (i / (MOST_DEPTHS - 1))) for i in range(MOST_DEPTHS)}, reverse=True)

    def _likely(self, machines: Sequence[StageMachine], mesh: Mesh) -> tuple[Sequence[StageMachine], Mesh]:
        """Of very many machines those that would take least for the layers that they have room for."""
        if len(machines) <= MOST_MACHINES:
            return machines, mesh
        order = order_bytes(self.graph)
        whole = float(order[0, -1])
        scores = []
        for number, one in enumerate(machines):
            seconds = float(self._machine(one, 1).seconds.sum())
            share = min(one.room / whole, 1.0)
            wait = float(np.median(mesh.latency[number + 1]))
            scores.append((seconds * share + wait + one.overhead) / max(share, 1e-9))
        chosen = sorted(np.argsort(np.array(scores), kind="stable")[:MOST_MACHINES].tolist())
        return [machines[i] for i in chosen], mesh.among([0, *(i + 1 for i in chosen)])


class _Models:
    """The cost models of some machines, each made when it is needed."""

    def __init__(self, planner: StagePlanner, machines: Sequence[StageMachine], mesh: Mesh) -> None:
        self.machines, self._planner, self._mesh = machines, planner, mesh
        self.alone = CostModel(planner.problem(machines, mesh))
        self._loaded: dict[int, CostModel] = {}

    def loaded(self, depth: int) -> CostModel:
        """With all sequences in so many steps on their way."""
        if depth not in self._loaded:
            problem = self._planner.problem(self.machines, self._mesh, "throughput", depth)
            self._loaded[depth] = CostModel(problem)
        return self._loaded[depth]


def _does_more(model: CostModel, sets: Lattice, period: float) -> bool:
    """Whether some plan takes clearly less than that between two steps."""
    limit = period * (1 - SLACK)
    found = Search(model, sets).run(limit)
    return found is not None and found.latency / model.problem.in_flight <= limit


def _rooms(machines: Sequence[StageMachine]) -> Mapping[str, float]:
    """As `by_weight` takes them: 0 for no limit."""
    return {one.name: 0.0 if math.isinf(one.room) else max(one.room, 1.0) for one in machines}

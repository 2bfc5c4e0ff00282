"""What a plan costs: the one model that planners, simulator and predictions share.

An item that passes alone takes the sum of: encoding at the sender, the link's latency, bytes over its bandwidth and
decoding at the receiver, for each hop of the plan and for the result's way back; and the layers of each stage. With
several items on their way, a worker decodes, computes and encodes different items at the same time, so the time
between items is that of the slowest part (a link, or one of those three), or an item's time over their number
where that is longer.

Where stages may compute what changed alone, each machine is there in two variants (`Problem.variants`): their layers
take other seconds, and what they send changes less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.partition.memory import held_memory, stage_memory
from cutset.partition.plan import COORDINATOR, Plan
from cutset.partition.problem import Problem
from cutset.partition.traffic import Traffic

__all__ = ["Cost", "CostModel", "Crossings", "Part", "Table", "choose", "per_item", "rank", "why_not", "work_of"]

Floats = NDArray[np.float64]
PartKind = Literal["encode", "link", "decode", "compute"]


class Table(NamedTuple):
    """Rows (values, cuts or inputs) × senders × receivers; or numbers. Seconds, and bytes.

    0 is the coordinator, variant i of the problem is number i + 1.
    """

    nbytes: Any
    encode: Any
    wire: Any  # bytes over bandwidth: how long the link is busy
    decode: Any

    @property
    def seconds(self) -> Any:
        """Of all three, without the link's latency."""
        return self.encode + self.wire + self.decode

    def sums(self, rows: Any) -> Table:
        """For a matrix (cuts, rows) of zeros and ones: what each cut costs."""
        return Table(*(np.tensordot(rows, part, 1) for part in self))


class Crossings:
    """The tables of a problem: of values, and of inputs from the coordinator, in each encoding."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        parties = np.array([0, *(worker + 1 for worker, _ in problem.variants)])
        self.latency, self._bandwidth = (
            each[np.ix_(parties, parties)] for each in (problem.ways.latency, problem.ways.bandwidth)
        )
        self._codec = np.array([problem.codec, *(machine.codec for machine in problem.machines)])[parties]
        partial = np.array([False, *(how for _, how in problem.variants)])
        kinds: dict[tuple[Traffic, Traffic], int] = {}  # values that cost the same have one row
        self._row = {}
        for name in problem.graph.values:
            usual = problem.traffic[name]
            both = usual, problem.partial.get(name, usual) if partial.any() else usual
            self._row[name] = kinds.setdefault(both, len(kinds))
        self.values = self._table(usual for usual, _ in kinds)
        if partial.any():
            less = self._table(changed for _, changed in kinds)
            sends = partial[None, :, None]
            self.values = Table(*(np.where(sends, b, a) for a, b in zip(self.values, less, strict=True)))
        self.inputs = self._table(problem.inputs.values())

    def cuts(self, cuts: Sequence[Sequence[str]]) -> tuple[Table, NDArray[np.intp]]:
        """The table of the kinds of cuts, and for each cut, named by the values that cross it, which row is its."""
        count = len(self.values.nbytes)
        rows = [np.bincount(np.array([self._row[name] for name in names], np.intp), minlength=count) for names in cuts]
        kinds, which = np.unique(np.array(rows, np.float64), axis=0, return_inverse=True)
        return self.values.sums(kinds), which.reshape(-1)

    def cut(self, names: Sequence[str], sender: int, receiver: int) -> Table:
        """The same of one cut between two of them: numbers."""
        rows = [self._row[name] for name in names]
        return Table(*(part[rows, sender, receiver].sum() for part in self.values))

    def _table(self, traffic: Iterable[Traffic]) -> Table:
        problem = self.problem
        mean = problem.objective == "throughput"
        ways = [one.ways(problem.mode, problem.horizon, mean=mean) for one in traffic]
        most = max(map(len, ways))
        # (rows, ways, sender, receiver); a row with fewer ways than others repeats its first.
        coded = np.array([[*row, *row[:1] * (most - len(row))] for row in ways], np.float64)
        nbytes, encode, decode = (coded[:, :, part, None, None] for part in range(3))
        parts = np.broadcast_arrays(
            nbytes, encode * self._codec[:, None], nbytes / self._bandwidth, decode * self._codec[None, :]
        )
        best = np.argmin(parts[1] + parts[2] + parts[3], axis=1)[:, None]
        return Table(*(np.take_along_axis(part, best, 1)[:, 0] for part in parts))


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of work on every item, done by one party (or link) for one item at a time."""

    kind: PartKind
    party: str  # who does it; of a link: who sends
    seconds: float  # for which it is busy
    latency: float = 0.0  # seconds that pass after it before the next part, and in which it can do other work
    nbytes: float = 0.0  # sent
    to: str = ""  # of a link: who receives

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"link {self.party} → {self.to}" if self.kind == "link" else f"{self.kind} on {self.party}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one item in the steady state, and of the first. Seconds and bytes."""

    parts: tuple[Part, ...]  # in the order in which an item passes them
    first: float  # the first item: keys on every hop; without the weights
    weights: float  # until every worker has what it lacks of its layers' weights
    in_flight: int

    @property
    def latency(self) -> float:
        """Of an item that passes alone."""
        return sum(part.seconds + part.latency for part in self.parts)

    @property
    def slowest(self) -> Part:
        """The part that limits how many items a second pass."""
        return max(self.parts, key=lambda part: part.seconds)

    @property
    def period(self) -> float:
        """Seconds between items when there is always one waiting."""
        share = self.latency / self.in_flight if self.in_flight else 0.0
        return max(self.slowest.seconds, share)

    @property
    def loaded(self) -> float:
        """Latency when as many items as allowed are always on their way."""
        return max(self.latency, self.in_flight * self.period) if self.in_flight else math.inf

    @property
    def nbytes(self) -> float:
        """Sent between all parties."""
        return sum(part.nbytes for part in self.parts)

    def total(self, kind: PartKind) -> float:
        """Seconds of one item in parts of a kind, with the links' latency."""
        return sum(part.seconds + part.latency for part in self.parts if part.kind == kind)


class CostModel:
    """The costs of a problem's plans. The tables that all of them need are made once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.crossings = Crossings(problem)
        self._keys = self.crossings if problem.mode == "full" else Crossings(replace(problem, mode="full"))

    def parts(self, plan: Plan) -> tuple[Part, ...]:
        """What every item passes, in order."""
        return _parts(self.problem, plan, self.crossings)

    def first(self, plan: Plan) -> tuple[Part, ...]:
        """The same for the first item, when every hop carries keys, and every stage computes all of it."""
        return _parts(self.problem, plan, self._keys, first=True)

    def cost(self, plan: Plan) -> Cost:
        """The cost of a legal plan; see `why_not`."""
        first = sum(part.seconds + part.latency for part in self.first(plan))
        return Cost(self.parts(plan), first, _weights(self.problem, plan), self.problem.in_flight)


def work_of(problem: Problem, variant: int) -> tuple[Floats, float]:
    """Seconds (nodes,) of each layer, and of each element that a stage takes and gives, in a variant of a machine."""
    worker, partial = problem.variants[variant]
    machine = problem.machines[worker]
    if not partial or machine.changed is None:
        return machine.seconds, 0.0
    changed = machine.changed.times(machine.changed.mean if problem.objective == "throughput" else 1.0)
    return changed.seconds, changed.passing


def _parts(problem: Problem, plan: Plan, crossings: Crossings, *, first: bool = False) -> tuple[Part, ...]:
    edges = plan.edges(problem.graph)
    numbers = [0]
    for stage in plan.stages:
        if (worker := problem.index(stage.worker)) is not None:
            numbers.append(problem.variants.index((worker, problem.partial_stage(stage))) + 1)
    way = list(problem.inputs).index(plan.input)
    parts: list[Part] = []
    for k, (sender, receiver) in enumerate(zip(numbers, [*numbers[1:], 0], strict=True)):
        what = Table(*(part[way, 0, receiver] for part in crossings.inputs))
        parts += _hop(problem, crossings, crossings.cut(edges[k], sender, receiver) if k else what, sender, receiver)
        if receiver:
            machine, nodes = problem.machines[problem.variants[receiver - 1][0]], list(plan.stages[k].nodes)
            layers, passing = (machine.seconds, 0.0) if first else work_of(problem, receiver - 1)
            passed = sum(problem.elements[name] for hop in edges[k : k + 2] for name in hop) if passing else 0
            seconds = float(layers[nodes].sum()) + machine.overhead + passing * passed
            parts.append(Part("compute", machine.name, seconds))
    return tuple(parts)


def _hop(problem: Problem, crossings: Crossings, what: Table, sender: int, receiver: int) -> tuple[Part, Part, Part]:
    names = [COORDINATOR, *(problem.machines[worker].name for worker, _ in problem.variants)]
    here, there = names[sender], names[receiver]
    return (
        Part("encode", here, float(what.encode)),
        Part("link", here, float(what.wire), float(crossings.latency[sender, receiver]), float(what.nbytes), there),
        Part("decode", there, float(what.decode)),
    )


def _weights(problem: Problem, plan: Plan) -> float:
    """Seconds to send what is missing: the coordinator sends to one worker after the other."""
    seconds = 0.0
    for stage in plan.stages:
        i = problem.index(stage.worker)
        if i is not None and (holds := problem.machines[i].holds) is not None:
            names = problem.graph.weights_of(stage.nodes)
            missing = sum(problem.graph.weights[name].nbytes for name in names if name not in holds)
            way = problem.way(0, i + 1)
            seconds += missing / way.bandwidth + way.latency * (missing > 0)
    return seconds


def why_not(problem: Problem, plan: Plan) -> str | None:
    """Why a plan isn't allowed here: None if it is. Its stages must cover the graph (`Plan.check`)."""
    if plan.input not in problem.inputs:
        return f"inputs can't be sent as {plan.input or 'ordinary payloads'}"
    workers = [problem.index(stage.worker) for stage in plan.stages]
    for stage, worker in zip(plan.stages, workers, strict=True):
        if worker is None:
            return f"{stage.worker} isn't there"
    if workers != sorted(workers, key=lambda worker: worker or 0):
        return "the stages aren't in the order of the workers"
    done: set[int] = set()
    for stage, worker in zip(plan.stages, workers, strict=True):
        before = problem.graph.cut(done)
        done |= set(stage.nodes)
        after = problem.graph.cut(done)
        if problem.uncut.intersection(after.values):
            return f"{stage.worker} can't stop where its stage does: what it would give goes over no link"
        if worker and problem.private.intersection(before.values):
            return f"{stage.worker} would be sent private values, which must stay with {problem.machines[0].name}"
        memory = problem.machines[worker or 0].memory
        if memory is not None:
            needs = stage_memory(problem.graph, stage.nodes, before.nbytes, after.nbytes, problem.items_held)
            if problem.partial_stage(stage):
                needs += held_memory(problem.graph, stage.nodes, before.nbytes)
            if needs > memory:
                return f"{stage.worker} needs {needs / 1e6:,.0f} MB of memory and may use {memory / 1e6:,.0f}"
    return None


def choose(problem: Problem, costs: Sequence[Cost]) -> int:
    """The number of the best. Raises ValueError without any."""
    ranks = [rank(problem, cost) for cost in costs]
    best = min(ranks)
    if problem.objective == "throughput":
        enough = best[0] * (1 + problem.slack)
        return min((latency, i) for i, (period, latency) in enumerate(ranks) if period <= enough)[1]
    return ranks.index(best)


def rank(problem: Problem, cost: Cost) -> tuple[float, float]:
    """What is to be small, first things first."""
    period, latency = cost.period, cost.latency
    if problem.objective == "throughput":
        return period, latency
    if problem.rate is not None:
        return max(period, 1 / problem.rate), latency
    return latency, period


def per_item(problem: Problem, cost: Cost) -> float:
    """Seconds of an item as the objective counts them: between items, or its latency; where the plan can't keep up with
    the rate, the latency that it has when all items in flight wait.
    """
    if problem.objective == "throughput":
        return cost.period
    if problem.rate is not None and cost.period * problem.rate > 1 + 1e-9:
        return max(cost.latency, max(problem.in_flight, 1) * cost.period)
    return cost.latency

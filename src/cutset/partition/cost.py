"""What a plan costs: the one model that planners, simulator and predictions share.

A picture that passes alone takes the sum of: encoding at the sender, the link's latency, bytes over its bandwidth and
decoding at the receiver, for each hop of the plan and for the result's way back; and the layers of each stage. With
several pictures on their way, a worker decodes, computes and encodes different pictures at the same time, so the time
between pictures is that of the slowest part (a link, or one of those three), or a picture's time over their number
where that is longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cutset.partition.crossing import Crossings, Table
from cutset.partition.hop import path
from cutset.partition.memory import stage_memory
from cutset.partition.plan import COORDINATOR, Plan
from cutset.partition.problem import Problem

__all__ = ["Cost", "Model", "Part", "choose", "rank", "why_not"]

PartKind = Literal["encode", "link", "decode", "compute"]


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of work on every picture, done by one party (or link) for one picture at a time."""

    kind: PartKind
    party: str  # who does it; of a link: who sends
    seconds: float  # for which it is busy
    latency: float = 0.0  # seconds that pass after it before the next part, and in which it can do other work
    nbytes: float = 0.0  # sent
    to: str = ""  # of a link: who receives

    @property
    def name(self) -> str:
        return f"link {self.party} → {self.to}" if self.kind == "link" else f"{self.kind} on {self.party}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one picture in the steady state, and of the first. Seconds and bytes."""

    parts: tuple[Part, ...]  # in the order in which a picture passes them
    first: float  # the first picture: keys on every hop; without the weights
    weights: float  # until every worker has what it lacks of its layers' weights
    in_flight: int

    @property
    def latency(self) -> float:
        """Of a picture that passes alone."""
        return sum(part.seconds + part.latency for part in self.parts)

    @property
    def slowest(self) -> Part:
        return max(self.parts, key=lambda part: part.seconds)

    @property
    def period(self) -> float:
        """Seconds between pictures when there is always one waiting."""
        share = self.latency / self.in_flight if self.in_flight else 0.0
        return max(self.slowest.seconds, share)

    @property
    def loaded(self) -> float:
        """Latency when as many pictures as allowed are always on their way."""
        return max(self.latency, self.in_flight * self.period) if self.in_flight else math.inf

    @property
    def nbytes(self) -> float:
        """Sent between all parties."""
        return sum(part.nbytes for part in self.parts)

    def total(self, kind: PartKind) -> float:
        """Seconds of one picture in parts of a kind, with the links' latency."""
        return sum(part.seconds + part.latency for part in self.parts if part.kind == kind)


class Model:
    """The costs of a problem's plans. The tables that all of them need are made once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.crossings = Crossings(problem)
        self._keys = self.crossings if problem.mode == "full" else Crossings(replace(problem, mode="full"))

    def parts(self, plan: Plan) -> tuple[Part, ...]:
        """What every picture passes, in order."""
        return _parts(self.problem, plan, self.crossings)

    def first(self, plan: Plan) -> tuple[Part, ...]:
        """The same for the first picture, when every hop carries keys."""
        return _parts(self.problem, plan, self._keys)

    def cost(self, plan: Plan) -> Cost:
        """The cost of a legal plan; see `why_not`."""
        first = sum(part.seconds + part.latency for part in self.first(plan))
        return Cost(self.parts(plan), first, _weights(self.problem, plan), self.problem.in_flight)


def _parts(problem: Problem, plan: Plan, crossings: Crossings) -> tuple[Part, ...]:
    edges = plan.edges(problem.graph)
    workers = [problem.index(stage.worker) for stage in plan.stages]
    numbers = [0, *(worker + 1 for worker in workers if worker is not None)]
    cuts = crossings.cuts(edges)
    form = list(problem.pictures).index(plan.picture)
    parts: list[Part] = []
    for k, (sender, receiver) in enumerate(zip(numbers, [*numbers[1:], 0], strict=True)):
        table, row = (crossings.forms, form) if k == 0 else (cuts, k)
        parts += _hop(problem, crossings, table, (row, sender, receiver))
        if receiver:
            machine, nodes = problem.machines[receiver - 1], list(plan.stages[k].nodes)
            seconds = float(machine.seconds[nodes].sum()) + machine.overhead
            parts.append(Part("compute", machine.name, seconds))
    return tuple(parts)


def _hop(problem: Problem, crossings: Crossings, table: Table, at: tuple[int, int, int]) -> tuple[Part, Part, Part]:
    _, sender, receiver = at
    names = [COORDINATOR, *(machine.name for machine in problem.machines)]
    here, there = names[sender], names[receiver]
    return (
        Part("encode", here, float(table.encode[at])),
        Part(
            "link",
            here,
            float(table.wire[at]),
            float(crossings.latency[sender, receiver]),
            float(table.nbytes[at]),
            there,
        ),
        Part("decode", there, float(table.decode[at])),
    )


def _weights(problem: Problem, plan: Plan) -> float:
    """Seconds to send what is missing: the coordinator sends to one worker after the other."""
    seconds = 0.0
    for stage in plan.stages:
        i = problem.index(stage.worker)
        if i is not None and (holds := problem.machines[i].holds) is not None:
            names = problem.graph.weights_of(stage.nodes)
            missing = sum(problem.graph.weights[name].nbytes for name in names if name not in holds)
            way = path(problem.hops, 0, i + 1)
            seconds += missing / way.bandwidth + way.latency * (missing > 0)
    return seconds


def why_not(problem: Problem, plan: Plan) -> str | None:
    """Why a plan isn't allowed here: None if it is. Its stages must cover the graph (`Plan.check`)."""
    if plan.picture not in problem.pictures:
        return f"pictures can't be sent as {plan.picture}"
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
        if problem.pictures_stay:
            if len(done) == len(stage.nodes) and worker != 0:
                return "the picture would leave the first worker"
            if len(done) < len(problem.graph.nodes) and problem.picture_like.intersection(after.values):
                return "what is sent on would show the picture"
        memory = problem.machines[worker or 0].memory
        if memory is not None:
            needs = stage_memory(problem.graph, stage.nodes, before.nbytes, after.nbytes, problem.in_flight)
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

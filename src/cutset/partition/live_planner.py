"""The planner of a run: holds what was measured so far, and says which plan to use now.

The run reports what it sees (`report`, `hop`, `holds`, `memory`) and asks it by calling it: at the start, when a
worker is lost or back, and now and then. The answer is the plan that runs already unless another is worth the switch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import RLock
from typing import Protocol

from cutset.errors import ConfigError
from cutset.partition.cost import Cost, CostModel, per_item, why_not
from cutset.partition.estimates import Line
from cutset.partition.hop import Hop
from cutset.partition.observed import Observed, Stale
from cutset.partition.plan import COORDINATOR, Plan
from cutset.partition.problem import Problem
from cutset.partition.schedulers import PlanScheduler, scheduler
from cutset.partition.traffic import Traffic

__all__ = ["Computed", "Crossed", "Decision", "LivePlanner", "Policy", "StageReport", "decide", "same"]

CHANGED = ("what changed alone",)  # among what gets another chance, beside the names of workers and numbers of links


@dataclass(frozen=True, slots=True)
class Policy:
    """How much better a plan must be, and how often it must have been seen to be."""

    margin: float = 0.1  # share of an item's time that must be gained
    horizon: int = 300  # items within which a switch must have paid for itself
    patience: int = 3  # looks in a row; 1 switches at once


@dataclass(frozen=True, slots=True)
class Decision:
    """What a comparison of two plans came to. Seconds."""

    better: bool  # the candidate is worth a switch
    now: float  # an item under the current plan; infinite if that isn't possible any more
    then: float  # an item under the candidate
    switch: float  # once: weights and keys to send
    why: str


class Computed(Protocol):
    """A piece of work on an item, by the party's own clock in seconds; `kind` is "compute" for the stage's layers."""

    @property
    def kind(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


class Crossed(Protocol):
    """What one value's payload cost: bytes, and seconds of the party that reports.

    `kind` is "key" or "delta"; anything else was no payload of the value, and is left out.
    """

    @property
    def edge(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def encode_seconds(self) -> float: ...
    @property
    def decode_seconds(self) -> float: ...


class StageReport(Protocol):
    """What a party did for one item: the part of a run's reports that plans depend on."""

    @property
    def party(self) -> str: ...
    @property
    def spans(self) -> Sequence[Computed]: ...
    @property
    def received(self) -> Sequence[Crossed]: ...
    @property
    def edges(self) -> Sequence[Crossed]:
        """The values that the party sent."""

    @property
    def layer_seconds(self) -> Sequence[float] | None:
        """Of each node of its stage, where they were timed."""

    @property
    def shares(self) -> Sequence[float] | None:
        """Of each node of a stage that computes what changed alone, what share of its output was computed."""


class LivePlanner:
    """Plans again and again, for the workers that are there, by what was measured until then. Any thread may call.

    `problem` has every worker that could take part and what is known of it at the start; `who` is the scheduler or its
    name. `forecast` gives the traffic that the items of now will cause, from that which was known at the start.
    Workers and the coordinator are named as in plans.
    """

    def __init__(
        self,
        problem: Problem,
        who: PlanScheduler | str = "optimal",
        policy: Policy | None = None,
        forecast: Callable[[Mapping[str, Traffic]], Mapping[str, Traffic]] | None = None,
    ) -> None:
        self.start = problem
        self.policy = policy or Policy()
        self.current: Plan | None = None
        self.decision: Decision | None = None
        self.line = Line(problem.hops)
        self.observed = Observed(problem)
        self._forecast = forecast
        self._who = scheduler(who) if isinstance(who, str) else who
        self._party = {COORDINATOR: 0} | {machine.name: i + 1 for i, machine in enumerate(problem.machines)}
        self._better = 0  # looks in a row in which another plan was worth a switch
        self._why = ""
        self._stale = Stale()
        self._passed: tuple[Plan, dict[str, float]] | None = None  # elements that each stage takes and gives
        self._lock = RLock()  # reports come from another thread than questions

    def layers(self, worker: str, nodes: Sequence[int], seconds: Sequence[float]) -> None:
        """A worker took so long for each of these nodes, for one item."""
        with self._lock:
            self.observed.layers(worker, nodes, seconds)

    def stage(self, worker: str, nodes: Sequence[int], seconds: float) -> None:
        """A worker took so long for all of these nodes, for one item: it may be faster or slower than thought."""
        with self._lock:
            self.observed.stage(worker, nodes, seconds)

    def hop(self, sender: str, receiver: str, seen: Hop) -> None:
        """What a connection is now estimated to carry; see `estimates`."""
        if sender in self._party and receiver in self._party:
            with self._lock:
                self.line.learn(self._party[sender], self._party[receiver], seen)

    def payload(
        self,
        value: str,
        kind: str,
        nbytes: int,
        *,
        sender: str = "",
        encode: float = 0.0,
        receiver: str = "",
        decode: float = 0.0,
        partial: bool = False,
    ) -> None:
        """A value was sent with so many bytes; encoding and decoding took so many seconds, where that is known.

        `partial`: by a stage that computed what changed alone.
        """
        with self._lock:
            self.observed.payload(value, kind, nbytes, partial=partial)
            self.observed.codec(sender, value, kind, "encode", encode)
            self.observed.codec(receiver, value, kind, "decode", decode)

    def report(self, report: StageReport, plan: Plan) -> None:
        """Takes a party's report of an item under that plan: its layers, and the values that it sent and took."""
        party, stages = report.party, {stage.worker: stage.nodes for stage in plan.stages}
        if party != COORDINATOR and party not in stages:
            return
        partial, dense = self._partial(party, plan), report.shares is not None and min(report.shares, default=1.0) >= 1
        if nodes := stages.get(party):
            if partial:
                seconds = sum(span.end - span.start for span in report.spans if span.kind == "compute")
                with self._lock:
                    self.observed.partial(party, nodes, self._passes(plan)[party], seconds, dense=dense)
            elif report.layer_seconds is not None and len(report.layer_seconds) == len(nodes):
                self.layers(party, nodes, report.layer_seconds)
            else:
                self.stage(party, nodes, sum(span.end - span.start for span in report.spans if span.kind == "compute"))
        for one in report.edges:
            self.payload(
                one.edge,
                one.kind,
                one.nbytes,
                sender=party,
                encode=one.encode_seconds,
                partial=partial and not dense,
            )
        with self._lock:
            for one in report.received:
                self.observed.codec(party, one.edge, one.kind, "decode", one.decode_seconds)

    def _partial(self, worker: str, plan: Plan) -> bool:
        """Whether that worker's stage computes what changed alone."""
        return any(self.start.partial_stage(stage) for stage in plan.stages if stage.worker == worker)

    def _passes(self, plan: Plan) -> dict[str, float]:
        """Elements of all values that each worker's stage takes and gives."""
        if self._passed is None or self._passed[0] is not plan:
            sizes = self.start.elements
            hops = [sum(sizes[name] for name in names) for names in plan.edges(self.start.graph)]
            passed = {stage.worker: float(a + b) for stage, (a, b) in zip(plan.stages, pairwise(hops), strict=True)}
            self._passed = plan, passed
        return self._passed[1]

    def holds(self, worker: str, weights: Collection[str]) -> None:
        """A worker has these weights: they needn't be sent."""
        with self._lock:
            self.observed.holds[worker] = frozenset(weights)

    def memory(self, worker: str, nbytes: int) -> None:
        """A worker says how many bytes it may use, 0 for no limit of its own."""
        with self._lock:
            self.observed.memory[worker] = nbytes

    def problem(self, alive: Collection[str] | None = None) -> Problem:
        """The problem as it is known now, for the workers that are there (all without `alive`)."""
        foreseen = self._forecast(self.start.traffic) if self._forecast else None
        with self._lock:
            machines, traffic, hops = self.observed.machines(), self.observed.traffic(foreseen), self.line.hops
            partial = self.observed.partial_traffic()
        now = replace(self.start, machines=machines, traffic=traffic, partial=partial, hops=hops)
        return now if alive is None else now.among(alive)

    def __call__(self, alive: Collection[str], why: str) -> Plan:
        """The plan to use now. Raises ConfigError where no plan is possible with these workers."""
        self._forget(alive)
        model = CostModel(self.problem(alive))
        self._why = why
        candidate = self._candidate(model)
        if self.current is None:
            self.current, self.decision, self._better = candidate, None, 0
            return candidate
        self.decision = decide(model, self.current, candidate, self.policy)
        self._better = self._better + 1 if self.decision.better else 0
        if self._better >= self.policy.patience or self.decision.now == float("inf"):
            self.current, self._better = candidate, 0
        return self.current

    def _forget(self, alive: Collection[str]) -> None:
        """Workers, links and delta compute that looked bad and haven't been used since get another chance, ever more
        seldom."""
        if self.current is None:
            return
        pairs = self._connections(self.current)
        used: set[Hashable] = {k for i, j in pairs for k in range(min(i, j), max(i, j))}
        used |= {stage.worker for stage in self.current.stages}
        used |= {CHANGED for stage in self.current.stages if self.start.partial_stage(stage)}
        with self._lock:
            for thing in self._stale.look([*alive, *range(len(self.line.hops)), CHANGED], used):
                if thing is CHANGED:
                    self.observed.forget_changed()
                elif isinstance(thing, int):
                    self.line.restore(thing)
                elif isinstance(thing, str):
                    self.observed.forget(thing)

    def look(self, alive: Collection[str], why: str = "what was measured since") -> Plan | None:
        """Another plan, if one is worth the switch now; None: go on. To be called now and then."""
        before = self.current
        plan = self(alive, why)
        return None if before is not None and same(plan, before) else plan

    def _candidate(self, model: CostModel) -> Plan:
        try:
            return self._who.plan(model.problem, model)
        except ConfigError:
            if self._who.name == "optimal":
                raise
            # A baseline that has no plan for who is left: the run goes on.
            return scheduler("optimal").plan(model.problem, model)

    def _connections(self, plan: Plan) -> list[tuple[int, int]]:
        parties = [0, *(self._party[stage.worker] for stage in plan.stages), 0]
        return list(pairwise(parties))

    def cost(self, plan: Plan | None = None) -> Cost:
        """What a plan (the current one without) costs, as known now. Raises ConfigError before the first plan."""
        plan = plan or self.current
        if plan is None:
            raise ConfigError("there is no plan yet")
        return CostModel(self.problem()).cost(plan)

    def explain(self) -> str:
        """One line: why the current plan is the current one."""
        if self.current is None:
            return "no plan yet"
        stages = " → ".join(f"{s.worker} {len(s.nodes)} layers" for s in self.current.stages)
        how = ", ".join(word for word in (self.current.input, self.current.scheduler) if word)
        text = f"{stages} ({how})" if how else stages
        cause = f"; {self._why}" if self._why else ""
        return f"{text}{cause}" if self.decision is None else f"{text}{cause}: {self.decision.why}"


def decide(model: CostModel, current: Plan, candidate: Plan, policy: Policy) -> Decision:
    """Compares the plan that runs with another one of the same problem."""
    problem = model.problem
    then = model.cost(candidate)
    after = per_item(problem, then)
    switch = then.weights + max(then.first - then.latency, 0.0)
    if reason := why_not(problem, current):
        return Decision(True, float("inf"), after, switch, f"the current plan is over: {reason}")
    before = per_item(problem, model.cost(current))
    if same(current, candidate):
        return Decision(False, before, after, 0.0, f"{_ms(before)} an item; no plan is better")
    gain = before - after
    text = f"{_ms(before)} an item now, {_ms(after)} with another plan"
    if gain <= policy.margin * before:
        return Decision(False, before, after, switch, f"{text}: less than {policy.margin:.0%} to gain")
    if gain * policy.horizon <= switch * (1 + policy.margin):
        return Decision(False, before, after, switch, f"{text}, but {_ms(switch)} to switch")
    items = math.ceil(switch / gain)
    worth = f"{_ms(switch)}, which {items} items win back" if items > 1 else f"{_ms(switch)}"
    return Decision(True, before, after, switch, f"{text}; the switch takes {worth}")


def same(a: Plan, b: Plan) -> bool:
    """Whether they do the same, whoever made them."""
    return (a.stages, a.input) == (b.stages, b.input)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"

"""The planner of a run: holds what was measured so far, and says which plan to use now.

The run tells it what it sees (`layers`, `stage`, `hop`, `payload`) and asks it by calling it: at the start, when a
worker is lost or back, and now and then. The answer is the plan that runs already unless another is worth the switch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from threading import RLock
from typing import Literal

from cutset.cluster.messages import Report
from cutset.errors import ConfigError
from cutset.partition.cost import Cost, Model
from cutset.partition.line import Line
from cutset.partition.links import Hop
from cutset.partition.observed import Observed
from cutset.partition.plan import COORDINATOR, Plan
from cutset.partition.problem import Problem
from cutset.partition.replan import Decision, Policy, decide, same
from cutset.partition.schedulers import Scheduler, scheduler
from cutset.partition.stale import Stale
from cutset.partition.traffic import Traffic

__all__ = ["LivePlanner"]


class LivePlanner:
    """Plans again and again, for the workers that are there, by what was measured until then. Any thread may call.

    `problem` has every worker that could take part and what is known of it at the start; `who` is the scheduler or its
    name. `forecast` gives the traffic that the pictures of now will cause, from that which was known at the start, as
    `sparsity.Forecast.traffic` does. Workers and the coordinator are named as in plans.
    """

    def __init__(
        self,
        problem: Problem,
        who: Scheduler | str = "optimal",
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
        self._lock = RLock()  # reports come from another thread than questions

    def layers(self, worker: str, nodes: Sequence[int], seconds: Sequence[float]) -> None:
        """A worker took so long for each of these nodes, for one picture."""
        with self._lock:
            self.observed.layers(worker, nodes, seconds)

    def stage(self, worker: str, nodes: Sequence[int], seconds: float) -> None:
        """A worker took so long for all of these nodes, for one picture: it may be faster or slower than thought."""
        with self._lock:
            self.observed.stage(worker, nodes, seconds)

    def hop(self, sender: str, receiver: str, seen: Hop) -> None:
        """What a connection is now estimated to carry; see `coordinator.links`."""
        if sender in self._party and receiver in self._party:
            with self._lock:
                self.line.learn(self._party[sender], self._party[receiver], seen)

    def payload(
        self,
        value: str,
        kind: Literal["key", "delta"],
        nbytes: int,
        *,
        sender: str = "",
        encode: float = 0.0,
        receiver: str = "",
        decode: float = 0.0,
    ) -> None:
        """A value was sent with so many bytes; encoding and decoding took so many seconds, where that is known."""
        with self._lock:
            self.observed.payload(value, kind, nbytes)
            self.observed.codec(sender, value, kind, "encode", encode)
            self.observed.codec(receiver, value, kind, "decode", decode)

    def report(self, report: Report, plan: Plan) -> None:
        """Takes a party's report of a picture under that plan: its layers, and the values that it sent and took."""
        party, stages = report.party, {stage.worker: stage.nodes for stage in plan.stages}
        if party != COORDINATOR and party not in stages:
            return
        if nodes := stages.get(party):
            if report.layer_seconds is not None and len(report.layer_seconds) == len(nodes):
                self.layers(party, nodes, report.layer_seconds)
            else:
                self.stage(party, nodes, sum(span.end - span.start for span in report.spans if span.kind == "compute"))
        for one in report.edges:
            if one.kind == "key" or one.kind == "delta":
                self.payload(one.edge, one.kind, one.nbytes, sender=party, encode=one.encode_seconds)
        for one in report.received:
            if one.kind == "key" or one.kind == "delta":
                with self._lock:
                    self.observed.codec(party, one.edge, one.kind, "decode", one.decode_seconds)

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
        now = replace(self.start, machines=machines, traffic=traffic, hops=hops)
        return now if alive is None else now.among(alive)

    def __call__(self, alive: Collection[str], why: str) -> Plan:
        """The plan to use now. Raises ConfigError where no plan is possible with these workers."""
        self._forget(alive)
        model = Model(self.problem(alive))
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
        """Workers and links that looked bad and haven't been used since get another chance, ever more seldom."""
        if self.current is None:
            return
        pairs = self._connections(self.current)
        used = {k for i, j in pairs for k in range(min(i, j), max(i, j))} | {s.worker for s in self.current.stages}
        with self._lock:
            for thing in self._stale.look([*alive, *range(len(self.line.hops))], used):
                if isinstance(thing, int):
                    self.line.restore(thing)
                elif isinstance(thing, str):
                    self.observed.forget(thing)

    def look(self, alive: Collection[str], why: str = "what was measured since") -> Plan | None:
        """Another plan, if one is worth the switch now; None: go on. To be called now and then."""
        before = self.current
        plan = self(alive, why)
        return None if before is not None and same(plan, before) else plan

    def _candidate(self, model: Model) -> Plan:
        try:
            return self._who.plan(model.problem, model)
        except ConfigError:
            if self._who.name == "optimal":
                raise
            # A baseline that has no plan for who is left: the pictures go on.
            return scheduler("optimal").plan(model.problem, model)

    def _connections(self, plan: Plan) -> list[tuple[int, int]]:
        parties = [0, *(self._party[stage.worker] for stage in plan.stages), 0]
        return list(pairwise(parties))

    def cost(self, plan: Plan | None = None) -> Cost:
        """What a plan (the current one without) costs, as known now. Raises ConfigError before the first plan."""
        plan = plan or self.current
        if plan is None:
            raise ConfigError("there is no plan yet")
        return Model(self.problem()).cost(plan)

    def explain(self) -> str:
        """One line: why the current plan is the current one."""
        if self.current is None:
            return "no plan yet"
        stages = " → ".join(f"{s.worker} {len(s.nodes)} layers" for s in self.current.stages)
        text = f"{stages} ({self.current.picture}, {self.current.scheduler})"
        cause = f"; {self._why}" if self._why else ""
        return f"{text}{cause}" if self.decision is None else f"{text}{cause}: {self.decision.why}"

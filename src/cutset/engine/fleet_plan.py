"""Many machines serve a decoder in groups of stages: how large groups are, what they do, and what breaks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.engine.fleet_scenario import MOST_REQUESTS, FleetServing
from cutset.engine.fleet_simulation import FailureRun, FleetGroup, FleetRun, run_failures, run_fleet
from cutset.engine.stage_planner import Division, StageMachine, StagePlanner
from cutset.errors import ConfigError
from cutset.partition.mesh import Mesh

__all__ = ["FleetPlan", "Limit", "plan_fleet"]

MOST_STAGES = 24  # of a group that are tried
LEAST = 2000  # requests
WORTH = 0.02  # a larger group must serve so much more


@dataclass(frozen=True)
class Limit:
    """Something that there is only so much of. `times`: the load that it would bear, in times of what is asked."""

    name: str
    times: float
    why: str


@dataclass(frozen=True, eq=False)
class FleetPlan:
    """Groups of the same number of stages, and what they did."""

    division: Division  # of one group
    group: FleetGroup
    groups: int
    machines: int  # of all, spares included
    left_over: int  # machines that no group and no spare needs
    serving: FleetServing
    run: FleetRun
    failures: FailureRun

    @property
    def capacity(self) -> float:
        """Tokens a second of all groups while no machine fails; a prompt takes the time of so many tokens."""
        tokens = self.serving.answer
        return self.groups * self.group.rate * tokens / (tokens - 1 + self.group.first / self.group.token)

    @property
    def served(self) -> float:
        """Tokens a second."""
        return self.run.served(self.serving.answer)

    @property
    def hit(self) -> float:
        """Share of the requests in whose time their group stands still."""
        if not self.failures.failures:
            return 0.0
        seconds = float(np.nanmean(self.run.whole - self.run.waited))
        return seconds * self.failures.failures / self.failures.seconds / self.groups

    @property
    def asked(self) -> float:
        """Tokens a second."""
        return self.serving.requests * self.serving.answer

    @property
    def nbytes(self) -> float:
        """Between the parties of a group, of one token."""
        sequences = max(self.group.slots / self.division.depth, 1)
        return self.division.cost.nbytes / sequences

    @property
    def hourly(self) -> float:
        """Cost of all machines for an hour."""
        return self.machines * self.serving.cost

    def limits(self) -> list[Limit]:
        """What breaks first comes first."""
        slow = self.division.cost.slowest
        found = [
            Limit(
                f"{slow.name}",
                self.capacity * self.failures.up / self.asked,
                f"the slowest part of a group, {slow.seconds * 1e3:,.2f} ms a step",
            )
        ]
        links = [part for part in self.division.cost.parts if part.kind == "link" and part.seconds]
        if links:
            busy = max(links, key=lambda part: part.seconds)
            share = busy.seconds / self.division.cost.period * self.asked / self.capacity
            found.append(Limit(busy.name, 1 / max(share, 1e-9), f"busy {share:.1%} of the time"))
        seconds = float(np.nanmean(self.run.whole - self.run.waited))
        held = self.serving.requests * seconds
        places = self.groups * self.group.slots
        found.append(Limit("places for sequences", places / held, f"{held:,.0f} of {places:,} are taken at a time"))
        if self.serving.mtbf:
            away = self.groups * self.group.machines * self.serving.restart / self.serving.mtbf
            text = f"{away:,.1f} machines are away at a time, and {self.serving.spares} stand by"
            found.append(Limit("spares", self.serving.spares / away, text))
        return sorted(found, key=lambda one: one.times)

    def percentiles(self) -> dict[str, float]:
        """Seconds from a request to its last token."""
        return {f"p{at}": float(np.nanpercentile(self.run.whole, at)) for at in (50, 95, 99)}

    def document(self) -> dict[str, Any]:
        """All of it for a file."""
        run = self.run
        return {
            "groups": self.groups,
            "stages": self.group.machines,
            "machines": self.machines,
            "left_over": self.left_over,
            "spares": self.serving.spares,
            "token": self.group.token,
            "first": self.group.first,
            "capacity": self.capacity,
            "asked": self.asked,
            "served": self.served,
            "latency": self.percentiles(),
            "waited_p99": float(np.nanpercentile(run.waited, 99)),
            "failures": self.failures.failures,
            "failures_seconds": self.failures.seconds,
            "by_spare": self.failures.by_spare,
            "up": self.failures.up,
            "outage": self.failures.outage,
            "down_at_once": self.failures.worst,
            "requests_hit": self.hit,
            "computed_again": run.again,
            "bytes_a_token": self.nbytes,
            "bytes_a_second": self.nbytes * self.asked,
            "cost_an_hour": self.hourly,
            "limits": [{"name": one.name, "times": one.times, "why": one.why} for one in self.limits()],
        }


def plan_fleet(planner: StagePlanner, machines: Sequence[StageMachine], mesh: Mesh, serving: FleetServing) -> FleetPlan:
    """The size of groups that serves most; of those that serve nearly as much, the smallest.

    The machines must be alike. Raises ConfigError where they aren't, or too few for one group.
    """
    first = machines[0]
    if any((one.room, one.speed, one.times) != (first.room, first.speed, first.times) for one in machines):
        raise ConfigError("[serving] is for machines that are alike: give one [[worker]] with its count")
    left = len(machines) - serving.spares
    sizes = [serving.stages] if serving.stages else list(range(1, min(left, MOST_STAGES) + 1))
    best: tuple[float, int, Division] | None = None
    refused = ""
    for size in sizes:
        if size > left:
            break
        try:
            division = planner.divide(machines[:size], mesh.among(range(size + 1)), all_of_them=True)
        except ConfigError as error:
            refused = str(error)
            continue
        if division.refused or len(division.plan.stages) != size:
            refused = division.refused or f"{size} machines can't have a layer each"
            continue
        serves = left // size * division.rate
        if best is None or serves > best[0] * (1 + WORTH):
            best = serves, size, division
    if best is None:
        raise ConfigError(refused or f"{len(machines)} machines with {serving.spares} spares leave none for a group")
    _, size, division = best
    largest = max(planner.graph.weight_bytes(stage.nodes) for stage in division.plan.stages)
    slowest = min(mesh.way(0, number).bandwidth for number in range(1, size + 1))
    group = FleetGroup(
        size,
        planner.load.sequences,
        division.token,
        division.first * serving.prompt / max(planner.load.context // 2, 1),
        division.rate,
        largest / slowest,
    )
    groups = left // size
    if not serving.count:
        takes = group.first + serving.answer * max(group.token, group.slots / group.rate)
        serving = replace(serving, count=min(max(LEAST, round(10 * takes * serving.requests)), MOST_REQUESTS))
    run, failures = run_fleet(group, groups, serving), run_failures(group, groups, serving)
    return FleetPlan(division, group, groups, len(machines), left - groups * size, serving, run, failures)

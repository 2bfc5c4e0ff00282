"""What a planner is asked: a graph, machines on a line, what crosses between them, and what counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop, path
from cutset.partition.mesh import Mesh, line
from cutset.partition.node import ITEM_BYTES
from cutset.partition.plan import StagePlan
from cutset.partition.traffic import Mode, Traffic

__all__ = ["ChangedWork", "Machine", "Objective", "Problem", "scaled"]

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True, eq=False)
class ChangedWork:
    """What a machine takes for stages that compute what changed alone (delta compute). Seconds."""

    seconds: NDArray[np.float64]  # (nodes,) of each layer, for a typical item
    passing: float = 0.0  # of each element of the values that a stage takes and gives: compared, and copied
    mean: float = 1.0  # all items together take so many times what as many typical ones would

    def check(self, nodes: int, name: str) -> None:
        """Raises ConfigError for what can't be."""
        if self.seconds.shape != (nodes,):
            raise ConfigError(
                f"{name} has times of what changed for {self.seconds.size} layers, the graph has {nodes}; they are of "
                "another model"
            )
        if not all(math.isfinite(t) and t >= 0 for t in (*self.seconds, self.passing, self.mean)):
            raise ConfigError(f"{name}: times of what changed must be finite and not below 0")

    def times(self, factor: float) -> ChangedWork:
        """The same work where all of it takes that many times as long."""
        return replace(self, seconds=self.seconds * factor, passing=self.passing * factor)


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A worker as planners see it. Times are seconds."""

    name: str
    seconds: NDArray[np.float64]  # (nodes,) of each layer, in the graph's order
    memory: int | None = None  # bytes for weights and values; None: no limit
    codec: float = 1.0  # encoding and decoding take so many times what `Traffic` says
    overhead: float = 0.0  # of an item that passes this machine, beside its layers and payloads
    holds: frozenset[str] | None = None  # weights that needn't be sent to it; None: all of them
    changed: ChangedWork | None = None  # None: its stages compute all of every item

    def check(self, nodes: int) -> None:
        """Raises ConfigError for what no machine can be."""
        if self.seconds.shape != (nodes,):
            raise ConfigError(
                f"{self.name} has times for {self.seconds.size} layers, the graph has {nodes}; "
                "its profile is of another model"
            )
        times = (*self.seconds, self.codec, self.overhead)
        if not all(math.isfinite(t) and t >= 0 for t in times):
            raise ConfigError(f"{self.name}: times must be finite and not below 0")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"{self.name}: its memory must be above 0 bytes, not {self.memory}")
        if self.changed is not None:
            self.changed.check(nodes, self.name)


def scaled(machine: Machine, speed: float) -> Machine:
    """The machine at `speed` times the speed. Raises ConfigError unless that is above 0."""
    if not 0 < speed < math.inf:
        raise ConfigError(f"{machine.name}: a speed must be above 0, as 0.125 for an eighth, not {speed:g}")
    return replace(
        machine,
        seconds=machine.seconds / speed,
        codec=machine.codec / speed,
        overhead=machine.overhead / speed,
        changed=None if machine.changed is None else machine.changed.times(1 / speed),
    )


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a plan's cost depends on. Parties are on a line: 0 is the coordinator, worker i is party i + 1.

    `latency` wants the least time of an item that passes alone, among the plans that keep up with `rate`;
    `throughput` wants the least time between items with `in_flight` of them on their way; among the plans that come
    within `slack` of that, the least latency.
    """

    graph: Graph
    digest: str  # of the graph
    machines: tuple[Machine, ...]  # the workers, in the order of the line
    hops: tuple[Hop, ...]  # hop i leads from party i to party i + 1
    traffic: Mapping[str, Traffic]  # of every value, by its name
    inputs: Mapping[str, Traffic]  # how items may reach the first stage, by `Plan.input`
    objective: Objective = "latency"
    in_flight: int = 1  # items on their way at once; 0: as many as there is use for
    rate: float | None = None  # items a second that come; None: as soon as there is room
    mode: Mode = "delta"
    horizon: float = math.inf  # items for which a plan stays; keys are spread over them
    private: frozenset[str] = frozenset()  # values that no worker but the first may be sent
    uncut: frozenset[str] = frozenset()  # values that no link may carry
    mesh: Mesh | None = None  # what lies between all parties, where they aren't on a line; `hops` says nothing then
    held: int | None = None  # items for which workers have memory; None: those in flight
    codec: float = 1.0  # of the coordinator, as a machine's
    slack: float = 0.0  # throughput: times between items that differ by this share count as equal
    # Of values that a stage made or passes on that computes what changed alone: less of them changes then. What is
    # missing is as in `traffic`.
    partial: Mapping[str, Traffic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [machine.name for machine in self.machines]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a plan needs at least one worker, and a name of its own for each")
        if len(self.hops) != len(names) and self.mesh is None:
            raise ConfigError(f"{len(names)} workers need {len(names)} links, one to each; there are {len(self.hops)}")
        if self.mesh is not None and self.mesh.latency.shape != (len(names) + 1,) * 2:
            raise ConfigError(f"{len(names)} workers and the coordinator need a link for each two of them")
        for machine in self.machines:
            machine.check(len(self.graph.nodes))
        if not self.graph.nodes:
            raise ConfigError("the graph has no layers to plan")
        if missing := [name for name in self.graph.values if name not in self.traffic]:
            raise ConfigError(f"there are no sizes for {missing[0]!r}; they are of another model")
        if not self.inputs:
            raise ConfigError("there is no way in which an input could reach the first worker")
        if unknown := (self.private | self.uncut) - set(self.graph.values):
            raise ConfigError(f"the graph has no value {min(unknown)!r} that could stay with the first worker")
        if not 0 <= self.slack < 1:
            raise ConfigError(f"slack is a share below 1, not {self.slack:g}")
        if self.in_flight < 0 or not self.horizon >= 1 or not (self.rate is None or 0 < self.rate < math.inf):
            raise ConfigError("in-flight must be at least 0, a rate above 0, and a horizon at least 1 item")

    @property
    def items_held(self) -> int:
        """Items for which workers have memory."""
        return self.in_flight if self.held is None else self.held

    def way(self, sender: int, receiver: int) -> Hop:
        """The connection of two parties, by their numbers."""
        if self.mesh is None:
            return path(self.hops, sender, receiver)
        return self.mesh.way(sender, receiver)

    @cached_property
    def ways(self) -> Mesh:
        """The connections of all parties."""
        return self.mesh if self.mesh is not None else line(self.hops)

    @cached_property
    def elements(self) -> dict[str, int]:
        """How many numbers each value of the graph has."""
        return {value.name: value.nbytes // ITEM_BYTES[value.dtype] for value in self.graph.values.values()}

    @cached_property
    def variants(self) -> tuple[tuple[int, bool], ...]:
        """Who may compute a stage and how: the number of a machine, and whether it computes what changed alone.

        In the order of the line; a machine that can do either is there twice, dense first.
        """
        ways = ((i, machine.changed is not None) for i, machine in enumerate(self.machines))
        return tuple((i, partial) for i, both in ways for partial in ((False, True) if both else (False,)))

    def partial_stage(self, stage: StagePlan) -> bool:
        """Whether a stage computes what changed alone."""
        worker = self.index(stage.worker)
        return worker is not None and self.machines[worker].changed is not None and not stage.dense

    def stage(self, variant: int, nodes: tuple[int, ...]) -> StagePlan:
        """These nodes on a machine, computed as that variant says."""
        worker, partial = self.variants[variant]
        machine = self.machines[worker]
        return StagePlan(machine.name, nodes, dense=machine.changed is not None and not partial)

    def all_dense(self) -> Problem:
        """The problem in which every stage computes all of every item."""
        return replace(self, machines=tuple(replace(machine, changed=None) for machine in self.machines), partial={})

    def index(self, worker: str) -> int | None:
        """The number of a worker, or None."""
        return next((i for i, machine in enumerate(self.machines) if machine.name == worker), None)

    def among(self, alive: Collection[str]) -> Problem:
        """The problem with these workers alone; a link leads past those that are left out.

        Raises ConfigError where none is left, or where values must stay with a first worker that isn't there.
        """
        left = [i for i, machine in enumerate(self.machines) if machine.name in alive]
        if len(left) == len(self.machines):
            return self
        if not left:
            raise ConfigError("no worker is left to plan for")
        if self.private and left[0] != 0:
            raise ConfigError(
                f"private values must stay with the first worker, {self.machines[0].name}, and it isn't there; "
                "bring it back, or plan without that limit"
            )
        parties = [0, *(i + 1 for i in left)]
        machines = tuple(self.machines[i] for i in left)
        if self.mesh is not None:
            return replace(self, machines=machines, hops=(), mesh=self.mesh.among(parties))
        hops = tuple(path(self.hops, i, j) for i, j in pairwise(parties))
        return replace(self, machines=machines, hops=hops)

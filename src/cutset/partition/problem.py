"""What a planner is asked: a network, machines on a line, what crosses between them, and what counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

from cutset.errors import ConfigError
from cutset.partition.graph import Graph
from cutset.partition.hop import Hop, path
from cutset.partition.machines import Machine
from cutset.partition.plan import PictureForm
from cutset.partition.privacy import picture_like
from cutset.partition.traffic import Mode, Traffic

__all__ = ["Objective", "Problem"]

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a plan's cost depends on. Parties are on a line: 0 is the coordinator, worker i is party i + 1.

    `latency` wants the least time of a picture that passes alone, among the plans that keep up with `rate`;
    `throughput` wants the least time between pictures with `in_flight` of them on their way; among the plans that come
    within `slack` of that, the least latency.
    """

    graph: Graph
    digest: str  # of the graph
    machines: tuple[Machine, ...]  # the workers, in the order of the line
    hops: tuple[Hop, ...]  # hop i leads from party i to party i + 1
    traffic: Mapping[str, Traffic]  # of every value, by its name
    pictures: Mapping[PictureForm, Traffic]  # the forms in which a picture may reach the first stage
    objective: Objective = "latency"
    in_flight: int = 1  # pictures on their way at once; 0: as many as there is use for
    rate: float | None = None  # pictures a second that come; None: as soon as there is room
    mode: Mode = "delta"
    horizon: float = math.inf  # pictures for which a plan stays; keys are spread over them
    pictures_stay: bool = False  # the first stage is on the first worker, and no picture goes on from there
    codec: float = 1.0  # of the coordinator, as a machine's
    slack: float = 0.0  # throughput: times between pictures that differ by this share count as equal

    def __post_init__(self) -> None:
        names = [machine.name for machine in self.machines]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a plan needs at least one worker, and a name of its own for each")
        if len(self.hops) != len(names):
            raise ConfigError(f"{len(names)} workers need {len(names)} links, one to each; there are {len(self.hops)}")
        for machine in self.machines:
            machine.check(len(self.graph.nodes))
        if not self.graph.nodes:
            raise ConfigError("the graph has no layers to plan")
        if missing := [name for name in self.graph.values if name not in self.traffic]:
            raise ConfigError(f"there are no sizes for {missing[0]!r}; they are of another model")
        if not self.pictures:
            raise ConfigError("there is no form in which a picture could reach the first worker")
        if not 0 <= self.slack < 1:
            raise ConfigError(f"slack is a share below 1, not {self.slack:g}")
        if self.in_flight < 0 or not self.horizon >= 1 or not (self.rate is None or 0 < self.rate < math.inf):
            raise ConfigError("in-flight must be at least 0, a rate above 0, and a horizon at least 1 picture")

    @cached_property
    def picture_like(self) -> frozenset[str]:
        """The values that would show a picture; see `privacy`."""
        return picture_like(self.graph)

    def index(self, worker: str) -> int | None:
        """The number of a worker, or None."""
        return next((i for i, machine in enumerate(self.machines) if machine.name == worker), None)

    def among(self, alive: Collection[str]) -> Problem:
        """The problem with these workers alone; a link leads past those that are left out.

        Raises ConfigError where none is left, or where pictures must stay with a first worker that isn't there.
        """
        left = [i for i, machine in enumerate(self.machines) if machine.name in alive]
        if len(left) == len(self.machines):
            return self
        if not left:
            raise ConfigError("no worker is left to plan for")
        if self.pictures_stay and left[0] != 0:
            raise ConfigError(
                f"pictures must stay with the first worker, {self.machines[0].name}, and it isn't there; "
                "bring it back, or run without --pictures-stay"
            )
        parties = [0, *(i + 1 for i in left)]
        hops = tuple(path(self.hops, i, j) for i, j in pairwise(parties))
        return replace(self, machines=tuple(self.machines[i] for i in left), hops=hops)

"""What stages elsewhere do, for whoever looks: who runs which layers, what is on its way, what hops take."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Container, Mapping
from itertools import pairwise
from typing import NamedTuple

from cutset.cluster.coordinator.links import Links
from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.messages import Report
from cutset.partition.plan import COORDINATOR, Plan

__all__ = ["HopReading", "Share", "StageReading", "StageWatch", "StagesReading"]

SMOOTH = 1 / 16  # of a new observation


class Share(NamedTuple):
    """What a worker has of a model, in the plan in use."""

    layers: range
    weight_bytes: int
    kv_bytes: int  # of the cache, states of sequences included


NOTHING = Share(range(0), 0, 0)


class StageReading(NamedTuple):
    """A worker that is a stage of the plan in use, or could be one."""

    worker: str
    spare: bool  # it was named as one
    live: bool
    why: str  # it isn't, or empty
    layers: tuple[int, int] | None  # the first and the last one; None where it has none
    weight_bytes: int
    kv_bytes: int
    items: int  # steps that it ran since the start
    busy: float  # seconds that it computed
    trip: float | None  # seconds of a heartbeat and its answer, smoothed


class HopReading(NamedTuple):
    """A connection that items take. `seconds` from the first byte that left to the last one that came, smoothed."""

    source: str
    target: str
    items: int
    nbytes: int  # of all items
    last: int  # bytes of the last item
    seconds: float
    bandwidth: float | None  # bytes a second, as far as known


class StagesReading(NamedTuple):
    """How the stages of an engine stand."""

    number: int  # of the plan in use, 0 without one
    why: str  # it was made, or why there is none
    stages: list[StageReading]  # those of the plan in their order, then the others
    hops: list[HopReading]  # of the plan in use
    in_flight: int  # steps
    most_in_flight: int
    failovers: int

    @property
    def ready(self) -> bool:
        """A plan stands."""
        return self.number > 0


class _Hop:
    def __init__(self) -> None:
        self.items = self.nbytes = self.last = 0
        self.seconds = 0.0


class StageWatch:
    """Takes reports of all parties as they come, for the price of a few additions; may be read from any thread."""

    def __init__(self) -> None:
        self.heard = time.monotonic()  # when the last report came
        self._lock = threading.Lock()
        self._items: dict[str, int] = defaultdict(int)
        self._busy: dict[str, float] = defaultdict(float)
        self._hops: dict[tuple[str, str], _Hop] = defaultdict(_Hop)

    def report(self, report: Report, plan: Plan, seconds: float) -> None:
        """What one party did for one item, whose bytes took so long to get there."""
        party, chain = report.party, [stage.worker for stage in plan.stages]
        with self._lock:
            self.heard = time.monotonic()
            if party in chain:
                place = chain.index(party)
                source = chain[place - 1] if place else COORDINATOR
                self._items[party] += 1
                self._busy[party] += sum(span.end - span.start for span in report.spans if span.kind == "compute")
            else:
                source = chain[-1]
            if report.hop is None:
                return
            hop = self._hops[source, party]
            hop.seconds += (max(seconds, 0.0) - hop.seconds) * (SMOOTH if hop.items else 1.0)
            hop.items += 1
            hop.last = report.hop.nbytes
            hop.nbytes += hop.last

    def stages(
        self, remotes: Mapping[str, Remote], shares: Mapping[str, Share], spares: Container[str]
    ) -> list[StageReading]:
        """All workers: first those that have something, in the order of `shares`."""
        found = []
        for name in [*shares, *(name for name in remotes if name not in shares)]:
            remote, share = remotes[name], shares.get(name, NOTHING)
            layers = share.layers
            with self._lock:
                items, busy = self._items.get(name, 0), self._busy.get(name, 0.0)
            found.append(
                StageReading(
                    name,
                    name in spares,
                    remote.up,
                    "" if remote.up else remote.why,
                    (layers.start, layers.stop - 1) if layers else None,
                    share.weight_bytes,
                    share.kv_bytes,
                    items,
                    busy,
                    remote.trips.seconds if remote.trips.count else None,
                )
            )
        return found

    def hops(self, plan: Plan, links: Links) -> list[HopReading]:
        """The connections of a plan, in the order in which items pass them."""
        chain = [COORDINATOR, *(stage.worker for stage in plan.stages), COORDINATOR]
        found = []
        for source, target in pairwise(chain):
            carries = links.carries(source, target)
            rate = carries if math.isfinite(carries) else None
            with self._lock:
                hop = self._hops.get((source, target)) or _Hop()
                found.append(HopReading(source, target, hop.items, hop.nbytes, hop.last, hop.seconds, rate))
        return found

"""Items through the stages of a plan, event by event: the twin of the cost model's closed form.

An item starts at a part when it has left the one before and the part is free; it leaves a part when there is room in
the queue of the next. Inside a worker queues are short; on a link as many items may wait as are in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.partition.cost import CostModel, Part
from cutset.partition.plan import Plan

__all__ = ["Busy", "Simulation", "simulate"]

QUEUE = 2  # items that may wait between two threads of a worker
MOST = 100_000  # items


class Busy(NamedTuple):
    """What one party did for one item. Seconds since the start of the simulation."""

    party: str
    kind: Literal["encode", "send", "receive", "decode", "compute"]
    item: int
    start: float
    end: float
    nbytes: int  # sent or received, else 0


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """What happened to every item. Seconds since the start."""

    parts: tuple[Part, ...]
    in_flight: int
    begin: NDArray[np.float64]  # (items, parts)
    end: NDArray[np.float64]  # (items, parts): the work is done; the item may wait there for room
    admitted: NDArray[np.float64]  # (items,)
    delivered: NDArray[np.float64]  # (items,)

    @property
    def latency(self) -> float:
        """Median from being admitted to being delivered, without the first item where there are others."""
        seconds = self.delivered - self.admitted
        return float(np.median(seconds[1:] if len(seconds) > 1 else seconds))

    @property
    def first(self) -> float:
        """The first item's latency."""
        return float(self.delivered[0] - self.admitted[0])

    @property
    def period(self) -> float:
        """Mean seconds between deliveries in the second half."""
        count = len(self.delivered) // 2
        # Deliveries come in groups as large as the number in flight: whole groups only.
        count -= count % self.in_flight if count >= self.in_flight > 0 else 0
        return float(self.delivered[-1] - self.delivered[-1 - count]) / max(count, 1)

    def timeline(self) -> Iterator[Busy]:
        """What every party did, part after part and item after item, for a chart."""
        for k, part in enumerate(self.parts):
            kind: Literal["encode", "send", "decode", "compute"] = "send" if part.kind == "link" else part.kind
            size = round(part.nbytes)
            for item, (start, end) in enumerate(zip(self.begin[:, k].tolist(), self.end[:, k].tolist(), strict=True)):
                if end > start:
                    yield Busy(part.party, kind, item, start, end, size)
                    if part.to:
                        yield Busy(part.to, "receive", item, start + part.latency, end + part.latency, size)


def simulate(model: CostModel, plan: Plan, items: int) -> Simulation:
    """Sends that many items through a plan, at the problem's rate and with its number in flight.

    The first item carries keys. Raises ConfigError for an absurd number.
    """
    if not 0 < items <= MOST:
        raise ConfigError(f"a simulation takes 1 to {MOST:,} items, not {items:,}")
    problem, parts, keys = model.problem, model.parts(plan), model.first(plan)
    steady = [part.seconds for part in parts]
    latency = [part.latency for part in parts]
    begin, end = np.zeros((2, items, len(parts)))
    admitted, delivered = np.zeros((2, items))
    left = [0.0] * len(parts)  # when the last item left each part
    for f in range(items):
        seconds = [part.seconds for part in keys] if f == 0 else steady
        now = f / problem.rate if problem.rate else 0.0
        if 0 < problem.in_flight <= f:
            now = max(now, delivered[f - problem.in_flight])
        admitted[f] = now
        for k, busy in enumerate(seconds):
            start = max(now, left[k])
            begin[f, k], end[f, k] = start, start + busy
            left[k] = start + busy
            inside = k + 1 < len(parts) and "link" not in (parts[k].kind, parts[k + 1].kind)
            if inside and f >= QUEUE:
                left[k] = max(left[k], begin[f - QUEUE, k + 1])
            now = left[k] + latency[k]
        delivered[f] = now
    return Simulation(parts, problem.in_flight, begin, end, admitted, delivered)

"""Pictures through the stages of a plan, event by event: the twin of the cost model's closed form, and its Gantt chart.

A picture starts at a part when it has left the one before and the part is free; it leaves a part when there is room in
the queue of the next. Inside a worker queues are short; on a link as many pictures may wait as are in flight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.trace.spans import Kind, Span
from cutset.errors import ConfigError
from cutset.partition.cost import Model, Part
from cutset.partition.plan import COORDINATOR, Plan

__all__ = ["Simulation", "simulate"]

QUEUE = 2  # pictures that may wait between two threads of a worker
MOST = 100_000  # pictures


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """What happened to every picture. Seconds since the start."""

    parts: tuple[Part, ...]
    in_flight: int
    begin: NDArray[np.float64]  # (pictures, parts)
    end: NDArray[np.float64]  # (pictures, parts): the work is done; the picture may wait there for room
    admitted: NDArray[np.float64]  # (pictures,)
    delivered: NDArray[np.float64]  # (pictures,)

    @property
    def latency(self) -> float:
        """Median from being admitted to being delivered, without the first picture where there are others."""
        seconds = self.delivered - self.admitted
        return float(np.median(seconds[1:] if len(seconds) > 1 else seconds))

    @property
    def first(self) -> float:
        """The first picture's latency."""
        return float(self.delivered[0] - self.admitted[0])

    @property
    def period(self) -> float:
        """Mean seconds between deliveries in the second half."""
        count = len(self.delivered) // 2
        # Deliveries come in groups as large as the number in flight: whole groups only.
        count -= count % self.in_flight if count >= self.in_flight > 0 else 0
        return float(self.delivered[-1] - self.delivered[-1 - count]) / max(count, 1)

    def timeline(self) -> dict[str, list[Span]]:
        """The spans of every party, the coordinator first, for the Gantt chart."""
        found: dict[str, list[Span]] = {COORDINATOR: []}
        for k, part in enumerate(self.parts):
            for picture, (begin, end) in enumerate(zip(self.begin[:, k], self.end[:, k], strict=True)):
                if end > begin:
                    kind: Kind = "send" if part.kind == "link" else part.kind
                    size = round(part.nbytes)
                    found.setdefault(part.party, []).append(Span(kind, 0, picture, float(begin), float(end), size))
                    if part.to:
                        first, last = (float(t) + part.latency for t in (begin, end))
                        found.setdefault(part.to, []).append(Span("receive", 0, picture, first, last, size))
        return found


def simulate(model: Model, plan: Plan, pictures: int) -> Simulation:
    """Sends that many pictures through a plan, at the problem's rate and with its number in flight.

    The first picture carries keys. Raises ConfigError for an absurd number.
    """
    if not 0 < pictures <= MOST:
        raise ConfigError(f"a simulation takes 1 to {MOST:,} pictures, not {pictures:,}")
    problem, parts, keys = model.problem, model.parts(plan), model.first(plan)
    steady = [part.seconds for part in parts]
    latency = [part.latency for part in parts]
    begin, end = np.zeros((2, pictures, len(parts)))
    admitted, delivered = np.zeros((2, pictures))
    left = [0.0] * len(parts)  # when the last picture left each part
    for f in range(pictures):
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

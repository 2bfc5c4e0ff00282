"""Pictures on their way, and the order in which their results are delivered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from cutset.cluster.coordinator.result import Result
from cutset.cluster.messages import EdgeReport, Report
from cutset.cluster.trace.spans import Span
from cutset.video.sources.history import Restart

__all__ = ["Flight", "Flights"]


@dataclass(eq=False)
class Flight:
    """A picture, kept until its result is there."""

    source: int
    picture: int
    time: float
    pixels: NDArray[Any]
    captured: float
    own: Restart | None = None  # packets of this picture alone, where the source is encoded
    sent: float = 0.0
    plan: int = -1  # that it was sent by; -1: not on its way
    ticket: int = -1
    attempts: int = 0
    result: Result | None = None
    report: Report | None = None  # this side's, once the result is there
    spans: list[Span] = field(default_factory=list)
    edges: list[EdgeReport] = field(default_factory=list)

    @property
    def flying(self) -> bool:
        return self.plan >= 0


class Flights:
    """All pictures that were taken from the sources and not delivered."""

    def __init__(self) -> None:
        self._orders: dict[int, deque[Flight]] = {}
        self._tickets: dict[int, int] = {}
        self._ghosts: set[tuple[int, int, int]] = set()  # plan, source, ticket: given up, but still on their way

    def __iter__(self) -> Iterator[Flight]:
        for order in self._orders.values():
            yield from order

    def __len__(self) -> int:
        return sum(len(order) for order in self._orders.values())

    def take(self, flight: Flight) -> None:
        """A new picture; pictures of a source come in order."""
        self._orders.setdefault(flight.source, deque()).append(flight)

    def waiting(self) -> list[Flight]:
        """Those to be sent, the oldest first."""
        return sorted((f for f in self if not f.flying and f.result is None), key=lambda f: f.captured)

    def send(self, flight: Flight, plan: int, now: float) -> int:
        """Marks a picture as sent; its ticket, which rises with every picture of its source, sent again or not."""
        ticket = self._tickets.get(flight.source, 0)
        self._tickets[flight.source] = ticket + 1
        flight.plan, flight.ticket, flight.sent = plan, ticket, now
        flight.attempts += 1
        return ticket

    def find(self, source: int, picture: int) -> Flight | None:
        """The picture of this number that was not delivered yet."""
        for flight in self._orders.get(source, ()):
            if flight.picture == picture:
                return flight
        return None

    @property
    def flying(self) -> int:
        """How many are on their way, those that were given up included."""
        return sum(flight.flying for flight in self) + len(self._ghosts)

    def landed(self, plan: int, source: int, ticket: int) -> None:
        """One is no longer on its way."""
        self._ghosts.discard((plan, source, ticket))

    def grounded(self) -> int:
        """All that fly must be sent again; how many."""
        found = [flight for flight in self if flight.flying]
        for flight in found:
            flight.plan = -1
        self._ghosts.clear()
        return len(found)

    def oldest_plan(self) -> int | None:
        """The lowest number of a plan by which a picture is on its way."""
        return min([*(f.plan for f in self if f.flying), *(plan for plan, _, _ in self._ghosts)], default=None)

    def finish(self, flight: Flight, outputs: Mapping[str, NDArray[Any]], dropped: str, plan: int, now: float) -> None:
        """A picture's result, or why it has none."""
        flight.result = Result(
            flight.source,
            flight.picture,
            flight.time,
            outputs,
            dropped,
            plan,
            flight.captured,
            flight.sent or flight.captured,
            now,
            flight.attempts,
            flight.pixels,
        )

    def deliver(self) -> Iterator[Flight]:
        """Those whose turn it is, in order for each source."""
        for order in self._orders.values():
            while order and order[0].result is not None:
                flight = order.popleft()
                if flight.flying:
                    self._ghosts.add((flight.plan, flight.source, flight.ticket))
                yield flight

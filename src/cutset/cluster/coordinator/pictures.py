"""The pictures of a stream: taken from the sources, sent by a route, kept until their results are delivered."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cutset.cluster.codecs import to_result
from cutset.cluster.coordinator.feeding import Feeder
from cutset.cluster.coordinator.flights import Flight, Flights
from cutset.cluster.coordinator.remote import Event
from cutset.cluster.coordinator.result import Result
from cutset.cluster.coordinator.switching import Options, Route
from cutset.cluster.messages import Report, Work
from cutset.cluster.model import Model
from cutset.cluster.trace.spans import Span
from cutset.cluster.wire import piece_bytes, pieces
from cutset.errors import CutsetError, SourceLost
from cutset.partition.plan import COORDINATOR
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.history import PacketHistory
from cutset.video.sources.picture import Picture

__all__ = ["Pictures"]


class Pictures:
    """All but `took` and `results` belongs to the coordinator's thread; `woke` is called when there is news."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[Iterable[Any]],
        codecs: Sequence[VideoCodec | None],
        options: Options,
        woke: Callable[[], None],
    ) -> None:
        self.model, self.options = model, options
        self.results: queue.SimpleQueue[Result | CutsetError | None] = queue.SimpleQueue()
        self.flights = Flights()
        self._given = 0  # results that nobody has taken yet
        self._histories = {i: PacketHistory() for i, codec in enumerate(codecs) if codec is not None}
        self._feeders = [Feeder(i, source, model.picture, woke, options.rate) for i, source in enumerate(sources)]
        self._turn = 0

    def took(self) -> None:
        """A result was taken from `results`."""
        self._given -= 1

    def close(self) -> None:
        for feeder in self._feeders:
            feeder.close()

    @property
    def done(self) -> bool:
        """Every picture was delivered. Raises the error of a source once those before it are; that one was lost and
        didn't come back, once all pictures of the others are, too.
        """
        if len(self.flights):
            return False
        over = all(feeder.dry for feeder in self._feeders)
        for feeder in self._feeders:
            if feeder.dry and feeder.error is not None and (over or not isinstance(feeder.error, SourceLost)):
                raise feeder.error
        return over

    def dispatch(self, route: Route) -> None:
        """Sends what may be sent: first what must be sent again, then new pictures, of the sources in turns."""
        most = self.options.in_flight
        again = self.flights.waiting()
        for _ in range(most - self.flights.flying):
            if again:
                flight = again.pop(0)
            elif len(self.flights) + self._given < 2 * most and (taken := self._next()) is not None:
                flight = taken
            else:
                return
            self._send(route, flight)

    def _next(self) -> Flight | None:
        for i in range(len(self._feeders)):
            flight = self._feeders[(self._turn + i) % len(self._feeders)].take()
            if flight is not None:
                self._turn = flight.source + 1
                self.flights.take(flight)
                self._remember(flight)
                return flight
        return None

    def _remember(self, flight: Flight) -> None:
        """Keeps the packets of an encoded source, for a decoder that must begin in the middle."""
        history, own = self._histories.get(flight.source), flight.own
        if history is not None and own is not None:
            history.add(Picture(flight.picture, flight.pixels, flight.time, own.packets, own.opens, own.skipped))
            history.forget(min((f.picture for f in self.flights if f.source == flight.source), default=0))

    def _send(self, route: Route, flight: Flight) -> None:
        start = time.monotonic()
        source, picture = flight.source, flight.picture
        ticket = self.flights.send(flight, route.number, start)
        if route.forms is not None:
            history = self._histories.get(source)
            made = route.forms.encode(source, picture, ticket, flight.pixels, flight.own, history)
        else:
            made = route.sender.encode(source, picture, ticket, {self.model.picture.name: flight.pixels})
        work, arrays, flight.edges = made
        size = sum(work.lengths)
        spans = flight.spans = [
            Span("capture", source, picture, flight.captured, flight.captured),
            Span("encode", source, picture, start, time.monotonic()),
        ]

        def left(begin: float, end: float) -> None:
            spans.append(Span("send", source, picture, begin, end, size))

        frames = pieces(work, arrays, piece_bytes(route.sender.bandwidth))
        route.first.outbox.data(frames, wait=False, done=left)

    def lost(self, plan: int, source: int, picture: int, ticket: int) -> None:
        """A picture got stuck on its way: it is sent again."""
        flight = self.flights.find(source, picture)
        self.flights.landed(plan, source, ticket)
        if flight is not None and (flight.plan, flight.ticket) == (plan, ticket):
            flight.plan = -1

    def came(self, route: Route, event: Event, work: Work) -> None:
        """Takes a result. Raises Gap where a payload before it is missing, FrameError for what isn't right."""
        start = time.monotonic()
        tensors, received = route.receiver.decode(work, event.arrays)
        self.flights.landed(work.plan, work.source, work.ticket)
        flight = self.flights.find(work.source, work.picture)
        if flight is None:
            return
        if flight.plan == work.plan:
            flight.plan = -1
        if flight.result is not None:
            return
        now = time.monotonic()
        outputs = {name: to_result(tensors[name]) for name in self.model.graph.outputs}
        self.flights.finish(flight, outputs, "", work.plan, now)
        if event.hop is not None:
            hop = event.hop
            flight.spans.append(Span("receive", work.source, work.picture, hop.first, hop.last, hop.nbytes))
        flight.spans.append(Span("decode", work.source, work.picture, start, now))
        flight.report = Report(
            plan=work.plan,
            epoch=work.epoch,
            source=work.source,
            picture=work.picture,
            party=COORDINATOR,
            spans=flight.spans,
            hop=event.hop,
            received=received,
            edges=flight.edges,
            layer_seconds=None,
        )

    def overdue(self, now: float, moved: float, late: float) -> str:
        """Drops what is past its deadline. Why something must be broken, where a picture is out far too long: `late`
        seconds in which it didn't come back, nor did any party tell of one since `moved`.
        """
        deadline = self.options.deadline
        for flight in self.flights:
            if flight.result is None and deadline is not None and now - flight.captured > deadline:
                self.flights.finish(flight, {}, f"not done {deadline:g} s after capture", max(flight.plan, 0), now)
            if flight.flying and now - max(flight.sent, moved) > late:
                return f"picture {flight.picture} didn't come back in {late:.3g} s"
        return ""

    def give_up(self, why: str) -> None:
        """Drops all that was taken."""
        for flight in self.flights:
            if flight.result is None:
                self.flights.finish(flight, {}, why, max(flight.plan, 0), time.monotonic())
        self.deliver()

    def deliver(self) -> list[Report]:
        """Puts results in their order into `results`; this side's reports of those pictures."""
        reports = []
        for flight in self.flights.deliver():
            if flight.result is None:
                continue
            self._given += 1
            self.results.put(flight.result)
            if flight.report is not None:
                now = time.monotonic()
                flight.spans.append(Span("deliver", flight.source, flight.picture, flight.result.done, now))
                reports.append(flight.report)
        return reports

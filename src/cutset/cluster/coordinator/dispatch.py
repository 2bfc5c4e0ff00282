"""The items of a run: taken from the sources, sent by a route, kept until their results are delivered."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from cutset.cluster.coordinator.feeding import Feeder, Inbox
from cutset.cluster.coordinator.items import Item, Items
from cutset.cluster.coordinator.switching import Options, Route
from cutset.cluster.inputs import Inputs
from cutset.cluster.item_result import LATE, ItemResult, StateLost
from cutset.cluster.messages import Report
from cutset.cluster.model import Model
from cutset.cluster.values import readable
from cutset.cluster.wire import ArrivedItem, piece_bytes, pieces
from cutset.errors import CutsetError, LinkError, SourceLost
from cutset.partition.plan import COORDINATOR

__all__ = ["Dispatcher"]

TRANSITS = 16  # of the last items, by which it is foreseen which ones can't be in time
USUAL = 0.75  # the share of them that take no longer than what is foreseen


class Dispatcher:
    """All but `results` is for one thread at a time; `notify` is called when something changed."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[Iterable[Any] | Inbox],
        inputs: Inputs,
        options: Options,
        notify: Callable[[], None],
    ) -> None:
        self.model, self.options = model, options
        self.results: queue.SimpleQueue[ItemResult | StateLost | CutsetError | None] = queue.SimpleQueue()
        self.items = Items(inputs.result)
        self._inputs = inputs
        self._given = 0  # results that nobody has taken yet
        self._feeders: list[Feeder | Inbox] = []
        for i, source in enumerate(sources):
            if isinstance(source, Inbox):
                source.notify = notify
                self._feeders.append(source)
            else:
                self._feeders.append(Feeder(i, source, model.input, inputs, notify, options.rate_of(i)))
        self._transits: deque[float] = deque(maxlen=TRANSITS)  # seconds from sending to result
        self._lost = 0  # how often the workers' state was lost
        self._order = list(range(len(self._feeders)))  # the source whose last item is the longest ago first

    def took(self) -> None:
        """A result was taken from `results`."""
        self._given -= 1

    def close(self) -> None:
        """Reads no further."""
        for feeder in self._feeders:
            feeder.close()

    @property
    def done(self) -> bool:
        """Every item was delivered. Raises the error of a source once those before it are; that one was lost and
        didn't come back, once all items of the others are, too.
        """
        if len(self.items):
            return False
        over = all(feeder.dry for feeder in self._feeders)
        for feeder in self._feeders:
            if feeder.dry and feeder.error is not None and (over or not isinstance(feeder.error, SourceLost)):
                raise feeder.error
        return over

    def dispatch(self, route: Route) -> None:
        """Sends what may be sent: first what must be sent again, then new items, of the sources in turns. What can't be
        done by its deadline any more isn't sent: it would hold up those that can.
        """
        again = [item for item in self.items.waiting() if not self._hopeless(item)]
        for _ in range(self.options.in_flight - self.items.in_flight):
            item = again.pop(0) if again else self._next()
            if item is None:
                return
            self._send(route, item)

    def lose(self, why: str) -> None:
        """The workers' state is gone, and with it all items that have no result. Whoever takes results hears of it."""
        self.deliver()
        self.items.drop()
        self._lost += 1
        for feeder in self._feeders:
            if isinstance(feeder, Inbox):
                feeder.lost = self._lost
        self.results.put(StateLost(self._lost, why))

    def _next(self) -> Item | None:
        """The next item of the source that waits longest, or of the next one that has any; there may be no room.

        A source whose item is too old keeps its place: otherwise one whose pictures always come just after its turn
        would never have one.
        """
        for source in self._order:
            feeder = self._feeders[source]
            while len(self.items) + self._given < 2 * self.options.in_flight and (item := feeder.take()) is not None:
                self.items.take(item)
                self._inputs.keep(item.source, item.number, item.given, self.items.oldest(item.source))
                if not self._hopeless(item):
                    self._order.remove(source)
                    self._order.append(source)
                    return item
        return None

    def _hopeless(self, item: Item) -> bool:
        """Drops an item that can't be done by its deadline: it is over, or will be if the item takes as long as others
        lately did. Where nothing is in flight one goes in any case, so that it is seen when things are quicker again.
        """
        now = time.monotonic()
        why = self._late(item, now + (self._margin(item.source) if self.items.in_flight else 0.0))
        if why:
            self.items.finish(item, {}, why, max(item.plan, 0), now)
        return bool(why)

    def _margin(self, source: int) -> float:
        """Seconds that an item will need, and as long again, but for no more than half of what is left: sources take
        turns at a steady pace, and one whose turn always came at the last moment would always be late.
        """
        deadline, usual = self.options.deadline_of(source), sorted(self._transits)
        if deadline is None or not usual:
            return 0.0
        seconds = usual[int(USUAL * len(usual))]
        return seconds + max(min(seconds, (deadline - seconds) / 2), 0.0)

    def _late(self, item: Item, now: float) -> str:
        """Why an item that isn't done by now is dropped, or ""."""
        deadline = self.options.deadline_of(item.source)
        return f"not done {deadline:g} s {LATE}" if deadline and now - item.captured > deadline else ""

    def _send(self, route: Route, item: Item) -> None:
        start = time.monotonic()
        self.items.send(item, route.number, start)
        report = item.report = Report(route.number, route.epoch, item.source, item.number, COORDINATOR)
        work, arrays, report.edges = route.encode(item.source, item.number, item.given)
        report.note("capture", item.captured, item.captured)
        report.note("encode", start, time.monotonic())

        def left(begin: float, end: float) -> None:
            report.note("send", begin, end, sum(work.lengths))

        size, direct = piece_bytes(route.sender.bandwidth), self.options.stateful
        for remote in (route.first, *route.also):
            with suppress(LinkError):  # it went just now, as the coordinator will hear
                done = left if remote is route.first else None
                remote.outbox.data(pieces(work, arrays, size), wait=False, done=done, direct=direct)

    def came(self, route: Route, arrival: ArrivedItem) -> None:
        """Takes a result. Raises Gap where a payload before it is missing, FrameError for what isn't right."""
        start, work, hop = time.monotonic(), arrival.work, arrival.hop
        values, received = route.receiver.decode(work, arrival.arrays)
        sent = self.items.sent(work.plan, work.source, work.number)
        if sent is not None:
            self._transits.append(start - sent)
        item = self.items.ended(work.plan, work.source, work.number)
        if item is None or item.result is not None or item.report is None:
            return
        now, graph, report = time.monotonic(), self.model.graph, item.report
        outputs = {name: readable(values[name], graph.values[name]) for name in graph.outputs}
        late = self._late(item, now)
        self.items.finish(item, {} if late else outputs, late, work.plan, now)
        report.hop, report.received = hop, received
        report.note("receive", hop.first, hop.last, hop.nbytes)
        report.note("decode", start, now)

    def overdue(self, now: float, moved: float, late: float) -> str:
        """Drops what is past its deadline. Why something must be broken, where an item is in flight far too long:
        `late` seconds in which it didn't come back, nor did any party report one since `moved`.
        """
        for item in self.items:
            if item.result is None and (why := self._late(item, now)):
                self.items.finish(item, {}, why, max(item.plan, 0), now)
            if item.in_flight and now - max(item.sent, moved) > late:
                return f"item {item.number} of source {item.source} didn't come back in {late:.3g} s"
        return ""

    def give_up(self, why: str) -> None:
        """Drops all that was taken."""
        for item in self.items:
            if item.result is None:
                self.items.finish(item, {}, why, max(item.plan, 0), time.monotonic())
        self.deliver()

    def deliver(self) -> list[Report]:
        """Puts results in their order into `results`; this side's reports of those items."""
        reports = []
        for item in self.items.deliver():
            if item.result is None:
                continue
            self._given += 1
            self.results.put(item.result)
            if item.report is not None and not item.result.dropped:
                item.report.note("deliver", item.result.done, time.monotonic())
                reports.append(item.report)
        return reports

"""The items of a run: taken from the sources, sent by a route, kept until their results are delivered."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from cutset.cluster.coordinator.feeding import Feeder, Inbox
from cutset.cluster.coordinator.items import Item, Items
from cutset.cluster.coordinator.switching import Options, Route
from cutset.cluster.inputs import Inputs
from cutset.cluster.item_result import ItemResult, StateLost
from cutset.cluster.messages import Report
from cutset.cluster.model import Model
from cutset.cluster.values import readable
from cutset.cluster.wire import ArrivedItem, piece_bytes, pieces
from cutset.errors import CutsetError, LinkError, SourceLost
from cutset.partition.plan import COORDINATOR

__all__ = ["Dispatcher"]


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
                self._feeders.append(Feeder(i, source, model.input, inputs, notify, options.rate))
        self._lost = 0  # how often the workers' state was lost
        self._turn = 0

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
        """Sends what may be sent: first what must be sent again, then new items, of the sources in turns."""
        most = self.options.in_flight
        again = self.items.waiting()
        for _ in range(most - self.items.in_flight):
            if again:
                item = again.pop(0)
            elif len(self.items) + self._given < 2 * most and (taken := self._next()) is not None:
                item = taken
            else:
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
        for i in range(len(self._feeders)):
            item = self._feeders[(self._turn + i) % len(self._feeders)].take()
            if item is not None:
                self._turn = item.source + 1
                self.items.take(item)
                self._inputs.keep(item.source, item.number, item.given, self.items.oldest(item.source))
                return item
        return None

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
        item = self.items.ended(work.plan, work.source, work.number)
        if item is None or item.result is not None or item.report is None:
            return
        now, graph, report = time.monotonic(), self.model.graph, item.report
        outputs = {name: readable(values[name], graph.values[name]) for name in graph.outputs}
        self.items.finish(item, outputs, "", work.plan, now)
        report.hop, report.received = hop, received
        report.note("receive", hop.first, hop.last, hop.nbytes)
        report.note("decode", start, now)

    def overdue(self, now: float, moved: float, late: float) -> str:
        """Drops what is past its deadline. Why something must be broken, where an item is in flight far too long:
        `late` seconds in which it didn't come back, nor did any party report one since `moved`.
        """
        deadline = self.options.deadline
        for item in self.items:
            if item.result is None and deadline is not None and now - item.captured > deadline:
                self.items.finish(item, {}, f"not done {deadline:g} s after capture", max(item.plan, 0), now)
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

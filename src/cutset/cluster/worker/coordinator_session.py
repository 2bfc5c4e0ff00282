"""What one coordinator says to this worker, and the items that come for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from cutset.cluster.messages import (
    MOST_REPORTS,
    Allow,
    Connect,
    Inventory,
    Lost,
    Message,
    More,
    Ping,
    Pong,
    Prepare,
    Reports,
    Retire,
    Tune,
    WeightPart,
    Work,
)
from cutset.cluster.values import Bytes
from cutset.cluster.wire import ArrivedItem, Assembler, Outbox
from cutset.cluster.worker.awaited_item import AwaitedItem, Got, HopWaiter
from cutset.cluster.worker.inputs_ahead import RestOfItem
from cutset.cluster.worker.pipeline import Pipeline, RanItem
from cutset.cluster.worker.preparation import Planned, Preparation
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.codec import KeyRequest
from cutset.errors import FrameError, HandshakeError
from cutset.link import Link
from cutset.link.keys import key_allowed
from cutset.link.peer import peer_key

__all__ = ["CoordinatorSession"]


class CoordinatorSession:
    """Made when a coordinator says hello; `close` ends it. What takes long is done in a thread of its own."""

    def __init__(
        self,
        secret: bytes,
        name: str,
        link: Link,
        settings: WorkerSettings,
        expect: Callable[[frozenset[bytes]], None],
        *,
        waits: bool = False,
    ) -> None:
        """`waits`: `wait` will be called."""
        self.secret, self.name, self.link = secret, name, link
        self.heard = time.monotonic()
        self.over = ""  # why the session is over
        self._settings, self._expect, self._waits = settings, expect, waits
        self.outbox = Outbox(link, f"{name}-back", lambda error: self.end(str(error)))
        self.say = self.outbox.say
        self._pipeline = Pipeline(name, settings.runtime, self.say, settings.speed)
        self.reports = self._pipeline.reports
        self._awaited: dict[tuple[int, int], AwaitedItem] = {}  # whose input is here; by source and number, in order
        self._preparation = Preparation(secret, name, settings, self.outbox, expect)
        self._plans = self._preparation.plans
        self._upstream: dict[Link, Assembler] = {link: Assembler()}
        self._outboxes: dict[Link, Outbox] = {link: self.outbox}

    # Called by the thread that receives.

    def join(self, link: Link) -> None:
        """A worker that will send items has come. Raises HandshakeError for one that no plan announced."""
        expected = {key for planned in list(self._plans.values()) if (key := planned.order.previous) is not None}
        if not key_allowed(peer_key(link), None if self._settings.coordinators is None else expected):
            raise HandshakeError("this worker's key isn't the one that the coordinator announced")
        self._upstream[link] = Assembler()
        self._outboxes[link] = Outbox(link, f"{self.name}-up", lambda error: None)

    def left(self, link: Link) -> None:
        """A link is gone."""
        if link is self.link:
            self.end("the coordinator went away")
        elif self._upstream.pop(link, None) is not None:
            self._outboxes.pop(link).close()

    def knows(self, link: Link) -> bool:
        """Whether a link is the coordinator's or an announced worker's."""
        return link in self._upstream

    def pong(self, link: Link, ping: Ping) -> None:
        """Somebody on a link of this session asks for a heartbeat and the clock of this worker."""
        if link is self.link:
            self.heard = time.monotonic()
        self._outboxes[link].say(Pong(ping.number, ping.time, time.monotonic()))

    def handle(self, link: Link, message: Message, arrays: Sequence[Bytes]) -> None:
        """Acts on a message of one of this session's links. Raises FrameError for one that may not come there."""
        if link is self.link:
            self.heard = time.monotonic()
        if isinstance(message, Work):
            self._work(link, message, arrays)
        elif isinstance(message, More):
            self._item(link, self._upstream[link].more(arrays))
        elif link is not self.link:
            raise FrameError("only a coordinator may say that")
        elif isinstance(message, KeyRequest):
            planned = self._plans.get(message.plan)
            if planned is not None and planned.run is not None and planned.run.last:
                planned.run.sender.request(message)
        elif isinstance(message, Tune):
            planned = self._plans.get(message.plan)
            if planned is not None and planned.run is not None and message.bandwidth > 0:
                planned.run.sender.bandwidth = message.bandwidth
                if planned.next is not None:
                    planned.next.bandwidth = message.bandwidth
        elif isinstance(message, Allow):
            self._preparation.allow(message)
        elif isinstance(message, Inventory | Prepare | WeightPart | Connect | Retire):
            if isinstance(message, Retire):  # what is kept for later would keep weights and caches
                self._pipeline.forget(message.before)
                self._awaited = {key: one for key, one in self._awaited.items() if one.run.number >= message.before}
            self._preparation.put(message, [np.array(array) for array in arrays])
        else:
            raise FrameError("this message is not for a worker")

    def _work(self, link: Link, work: Work, arrays: Sequence[Bytes]) -> None:
        planned = self._plans.get(work.plan)
        limit = max((p.run.limit for p in self._plans.values() if p.run is not None), default=0)
        if planned is not None and planned.run is not None:
            limit = planned.run.limit
        elif work.plan >= self._preparation.retired:
            raise FrameError(f"an item of plan {work.plan} came, which isn't prepared here")
        self._item(link, self._upstream[link].begin(work, arrays, limit or sum(work.lengths) + 1))

    def _item(self, link: Link, arrival: ArrivedItem | None) -> None:
        if arrival is None:
            return
        work = arrival.work
        planned = self._plans.get(work.plan)
        if planned is None or planned.run is None or planned.order.epoch != work.epoch:
            return  # of a plan that is over
        run = planned.run
        ask: Callable[[KeyRequest], None] = self._outboxes[link].say
        if run.ahead is not None and link is self.link:
            values, rest = run.expect(arrival)
            if rest is None:
                if run.native is not None and self._waits:
                    self._awaited[work.source, work.number] = AwaitedItem(run, work, values, time.monotonic())
                else:
                    self._pipeline.prepare(run, work, values)
                return
            arrival, ask = rest
        elif run.first != (link is self.link):
            raise FrameError("an item came from another party than the plan says")
        elif run.ahead is not None and not run.ahead.completes(RestOfItem(arrival, ask)):
            return
        if self._pipeline.waiting >= 2 * planned.order.in_flight + 8:
            raise FrameError(f"{self._pipeline.waiting} items wait here, more than agreed")
        self._awaited.pop((work.source, work.number), None)
        if (to := self._towards(planned, work)) is not None:
            self._pipeline.put(run, arrival, ask, to)

    def _towards(self, planned: Planned, work: Work) -> Outbox | None:
        """Where what is made of an item goes; None where nobody is, which the coordinator is told."""
        assert planned.run is not None
        to = self.outbox if planned.run.last else planned.next.outbox if planned.next else None
        if to is None:
            self.say(Lost(work.plan, work.source, work.number, "the next worker isn't connected"))
        return to

    def wait(self, hop: HopWaiter, timeout: float) -> Got | bool:
        """Waits for the rest of the item that is next, and does it by native code. A frame that came instead, and whose
        it is; or True, and the turn to listen may be another thread's. False where nothing is waited for so."""
        if not self._awaited or len(self._upstream) != 2 or not self._pipeline.hold():
            return False
        try:
            awaited = next(iter(self._awaited.values()))
            planned = self._plans.get(awaited.run.number)
            if planned is None or planned.run is not awaited.run:
                self._awaited.clear()  # its plan is over
                return False
            link = next(one for one in self._upstream if one is not self.link)
            to = planned.next.outbox if planned.next is not None else None
            found = hop.wait(awaited, link, to, timeout)
            if not isinstance(found, RanItem):
                return found
            work = awaited.work
            self._awaited.pop((work.source, work.number), None)
            assert awaited.run.ahead is not None
            awaited.run.ahead.take(work)
            if (to := self._towards(planned, work)) is not None:
                self._pipeline.ran(found, to)
        finally:
            self._pipeline.let_go()
        return True

    def report(self) -> None:
        """Sends the reports of items that have gone on since the last call."""
        while self.reports:
            count = min(len(self.reports), MOST_REPORTS)
            self.say(Reports([self.reports.popleft() for _ in range(count)]))

    def claim(self) -> Callable[[], None] | None:
        """See Pipeline.claim."""
        return self._pipeline.claim()

    @property
    def alive(self) -> bool:
        """Whether a thread of this session may still hold weights or caches."""
        return any(thread.is_alive() for thread in (*self._pipeline.threads, *self._preparation.threads))

    @property
    def dead(self) -> str:
        """The name of a thread of this session that ended by itself; empty as long as all of them run."""
        threads = (*self._pipeline.threads, *self._preparation.threads)
        return next((thread.name for thread in threads if not thread.is_alive()), "")

    # Anyone.

    def end(self, why: str) -> None:
        """The session is over; the thread that receives closes it."""
        self.over = self.over or why

    def close(self) -> None:
        """Ends all threads and links of the session."""
        self._pipeline.close()
        self._awaited.clear()
        self._preparation.close()
        for outbox in list(self._outboxes.values()):
            outbox.close()
        self._expect(frozenset())

"""The usual item of a hop over shared memory: its hidden states go from the ring straight into a step.

While a stage waits for the rest of an item whose input it has, everything is known but these bytes: the step is ready,
and so is what stands before them in the frame. Native code (native.StepHop) takes exactly that frame and runs the step.
Whatever else comes goes the way of all items.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from cutset.cluster.messages import HopReport, Work
from cutset.cluster.values import Array
from cutset.cluster.wire import ArrivedItem, Outbox
from cutset.cluster.worker.native_item import ready_item
from cutset.cluster.worker.pipeline import RanItem
from cutset.cluster.worker.plan_run import PlanRun
from cutset.kernels import native
from cutset.link import Frame, Link
from cutset.link.interface import RingLink, RingListener

__all__ = ["Arrivals", "AwaitedItem", "Got", "RingHop"]

Got = tuple[Link, Frame]

SLICE = 0.1  # seconds of a wait
KEPT, SIZES = 9, 8  # times that are remembered, each of items of so many sizes
EARLY = 60e-6  # seconds that waking up takes
MOST_AWAKE, LEAST_AWAKE, SHARE = 200e-6, 30e-6, 1 / 50  # seconds awake at a wait's end, and of the wait


class AwaitedItem(NamedTuple):
    """An item whose input is here: `work` brought it."""

    run: PlanRun
    work: Work
    values: dict[str, Array]
    since: float  # when it came


class Arrivals:
    """When the rest of an item is likely to come, by how long it took lately from its input on."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}  # by bytes

    def observe(self, nbytes: int, seconds: float) -> None:
        """It took so long."""
        took = self._took.pop(nbytes, deque(maxlen=KEPT))
        took.append(seconds)
        self._took[nbytes] = took
        if len(self._took) > SIZES:
            del self._took[next(iter(self._took))]

    def window(self, nbytes: int, waited: float) -> tuple[float, float]:
        """Seconds to sleep from now on, and then to stay awake: for a small part of the wait at most, around the time
        when it is expected. 0 awake where there is nothing to go by, or that time is over."""
        took = self._took.get(nbytes)
        if took is None or len(took) < KEPT // 2:
            return SLICE, 0.0
        expected = sorted(took)[len(took) // 4]  # many a thing makes it late, and none early
        awake = min(MOST_AWAKE, SHARE * expected)
        sleep = expected - awake / 2 - EARLY - waited
        if awake < LEAST_AWAKE or sleep + EARLY + awake < 0:
            return SLICE, 0.0
        return min(max(sleep, 0.0), SLICE), awake if sleep < SLICE else 0.0


class RingHop:
    """For the thread that listens. `since` is when a step began that runs now, for others."""

    def __init__(self, listener: RingListener) -> None:
        self._listener = listener
        self._hop = native.StepHop(listener.poller)
        self._arrivals = Arrivals()

    @property
    def since(self) -> float:
        """By `time.monotonic()`; 0 where none runs."""
        return self._hop.since

    def wait(self, awaited: AwaitedItem, link: Link, to: Outbox | None, timeout: float) -> RanItem | Got | bool:
        """Waits for the rest of an item from a link, and runs it: then that is to be `Pipeline.ran`. Another frame that
        came, and whose it is; or True if nothing has come. False where such items must go another way. `to`: where the
        next worker is."""
        stage, slot = awaited.run.native, self._listener.slot(link)
        rings = link.rings() if isinstance(link, RingLink) and slot is not None else None
        if stage is None or slot is None or rings is None:
            return False
        item = ready_item(stage, awaited.work, awaited.values)
        if item is None:
            return False
        try:
            if item.front is None:
                return False
            front, clock = item.front
            if to is not None:
                item.aim(to)
            sleep, awake = self._arrivals.window(item.nbytes, time.monotonic() - awaited.since)
            end = self._hop.run(
                item.step,
                item.linears,
                client=slot,
                receiver=rings.receiver,
                front=front,
                clock=clock,
                sleep=min(sleep, timeout),
                awake=awake if sleep <= timeout else 0.0,
            )
            if end.started:
                item.ran(end)
        finally:
            if item.end is None:
                item.close()
        if end.started:
            self._arrivals.observe(item.nbytes, end.came - awaited.since)
            hop = HopReport(item.nbytes, end.sent, end.came, end.came)
            return RanItem(awaited.run, ArrivedItem(awaited.work, (), hop), item)
        return True if not end.other else self._listener.handle(end.client, end.record) or True

"""The usual item of a hop over shared memory: its hidden states go from the ring straight into a step.

While a stage waits for the rest of an item whose input it has, everything is known but these bytes: the step is ready,
and so is what stands before them in the frame. Native code (native.StepHop) takes exactly that frame, runs the step,
and puts what it makes into the next ring. Whatever else comes goes the way of all items.
"""

from __future__ import annotations

import time

from cutset.cluster.messages import HopReport
from cutset.cluster.wire import ArrivedItem, Outbox
from cutset.cluster.worker.awaited_item import Arrivals, AwaitedItem, Got
from cutset.cluster.worker.native_item import ready_item
from cutset.cluster.worker.pipeline import RanItem
from cutset.kernels import native
from cutset.link import Link
from cutset.link.interface import RingLink, RingListener

__all__ = ["RingHop"]


class RingHop:
    """See HopWaiter."""

    def __init__(self, listener: RingListener) -> None:
        self._listener = listener
        self._hop = native.StepHop(listener.poller)
        self._arrivals = Arrivals()

    @property
    def since(self) -> float:
        """See HopWaiter."""
        return self._hop.since

    def wait(self, awaited: AwaitedItem, link: Link, to: Outbox | None, timeout: float) -> RanItem | Got | bool:
        """See HopWaiter."""
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
            with item.lending() as end_of_next:
                window = self._arrivals.window(item.nbytes, time.monotonic() - awaited.since, timeout)
                end = self._hop.run(
                    item.step,
                    item.linears,
                    client=slot,
                    receiver=rings.receiver,
                    front=front,
                    clock=clock,
                    sleep=window.sleep,
                    awake=window.awake,
                    late=window.late,
                    to=end_of_next,
                )
                if end.started:
                    item.end = end
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

"""The usual item of a hop over tcp: its hidden states go from the frame's bytes straight into a step.

As over shared memory (`ring_hop`), all but these bytes is known while a stage waits for them, and ready.
"""

from __future__ import annotations

import struct
import time

import numpy as np

from cutset.cluster.messages import HopReport
from cutset.cluster.wire import ArrivedItem, Outbox
from cutset.cluster.worker.awaited_item import Arrivals, AwaitedItem, Got
from cutset.cluster.worker.native_item import NativeItem, ready_item
from cutset.cluster.worker.pipeline import RanItem
from cutset.link import Link
from cutset.link.router import ZmqListener
from cutset.link.sockets import Awake

__all__ = ["FrameHop"]

CLOCK = struct.Struct(">d")


class FrameHop:
    """See HopWaiter."""

    def __init__(self, listener: ZmqListener) -> None:
        self.since = 0.0
        self._listener = listener
        self._arrivals = Arrivals()

    def wait(self, awaited: AwaitedItem, link: Link, to: Outbox | None, timeout: float) -> RanItem | Got | bool:
        """See HopWaiter."""
        stage = awaited.run.native
        item = None if stage is None else ready_item(stage, awaited.work, awaited.values)
        if item is None:
            return False
        try:
            if item.front is None:
                return False
            if to is not None:
                item.aim(to)
            window = self._arrivals.window(item.nbytes, time.monotonic() - awaited.since, timeout)
            awake = Awake(window.sleep, window.awake) if window.awake > 0 else None
            got = self._listener.recv_bytes(timeout, awake)
            if got is None:
                return self._listener.recv(0.0) or True
            came = time.monotonic()
            if got[0] is not link or (sent := sent_at(item, got[1])) is None:
                return self._listener.decoded(*got) or True
            try:
                self.since = came
                item.run(hidden_of(item, got[1]))
            finally:
                self.since = 0.0
        finally:
            if item.end is None:
                item.close()
        self._arrivals.observe(item.nbytes, came - awaited.since)
        hop = HopReport(item.nbytes, sent, came, came)
        return RanItem(awaited.run, ArrivedItem(awaited.work, (), hop), item)


def sent_at(item: NativeItem, data: memoryview) -> float | None:
    """When an item's frame was sent, by the sender's clock; None where these aren't the bytes of that."""
    if item.front is None:
        return None
    (front, clock), behind = item.front, item.front[1] + CLOCK.size
    if data.nbytes != len(front) + item.nbytes or data[:clock] != front[:clock]:
        return None
    if data[behind : len(front)] != front[behind:]:
        return None
    return float(CLOCK.unpack_from(data, clock)[0])


def hidden_of(item: NativeItem, data: memoryview) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The bytes behind the front of a frame, where floats may lie."""
    found = np.frombuffer(data, np.uint8)[-item.nbytes :]
    return found if found.view(np.float32).flags.aligned else found.copy()

"""An item whose step native code runs, and whose hidden states it puts behind what stands before them in a frame."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from cutset.cluster import messages
from cutset.cluster.messages import Work
from cutset.cluster.stage import NativeStage
from cutset.cluster.values import Array, Bytes
from cutset.cluster.wire import LIMITS, PIECE, Outbox
from cutset.errors import LinkError
from cutset.kernels import native
from cutset.link.channel import Channel
from cutset.link.frames import plan
from cutset.link.interface import RingLink

__all__ = ["NativeItem", "front_of", "ready_item"]

CLOCK = bytes.fromhex("c39e5a17e428b671")  # of a float in the place of a time: found in a front


def front_of(work: Work, nbytes: int) -> tuple[bytes, int] | None:
    """What stands before the one array of an item's frame, and where the sender's clock is in it; None where no frame
    looks so. `work` may be any message of the item: hops differ in nothing else than the array."""
    if nbytes > PIECE:
        return None
    rest = Work(work.plan, work.epoch, work.source, work.number, [], [nbytes], struct.unpack(">d", CLOCK)[0])
    front, [(_, _, at)], _ = plan(messages.encode(rest), [(np.uint8, (nbytes,))], LIMITS.frame)
    front += bytes(at - len(front))
    return (front, front.index(CLOCK)) if front.count(CLOCK) == 1 else None


class NativeItem:
    """A step that is ready. It is run once, by native code that calls `ran` or by `run`, and then closed."""

    def __init__(self, stage: NativeStage, work: Work, values: dict[str, Array], step: native.Step) -> None:
        self.stage, self.work, self.values, self.step = stage, work, values, step
        self.nbytes = step.hidden_bytes
        self.linears = stage.linears
        self.front = front_of(work, self.nbytes)  # of the frame that brings the hidden states, and of the next one's
        self.end: native.HopEnd | None = None
        self.sent = 0.0  # when the next worker was sent what it made; 0: it wasn't
        self._to: Outbox | None = None
        self._send: Callable[[], float] | None = None

    def is_of(self, work: Work) -> bool:
        """Whether a message is of this item."""
        return (work.source, work.number) == (self.work.source, self.work.number)

    def aim(self, to: Outbox) -> None:
        """What it makes goes there, as soon as it is there."""
        link = to.link
        if self.front is None:
            return
        if isinstance(link, RingLink):
            if (sender := link.sending()) is not None:
                self._to, self._send = to, partial(native.send_hidden, self.step, sender.end(), *self.front)
        elif isinstance(link, Channel):
            self._to, self._send = to, partial(self._send_frame, link, *self.front)

    def run(self, hidden: Bytes | None) -> None:
        """With the `nbytes` bytes of its hidden states; None at the first stage, whose step takes tokens."""
        self.ran(native.run_step(self.step, self.linears, hidden))

    def ran(self, end: native.HopEnd) -> None:
        """Its step ran, or failed. What it made is sent, where that can be done at once."""
        self.end, to, send = end, self._to, self._send
        if to is None or send is None or not end.ran or not to.hold():
            return
        try:
            self.sent = send()
        except (RuntimeError, LinkError):  # no room; or the link is over, as whoever sends in Python will find
            pass
        finally:
            to.let_go()

    def close(self) -> dict[str, Array]:
        """The outputs of an item that was run; {} where it wasn't, or they were sent. Raises CutsetError."""
        return self.stage.close_step(self.values, self.step, self.end, sent=self.sent > 0)

    def _send_frame(self, link: Channel, front: bytes, clock: int) -> float:
        link.send_frame(native.frame_of(self.step, front, clock), timeout=0.0)
        return time.monotonic()


def ready_item(stage: NativeStage, work: Work, values: dict[str, Array]) -> NativeItem | None:
    """The item that is next; None where it can't be one."""
    step = stage.ready_step(values)
    return None if step is None else NativeItem(stage, work, values, step)

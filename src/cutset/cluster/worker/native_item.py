"""An item whose step native code runs, and whose hidden states it puts behind what stands before them in a frame."""

from __future__ import annotations

import struct
import time

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
    """A step that is ready. It is run once, by native code or by `run`, which gives `end`, and then closed."""

    def __init__(self, stage: NativeStage, work: Work, values: dict[str, Array], step: native.Step) -> None:
        self.work, self.values, self.step = work, values, step
        self.nbytes = step.hidden_bytes
        self.linears = stage.linears
        self.front = front_of(work, self.nbytes)  # of the frame that brings the hidden states, and of the next one's
        self.end: native.HopEnd | None = None
        self.stage = stage

    def is_of(self, work: Work) -> bool:
        """Whether a message is of this item."""
        return (work.source, work.number) == (self.work.source, self.work.number)

    def run(self, hidden: Bytes | None) -> None:
        """With the `nbytes` bytes of its hidden states; None at the first stage, whose step takes tokens."""
        self.end = native.run_step(self.step, self.linears, hidden)

    def send(self, to: Outbox) -> float:
        """Sends the hidden states to the next worker: when they left, or 0 where that can't be done now."""
        link, ran = to.link, self.end is not None and self.end.ran
        if self.front is None or not ran or not isinstance(link, RingLink | Channel) or not to.hold():
            return 0.0
        try:
            if isinstance(link, Channel):
                link.send_frame(native.frame_of(self.step, *self.front), timeout=0.0)
                return time.monotonic()
            sender = link.sending()
            return 0.0 if sender is None else native.send_hidden(self.step, sender, *self.front)
        except (RuntimeError, LinkError):  # no room; or the link is over, as whoever sends in Python will find
            return 0.0
        finally:
            to.let_go()

    def close(self, *, sent: bool = False) -> dict[str, Array]:
        """The outputs of an item that was run; {} where it wasn't, or they were `sent`. Raises CutsetError."""
        return self.stage.close_step(self.values, self.step, self.end, sent=sent)


def ready_item(stage: NativeStage, work: Work, values: dict[str, Array]) -> NativeItem | None:
    """The item that is next; None where it can't be one."""
    step = stage.ready_step(values)
    return None if step is None else NativeItem(stage, work, values, step)

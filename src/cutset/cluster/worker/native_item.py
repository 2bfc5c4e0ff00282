"""An item whose step native code runs, and whose hidden states it puts behind what stands before them in a frame."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import msgspec
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

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

    from cutset.link._ring import Sender

__all__ = ["NativeItem", "front_of", "ready_item"]

CLOCK = bytes.fromhex("c39e5a17e428b671")  # of a float in the place of a time: found in a front
NUMBERS = {1: 0, 2: 1 << 7, 3: 1 << 8, 5: 1 << 16, 9: 1 << 32}  # the least that has so many bytes

encode = msgspec.msgpack.Encoder().encode


def front_of(work: Work, nbytes: int) -> tuple[bytes, int] | None:
    """What stands before the one array of an item's frame, and where the sender's clock is in it; None where no frame
    looks so. `work` may be any message of the item: hops differ in nothing else than the array."""
    if nbytes > PIECE:
        return None
    number = encode(work.number)
    known = _around_number(work.plan, work.epoch, work.source, len(number), nbytes)
    return None if known is None else (known[0] + number + known[1], known[2])


@lru_cache(maxsize=64)
def _around_number(
    plan_number: int, epoch: int, source: int, digits: int, nbytes: int
) -> tuple[bytes, bytes, int] | None:
    """What stands before and behind an item's number, which has so many bytes, and where the clock is."""
    some = NUMBERS[digits]
    work = Work(plan_number, epoch, source, some, [], [nbytes], struct.unpack(">d", CLOCK)[0])
    front, [(_, _, end)], _ = plan(messages.encode(work), [(np.uint8, (nbytes,))], LIMITS.frame)
    front += bytes(end - len(front))
    before = b"".join(map(encode, ("work", plan_number, epoch, source)))
    at = front.index(before) + len(before)
    if front.count(before) != 1 or front.count(CLOCK) != 1 or front[at : at + digits] != encode(some):
        return None
    return front[:at], front[at + digits :], front.index(CLOCK)


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
        self._sender: Sender | None = None

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
                self._to, self._sender = to, sender
                self._send = partial(native.send_hidden, self.step, sender.end(), *self.front)
        elif isinstance(link, Channel):
            self._to, self._send = to, partial(_send_frame, self.step, link, *self.front)

    @contextlib.contextmanager
    def lending(self) -> Iterator[CapsuleType | None]:
        """The sending end of the ring in which native code may put what the item's step makes, while nothing else is
        sent; None where there is none. `end` must be set within."""
        to, sender = self._to, self._sender
        if to is None or sender is None or not to.lend():
            yield None
            return
        try:
            yield sender.end()
        finally:
            to.take_back(sent=self.end is not None and self.end.sent_on > 0)

    def run(self, hidden: Bytes | None) -> None:
        """With the `nbytes` bytes of its hidden states; None at the first stage, whose step takes tokens."""
        front, clock = self.front or (None, 0)
        with self.lending() as to:
            self.end = native.run_step(self.step, self.linears, hidden, to=to, front=front, clock=clock)
        self.ran(self.end)

    def ran(self, end: native.HopEnd) -> None:
        """Its step ran, or failed. What it made is sent, where that can be done at once and native code didn't."""
        self.end, self.sent = end, end.sent_on
        to, send = self._to, self._send
        if self.sent or to is None or send is None or not end.ran or not to.hold():
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


def _send_frame(step: native.Step, link: Channel, front: bytes, clock: int) -> float:
    link.send_frame(native.frame_of(step, front, clock), timeout=0.0, urgent=True)
    return time.monotonic()


def ready_item(stage: NativeStage, work: Work, values: dict[str, Array]) -> NativeItem | None:
    """The item that is next; None where it can't be one."""
    step = stage.ready_step(values)
    return None if step is None else NativeItem(stage, work, values, step)

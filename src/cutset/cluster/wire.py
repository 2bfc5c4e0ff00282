"""From messages to frames and back: what is large goes in pieces, so that nothing waits long behind it."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from cutset.cluster import messages
from cutset.cluster.messages import MOST_BODY, Body, HopReport, Message, More, Work
from cutset.cluster.values import Bytes
from cutset.errors import CutsetError, FrameError, LinkError, LinkTimeout
from cutset.link import Frame, Limits, Link
from cutset.link.frames import MAX_ARRAYS, MAX_HEADER
from cutset.link.interface import RingLink
from cutset.partition.hop import Hop

if TYPE_CHECKING:
    from cutset.cluster.emulation import EmulatedLink

__all__ = ["LIMITS", "PIECE", "ArrivedItem", "Assembler", "Outbox", "paced", "pack", "piece_bytes", "pieces", "unpack"]

Packed = tuple[bytes, Sequence[Bytes]]

PIECE = 256 << 10  # bytes of arrays in a frame: on a slow link a heartbeat waits for one of them, not for a tensor
LEAST_PIECE = 1 << 10
PIECE_SECONDS = 0.25  # that a frame takes at most on a link whose bandwidth is known
LIMITS = Limits(frame=MOST_BODY + (1 << 20), queue=16)
GIVE_UP = 30.0  # seconds without room for a frame, after which the other side counts as gone


def pack(message: Message, arrays: Sequence[Bytes] = ()) -> Packed:
    """Header and arrays of a frame. A message without arrays may be larger than a header: then it is an array."""
    header = messages.encode(message)
    if len(header) <= MAX_HEADER:
        return header, arrays
    if arrays or len(header) > MOST_BODY:
        raise FrameError(f"a message of {len(header)} bytes can't be sent; the most is {MOST_BODY}")
    return messages.encode(Body()), [np.frombuffer(header, np.uint8)]


def unpack(frame: Frame) -> tuple[Message, tuple[Bytes, ...]]:
    """The message of a frame and its arrays, which are valid as long as the frame. Raises FrameError."""
    message = messages.decode(frame.header)
    if any(array.dtype != np.uint8 or array.ndim != 1 for array in frame.arrays):
        raise FrameError("an array of a message isn't bytes")
    if not isinstance(message, Body):
        return message, frame.arrays
    if len(frame.arrays) != 1 or frame.arrays[0].size > MOST_BODY:
        raise FrameError("a large message isn't one array")
    message = messages.decode(frame.arrays[0].tobytes())
    if isinstance(message, Body | Work | More):
        raise FrameError("a large message that may not be one")
    return message, ()


def piece_bytes(bandwidth: float) -> int:
    """Bytes of arrays in a frame, for a link of so many bytes a second."""
    return int(min(PIECE, max(bandwidth * PIECE_SECONDS, LEAST_PIECE)))


def paced(link: Link, hop: Hop) -> EmulatedLink:
    """The link, from now on as slow as that one would be."""
    from cutset.cluster.emulation import EmulatedLink

    if isinstance(link, EmulatedLink):
        link.hop = hop
        return link
    return EmulatedLink(link, hop, queue=2, limits=LIMITS)


def pieces(work: Work, arrays: Sequence[Bytes], size: int = PIECE) -> Iterator[Packed]:
    """The frames of an item, made when they are sent. `arrays` have the lengths that `work` says.

    At most `size` bytes of arrays a frame.
    """
    header = messages.encode(structs.replace(work, sent=time.monotonic()))
    if len(arrays) <= MAX_ARRAYS and sum(work.lengths) <= size:
        yield header, arrays
        return
    parts: list[Bytes] = []
    room = size
    for array in arrays:
        at = 0
        while at < array.size:
            if not room or len(parts) == MAX_ARRAYS:
                yield header, parts
                header, parts, room = messages.encode(More()), [], size
            part = array[at : at + room]
            parts.append(part)
            at += part.size
            room -= part.size
    yield header, parts


@dataclass
class ArrivedItem:
    """An item as it came over a hop: its message, its arrays, and how long they were on the way."""

    work: Work
    arrays: Sequence[Bytes]
    hop: HopReport

    def free(self) -> None:
        """Lets go of the arrays, once they are decoded."""
        self.arrays = ()


class Assembler:
    """Puts the pieces of a link's items together; one item at a time. `limit` bounds an item's bytes."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._data: Bytes = np.empty(0, np.uint8)
        self._filled = 0
        self._first = 0.0  # when the first frame came

    def begin(self, work: Work, arrays: Sequence[Bytes], limit: int) -> ArrivedItem | None:
        """Takes a Work; the item, if that is all of it. Its arrays are copies. Raises FrameError."""
        if self._work is not None:
            raise FrameError("an item began before the last one was whole")
        if sum(work.lengths) > limit:
            raise FrameError(f"an item of {sum(work.lengths)} bytes came where {limit} are the most")
        self._work, self._data, self._filled = work, np.empty(sum(work.lengths), np.uint8), 0
        self._first = time.monotonic()
        return self._fill(arrays)

    def more(self, arrays: Sequence[Bytes]) -> ArrivedItem | None:
        """Takes a More."""
        if self._work is None:
            raise FrameError("bytes came that belong to no item")
        return self._fill(arrays)

    def _fill(self, arrays: Sequence[Bytes]) -> ArrivedItem | None:
        for array in arrays:
            if self._filled + array.size > self._data.size:
                self._work = None
                raise FrameError("more bytes came than an item was said to have")
            self._data[self._filled : self._filled + array.size] = array
            self._filled += array.size
        if self._filled < self._data.size or self._work is None:
            return None
        work, data, self._work, self._data = self._work, self._data, None, np.empty(0, np.uint8)
        found, at = [], 0
        for length in work.lengths:
            found.append(data[at : at + length])
            at += length
        return ArrivedItem(work, found, HopReport(data.size, work.sent, self._first, time.monotonic()))


@dataclass
class _Sending:
    """Frames on their way out, and whom to tell when they have left."""

    frames: Iterator[Packed]
    done: Callable[[float, float], None] | None
    start: float = 0.0


class Outbox:
    """Sends on one link from a thread of its own, so that nobody waits for a slow link who needn't. What has room on
    the link while nothing else is sent needn't wait for that thread to wake up: see `data`.

    Messages overtake items, and both overtake weights, between two pieces. `broken` is called once, with the reason,
    when the link fails.
    """

    def __init__(self, link: Link, name: str, broken: Callable[[CutsetError], None], most: int = 2) -> None:
        self.link = link
        self.broken = False
        self.carried = 0  # frames of weights that left
        self._on_broken = broken
        self._most = most
        self._control: deque[Packed] = deque()
        self._data: deque[_Sending] = deque()
        self._bulk: deque[Iterator[Packed]] = deque()
        self._lock = threading.RLock()
        self._ready = threading.Condition(self._lock)
        self._closing = False
        self._current: _Sending | None = None  # whose frames leave one by one
        self._held = False  # a thread sends; nobody else may
        self._lent = False  # native code may send items at any moment; messages leave as ever
        self._busy = False  # with what isn't a message
        self._moved = True  # some of that left since the last heartbeat
        self._thread = threading.Thread(target=self._run, name=f"cutset-send-{name}", daemon=True)
        self._thread.start()

    def say(self, message: Message) -> None:
        """Queues a message; nothing happens on a link that is gone."""
        packed = pack(message)
        with self._ready:
            if not self.broken and not self._closing:
                self._control.append(packed)
                self._ready.notify_all()

    def beat(self, message: Message) -> None:
        """Queues a heartbeat, unless something else waits that is one as well.

        On a link that is as slow as heartbeats are frequent, at least one other frame leaves between two of them.
        """
        with self._ready:
            waiting = self._busy or self._data or self._bulk
            if self._control or (waiting and not self._moved):
                return
            self._moved = False
        self.say(message)

    def data(
        self,
        frames: Iterable[Packed],
        *,
        wait: bool = True,
        done: Callable[[float, float], None] | None = None,
        direct: bool = False,
    ) -> bool:
        """Queues frames, and waits until there is room for them. `done` is called when they left, with start and end.
        `direct`: this thread sends them itself, as far as that can be done without waiting.

        False where the link is gone.
        """
        sending = _Sending(iter(frames), done)
        with self._ready:
            while wait and len(self._data) >= self._most and not self.broken and not self._closing:
                self._ready.wait(0.5)
            if self.broken or self._closing:
                return False
            if not direct or not self.hold():
                self._data.append(sending)
                self._ready.notify_all()
                return True
        self._send_now(sending)
        return True

    def hold(self) -> bool:
        """Keeps everybody else from sending, until `let_go`; False where something is sent, or waits."""
        with self._lock:  # itself: a hop's hidden states wait for this
            if self.broken or self._closing or self._held or self._lent or self._waiting:
                return False
            self._held = self._busy = self._moved = True
        return True

    def lend(self) -> bool:
        """Leaves it to native code to send items on this link, until `take_back`: no others leave meanwhile, while
        messages do. False where something is sent, or waits."""
        with self._lock:
            if self.broken or self._closing or self._held or self._lent or self._waiting:
                return False
            self._lent = True
        return True

    def take_back(self, *, sent: bool) -> None:
        """Items may leave again; whether one was `sent` meanwhile."""
        with self._ready:
            self._lent = False
            self._moved = self._moved or sent
            if self._waiting or self._closing:
                self._ready.notify_all()

    def let_go(self) -> None:
        """Others may send again."""
        with self._ready:
            self._held = self._busy = False
            if self._waiting or self._closing:
                self._ready.notify_all()

    @property
    def _waiting(self) -> bool:
        return bool(self._control or self._others)

    @property
    def _others(self) -> bool:
        """What isn't a message."""
        return bool(self._current or self._data or self._bulk)

    def _send_now(self, sending: _Sending) -> None:
        """Sends frames from the caller's thread; what there is no room for is left to this outbox's own."""
        error: CutsetError | None = None
        sending.start = time.monotonic()
        packed = None
        try:
            for packed in sending.frames:
                self.link.send(packed[0], packed[1], timeout=0.0)
            packed = None
            if not isinstance(self.link, RingLink):
                os.sched_yield()  # to the thread that sends it: woken alone, it may wait until this one sleeps
        except LinkTimeout:  # it wasn't sent
            pass
        except CutsetError as failed:
            error = failed
        with self._ready:
            if packed is not None and error is None:
                self._current = replace(sending, frames=chain([packed], sending.frames))
            self.let_go()
        if error is not None:
            self._fail(error)
        elif packed is None and sending.done is not None:
            sending.done(sending.start, time.monotonic())

    def pace(self, hop: Hop) -> None:
        """From now on this link is as slow as that one would be."""
        self.link = paced(self.link, hop)

    def bulk(self, frames: Iterable[Packed]) -> None:
        """Queues frames that go when there is nothing else to send."""
        with self._ready:
            if not self.broken and not self._closing:
                self._bulk.append(iter(frames))
                self._ready.notify_all()

    def close(self, last: Message | None = None) -> None:
        """Ends the thread and the link; `last` is sent before, if that is quick."""
        with self._ready:
            self._closing = True
            self._data.clear()
            self._bulk.clear()
            if last is not None and not self.broken:
                self._control.append(pack(last))
            self._ready.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)
        self.link.close()

    def _run(self) -> None:
        mine = False
        while True:
            bulk: Iterator[Packed] | None = None
            with self._ready:
                self._held = self._held and not mine
                while self._held or not (
                    self._control or (self._others and not self._lent) or self._closing or self.broken
                ):
                    self._ready.wait()
                if self.broken:
                    return
                packed = self._control.popleft() if self._control else None
                if packed is None:
                    if self._closing:
                        return
                    if self._current is None and self._data:
                        self._current = self._data.popleft()
                        self._current.start = time.monotonic()
                        self._ready.notify_all()
                    elif self._current is None:
                        bulk = self._bulk[0]
                current = self._current
                self._held = mine = True
                self._busy = current is not None or bulk is not None
                self._moved = self._moved or packed is None
            try:
                if packed is None and current is not None:
                    packed = next(current.frames, None)
                    if packed is None:
                        if current.done is not None:
                            current.done(current.start, time.monotonic())
                        self._current = None
                elif packed is None and bulk is not None and (packed := next(bulk, None)) is None:
                    with self._ready:
                        if self._bulk and self._bulk[0] is bulk:
                            self._bulk.popleft()
                if packed is not None:
                    self._send(packed)
                    self.carried += bulk is not None
            except CutsetError as error:
                self._fail(error)
                return
            except Exception as error:  # a bug of ours: nothing is sent any more, and `broken` is called
                traceback.print_exc()
                self._fail(LinkError(f"sending failed: {type(error).__name__}"))
                return

    def _send(self, packed: Packed) -> None:
        header, arrays = packed
        waited = 0.0
        while True:
            try:
                self.link.send(header, arrays, timeout=0.5)
                return
            except LinkTimeout:
                waited += 0.5
                if waited >= GIVE_UP or self._closing:
                    raise

    def _fail(self, error: CutsetError) -> None:
        with self._ready:
            known = self.broken or self._closing
            self.broken = True
            self._control.clear()
            self._data.clear()
            self._bulk.clear()
            self._ready.notify_all()
        if not known:
            self._on_broken(error)

"""A link that is as slow as another one would be."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cutset.cluster.emulation.bandwidth import Wire
from cutset.errors import LinkClosed, LinkError, LinkTimeout
from cutset.link import Frame, Limits, Link, Reservation, Timeouts
from cutset.link.channel import timed_out
from cutset.link.frames import Layout, encode, plan
from cutset.partition.hop import Hop

__all__ = ["EmulatedLink"]

LINGER = 0.2  # seconds that close() may take to deliver what waits, as with ZeroMQ
IDLE = 1.0  # seconds between two looks at nothing
SLICE = 0.1  # seconds between two looks at whether this link is to be closed
MOST = 1024  # frames that may be on their way at once, whatever the latency


class EmulatedLink:
    """One direction of a Link, paced: what is sent here leaves at the hop's bandwidth and arrives after its latency.

    Frames keep their order, and a thread delivers them. At most `queue` of them wait for the wire; then `send` waits
    for room. An error of the link below is raised by the next call. `recv` passes through: pace the other side's end
    for that direction. While this link is open nobody else may send on the one below.
    """

    def __init__(
        self,
        link: Link,
        hop: Hop,
        *,
        queue: int = 8,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limits` and `timeouts` are those of the link below, where they aren't the usual ones."""
        self.address = link.address
        self.peer = link.peer
        self.user = link.user
        self._link = link
        self._wire = Wire(hop)
        self._queue = queue
        self._limit = (limits or Limits()).frame
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._frames: deque[tuple[bytes, list[np.ndarray[Any, Any]]]] = deque()  # on the wire or in flight
        self._changed = threading.Condition()
        self._error: LinkError | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._deliver, name="cutset-emulated-link", daemon=True)
        self._thread.start()

    @property
    def hop(self) -> Hop:
        """What is emulated; it may be changed at any time, and holds for what hasn't left yet."""
        return self._wire.hop

    @hop.setter
    def hop(self, hop: Hop) -> None:
        with self._changed:
            self._wire.change(hop, self._clock())
            self._changed.notify_all()

    def send(self, header: bytes, arrays: Sequence[ArrayLike] = (), *, timeout: float | None = None) -> None:
        """Puts a frame on the wire; it waits for room. Raises LinkError."""
        _, nbytes = encode(header, arrays, self._limit)
        self._put(header, [np.array(array, order="C") for array in arrays], nbytes, timeout)

    def reserve(self, header: bytes, layout: Layout, *, timeout: float | None = None) -> Reservation:
        """Memory for the arrays of a frame, which is sent when it is filled. Raises LinkError."""
        self._check()
        _, places, nbytes = plan(header, layout, self._limit)
        arrays: list[np.ndarray[Any, Any]] = [np.empty(shape, dtype) for dtype, shape, _ in places]
        return Reservation(tuple(arrays), lambda: self._put(header, arrays, nbytes, timeout))

    def start(self, header: bytes, arrays: Sequence[ArrayLike] = ()) -> Callable[[], bool]:
        """A call that sends the frame if there is room, and says whether it did."""

        def go() -> bool:
            try:
                self.send(header, arrays, timeout=0.0)
            except LinkTimeout:
                return False
            return True

        return go

    def recv(self, timeout: float | None = None, limit: int | None = None) -> Frame:
        """As the link below."""
        return self._link.recv(timeout, limit)

    def stay_awake(self, seconds: float) -> None:
        """As the link below."""
        self._link.stay_awake(seconds)

    def close(self) -> None:
        """Delivers what is on the wire, if that is quick, and closes the link below."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._link.close()

    def _check(self) -> None:
        if self._error is not None:
            raise type(self._error)(str(self._error))
        if self._closing:
            raise LinkClosed("this link was closed here")

    def _put(self, header: bytes, arrays: list[np.ndarray[Any, Any]], nbytes: int, timeout: float | None) -> None:
        wait = self._timeouts.send if timeout is None else timeout
        deadline = time.monotonic() + wait
        with self._changed:
            self._check()
            while self._full():
                if (left := deadline - time.monotonic()) <= 0:
                    raise timed_out(self.peer, wait, sending=True)
                self._changed.wait(left)
                self._check()
            self._frames.append((header, arrays))
            self._wire.offer(nbytes, self._clock())
            self._changed.notify_all()

    def _full(self) -> bool:
        # Frames that have arrived but aren't taken, since the receiver is slow, wait as well.
        waiting = len(self._frames) - self._wire.in_flight(self._clock())
        return waiting >= self._queue or len(self._frames) >= MOST

    def _deliver(self) -> None:
        until = None  # when close() waits no longer
        while True:
            with self._changed:
                if self._closing and until is None:
                    until = time.monotonic() + LINGER
                count = self._wire.arrived(self._clock())
                if not count:
                    if until is not None and (not self._frames or time.monotonic() >= until):
                        return
                    event = self._wire.next_event()
                    wait = IDLE if event is None else min(max(event - self._clock(), 0.0), IDLE)
                    self._changed.wait(wait if until is None else min(wait, max(until - time.monotonic(), 0.0)))
                    continue
            for _ in range(count):
                try:
                    if not self._hand_over(*self._frames[0]):
                        return
                except LinkError as error:
                    with self._changed:
                        self._error = error
                        self._frames.clear()
                        self._changed.notify_all()
                    return
                with self._changed:
                    self._frames.popleft()
                    self._changed.notify_all()

    def _hand_over(self, header: bytes, arrays: list[np.ndarray[Any, Any]]) -> bool:
        """Sends on the link below; False where that takes nothing and this link is to be closed."""
        start = time.monotonic()
        while True:
            try:
                self._link.send(header, arrays, timeout=SLICE)
            except LinkTimeout:  # nothing was sent
                waited = time.monotonic() - start
                if self._closing and waited > LINGER:
                    return False
                if waited > self._timeouts.send:
                    raise
            else:
                return True

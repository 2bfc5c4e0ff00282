"""Links inside one process: for tests, and to run both parties in one place."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection

from cutset.errors import FrameError, LinkClosed, LinkError
from cutset.link.channel import Channel, timed_out
from cutset.link.frames import Frame, decode
from cutset.link.interface import Link
from cutset.link.limits import Limits, Timeouts

__all__ = ["connect", "listen"]

SLICE = 0.1  # seconds; a wait is never longer without a look at signals

_listeners: dict[str, InprocListener] = {}
_registry = threading.Condition()


class InprocLink(Channel):
    """One end of a link inside this process: a queue of frames for each direction, of at most `limits.queue`."""

    def __init__(
        self, address: str, peer: str, timeouts: Timeouts, limits: Limits, mail: threading.Condition | None = None
    ) -> None:
        super().__init__(address, peer, timeouts, limits)
        self._queue = limits.queue
        self._mail = mail or threading.Condition()  # guards what this end receives
        self._inbox: deque[bytes | bytearray] = deque()
        self._open = True
        self._other: InprocLink = self

    def _put(self, data: bytes | bytearray, timeout: float, *, urgent: bool = False) -> None:
        other, deadline = self._other, time.monotonic() + timeout
        with other._mail:
            while self._open and other._open:
                if len(other._inbox) < self._queue:
                    other._inbox.append(data)
                    other._mail.notify_all()
                    return
                if (left := deadline - time.monotonic()) <= 0:
                    raise timed_out(self.peer, timeout, sending=True)
                other._mail.wait(min(left, SLICE))
        raise LinkClosed(f"{self.peer} closed the link")

    def _take(self, timeout: float) -> memoryview:
        deadline = time.monotonic() + timeout
        with self._mail:
            while True:
                if not self._open:
                    raise LinkClosed("this link was closed here")
                if self._inbox:
                    data = self._inbox.popleft()
                    self._mail.notify_all()
                    return memoryview(data).toreadonly()
                if not self._other._open:
                    raise LinkClosed(f"{self.peer} closed the link")
                if (left := deadline - time.monotonic()) <= 0:
                    raise timed_out(self.peer, timeout, sending=False)
                self._mail.wait(min(left, SLICE))

    def close(self) -> None:
        """Ends the channel and wakes who waits on either end. A second call does nothing."""
        self._open = False
        for end in (self, self._other):
            with end._mail:
                end._mail.notify_all()


class InprocListener:
    """`mail` guards the inboxes of all of its ends, so that one wait is for all clients."""

    def __init__(self, address: str, timeouts: Timeouts, limits: Limits) -> None:
        self.address = address
        self.timeouts = timeouts
        self.limits = limits
        self.mail = threading.Condition()
        self.ends: deque[InprocLink] = deque()  # the next one to be served first
        self._gone: list[Link] = []
        self._open = True

    def recv(self, timeout: float) -> tuple[Link, Frame] | None:
        """The next frame and its client, in turns; None after `timeout` seconds. Raises LinkClosed."""
        deadline = time.monotonic() + timeout
        with self.mail:
            while True:
                if not self._open:
                    raise LinkClosed(f"the listener at {self.address} was closed")
                for _ in range(len(self.ends)):
                    end = self.ends[0]
                    self.ends.rotate(-1)
                    if not end._open or (not end._inbox and not end._other._open):
                        self._drop(end)
                    elif end._inbox:
                        data = end._inbox.popleft()
                        self.mail.notify_all()
                        try:
                            return end, decode(memoryview(data).toreadonly(), 0, len(data), self.limits.frame)
                        except FrameError:
                            self._drop(end)
                if (left := deadline - time.monotonic()) <= 0:
                    return None
                self.mail.wait(min(left, SLICE))

    def _drop(self, end: InprocLink) -> None:
        self.ends.remove(end)
        self._gone.append(end)
        end._open = False

    def gone(self) -> list[Link]:
        """Clients that closed or sent what isn't a frame, since the last call."""
        with self.mail:
            for end in [end for end in self.ends if not end._open or (not end._inbox and not end._other._open)]:
                self._drop(end)
        found, self._gone = self._gone, []
        return found

    def expect(self, keys: Collection[bytes]) -> None:
        """Who connects here has no key."""

    def stay_awake(self, seconds: float) -> None:
        """This listener sleeps at once."""

    def close(self) -> None:
        """Ends every link and frees the address. A second call does nothing."""
        with _registry:
            if _listeners.get(self.address) is self:
                del _listeners[self.address]
        self._open = False
        for end in list(self.ends):
            end.close()


def listen(address: str, timeouts: Timeouts, limits: Limits) -> InprocListener:
    """A listener at an address that is known in this process alone. Raises LinkError where the address is taken."""
    listener = InprocListener(address, timeouts, limits)
    with _registry:
        if address in _listeners:
            raise LinkError(f"{address} is taken: something in this process listens there already")
        _listeners[address] = listener
        _registry.notify_all()
    return listener


def connect(address: str, timeouts: Timeouts, limits: Limits) -> InprocLink:
    """A link to the listener at an address, waited for until `timeouts.connect`. Raises LinkClosed where there is none,
    or it has as many clients as it takes."""
    deadline = time.monotonic() + timeouts.connect
    with _registry:
        while (listener := _listeners.get(address)) is None:
            if (left := deadline - time.monotonic()) <= 0:
                raise LinkClosed(f"nobody listens at {address}: start the other side first, in this process")
            _registry.wait(min(left, SLICE))
        here = InprocLink(address, address, timeouts, limits)
        there = InprocLink(address, "a client in this process", listener.timeouts, listener.limits, listener.mail)
        here._other, there._other = there, here
        with listener.mail:
            if len(listener.ends) >= listener.limits.clients:
                raise LinkClosed(f"{address} has as many clients as it takes, {listener.limits.clients}")
            listener.ends.append(there)
    return here

"""A ZeroMQ socket that one thread may send on while another one receives.

ZeroMQ's own sockets are for one thread at a time. Here a lock is held for calls that don't wait, and waiting is done
on the socket's descriptor outside of it. That descriptor is edge-triggered: it is readable only once after something
came, and a call that sends may take that signal; so a sender that finds something to be received says so on a second
descriptor.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

__all__ = ["Awake", "SharedSocket"]

SLICE = 0.5  # seconds; a wait is never longer without a look at the connection, which says by itself when it breaks
RETRY_MS = 2  # between two tries to send when there is no room, should a receiver take the signal that there is
COPIED = 1 << 16  # bytes; sending a smaller message by copy is quicker
TAKEN = 200e-6  # seconds between two looks, which show that others need this core


class Awake(NamedTuple):
    """When a wait stays awake, in seconds: so long after so much sleep, or until others need the core."""

    after: float
    seconds: float


class SharedSocket:
    """A ZeroMQ socket that one thread may send on while another one receives."""

    def __init__(self, context: zmq.Context[Any], raw: zmq.Socket[bytes], owned: Any) -> None:
        """`owned` is stopped when the socket closes."""
        self._raw = raw
        self._lock = threading.Lock()
        self._monitor = raw.get_monitor_socket(zmq.EVENT_ALL)
        self._monitor_lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._receiving = False
        self._poll = select.poll()
        self._poll.register(raw.FD, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(self._monitor.FD, select.POLLIN)  # a connection that breaks is noticed at once
        self._descriptor = raw.FD
        self._news = self._monitor.FD
        self._heard = False  # this descriptor is edge-triggered, too: what came before must have been read
        self.closed = False
        # Should nobody close it: pyzmq would end the context first, and wait for its sockets for ever.
        self._held = _Held(context, raw, self._monitor, owned, self._wake)
        self._end = weakref.finalize(self, _forgotten, self._held)
        self._end.atexit = False

    def send(
        self,
        parts: Sequence[bytes | bytearray | memoryview],
        timeout: float,
        alive: Callable[[], bool] | None,
        *,
        urgent: bool = False,
    ) -> bool:
        """False when there was no room until `timeout`, or when `alive`, asked now and then, said no. `urgent`: the
        core is offered to ZeroMQ's own thread, which encrypts and sends: woken alone, it may wait until this one
        sleeps."""
        deadline, asked = None, 0.0
        while True:
            with self._lock:
                if self.closed:
                    return False
                try:
                    for i, part in enumerate(parts):  # there is room for all, or not for the first
                        more = zmq.SNDMORE if i + 1 < len(parts) else 0
                        self._raw.send(part, zmq.DONTWAIT | more, copy=len(part) < COPIED)
                    sent = True
                except zmq.Again:
                    sent = False
                if not urgent or not sent:
                    self._tell_receiver()
            if sent and urgent:
                os.sched_yield()
                with self._lock:
                    self._tell_receiver()
            if sent:
                return True
            now = time.monotonic()
            if deadline is None:
                deadline = now + timeout
            if now - asked > SLICE and alive is not None:
                asked = now
                if not alive():
                    return False
            if now >= deadline:
                return False
            room = select.poll()  # its own: several may wait to send, on one listener's links
            room.register(self._descriptor, select.POLLIN)
            room.poll(RETRY_MS)

    def _tell_receiver(self) -> None:
        """What waits to be received, if this thread may have taken the signal that it came."""
        if not self.closed and self._receiving and int(self._raw.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            os.eventfd_write(self._wake, 1)

    def recv(self, timeout: float, alive: Callable[[], bool], awake: Awake | None = None) -> list[zmq.Frame] | None:
        """The parts of the next message; None after `timeout`, or when there is none and `alive` says no."""
        deadline = None
        while True:
            with self._lock:
                if self.closed:
                    return None
                self._receiving = False
                try:
                    return self._raw.recv_multipart(zmq.DONTWAIT, copy=False)
                except zmq.Again:
                    self._receiving = True
            now = time.monotonic()
            if deadline is None:
                deadline = now + timeout
            if (left := deadline - now) <= 0:
                return None
            ready = {self._news}
            if self._heard:
                if awake is None:
                    ready = {descriptor for descriptor, _ in self._poll.poll(min(left, SLICE) * 1000)}
                else:
                    ready, awake = self._ready_soon(min(left, SLICE), awake), None
            self._heard = True
            if (not ready or self._news in ready) and not alive():
                # What came before the connection broke is still to be had.
                with self._lock, contextlib.suppress(zmq.Again):
                    return None if self.closed else self._raw.recv_multipart(zmq.DONTWAIT, copy=False)
                return None
            if self._wake in ready:
                with self._lock, contextlib.suppress(BlockingIOError):
                    if not self.closed:  # else the descriptor may be someone else's by now
                        os.eventfd_read(self._wake)

    def _ready_soon(self, longest: float, awake: Awake) -> set[int]:
        """What becomes readable in that time, some of which is spent awake: to be woken takes long where a core sleeps
        too. Between two looks ZeroMQ's own threads get the core."""
        start = time.monotonic()
        end = start + min(awake.after + awake.seconds, longest)
        found = self._poll.poll(int(1000 * min(awake.after, longest)))  # rather early than late
        looked = time.monotonic()
        while not found and looked < end:
            os.sched_yield()
            found, before, looked = self._poll.poll(0), looked, time.monotonic()
            if looked - before > TAKEN:
                break
        if not found and (left := longest - (looked - start)) > 0:
            found = self._poll.poll(left * 1000)
        return {descriptor for descriptor, _ in found}

    def readable(self) -> bool:
        """A message waits."""
        with self._lock:
            return not self.closed and bool(int(self._raw.EVENTS) & zmq.POLLIN)

    def events(self, wait: float = 0.0) -> Iterator[tuple[int, int]]:
        """What happened to connections since the last call: (event, descriptor or detail)."""
        with self._monitor_lock:
            if self.closed:
                return
            if wait:
                self._monitor.poll(int(wait * 1000) + 1)
            while True:
                try:
                    message = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                except zmq.Again:
                    return
                yield int(message["event"]), int(message["value"])

    def close(self, linger: int, *, last: bool = True) -> None:
        """`linger`: milliseconds that may pass until what waits is sent. The `last` socket ends the context too."""
        with self._lock, self._monitor_lock:
            if self.closed:
                return
            self.closed = True
            self._end.detach()
            self._held.release(linger)
        if last:
            self._held.context.term()


@dataclass(frozen=True, slots=True)
class _Held:
    """What a socket must give back."""

    context: zmq.Context[Any]
    raw: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    owned: Any
    wake: int

    def release(self, linger: int) -> None:
        """All but the context."""
        self.raw.disable_monitor()
        self.raw.close(linger)
        self.monitor.close(0)
        if self.owned is not None:
            self.owned.stop()
        os.close(self.wake)


def _forgotten(held: _Held) -> None:
    held.release(linger=0)
    held.context.term()
    warnings.warn("a link was never closed", ResourceWarning, stacklevel=2)

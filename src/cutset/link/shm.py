"""Links over shared memory: one end. shm_client.py and shm_listener.py are the two ways to one.

Each client has two rings in memory of its own. What fits in half a ring is sent and received in place; what doesn't
travels in pieces, which the receiving side puts together in private memory.
"""

from __future__ import annotations

import functools
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cutset.config import usable_cores
from cutset.errors import DeviceError, FrameError, LinkClosed
from cutset.link import segment
from cutset.link.channel import timed_out
from cutset.link.frames import Frame, Layout, Part, decode, encode, plan
from cutset.link.interface import Record, Reservation, RingLink, Rings
from cutset.link.limits import Limits, Timeouts

try:
    from cutset.link import _ring as ring
except ImportError as error:
    raise DeviceError(f"shared memory needs the extension ({error}); reinstall Cutset with a C++ compiler") from None

__all__ = ["DATA_BELL", "SLICE", "ShmLink", "patience", "ring"]

SLICE = 0.1  # seconds; how often a waiting side looks whether the other process still runs
DATA_BELL = 128  # offset in a ring's words
WHOLE, FIRST, NEXT, CLOSED = ring.WHOLE, ring.FIRST, ring.NEXT, ring.CLOSED
Broken = ring.Broken


def patience(timeouts: Timeouts) -> tuple[float, bool]:
    """Seconds awake, and whether to take naps instead of sleeping on a futex."""
    return (timeouts.spin if usable_cores() > 1 else 0.0), segment.in_enclave()


class ShmLink(RingLink):
    """One end. `alive` says whether the other side is there; `ended` is called once when the link is over."""

    def __init__(
        self,
        address: str,
        peer: str,
        timeouts: Timeouts,
        limits: Limits,
        memory: mmap.mmap,
        sender: ring.Sender,
        receiver: ring.Receiver,
        incoming: int,
        outgoing: int,
        alive: Callable[[], bool],
        ended: Callable[[ShmLink], None],
        user: int | None = None,
    ) -> None:
        self._address, self._peer, self._user = address, peer, user
        self.timeouts = timeouts
        self.receiver = receiver
        self._sender = sender
        self._limit = self._most = limits.frame  # bytes of a frame, and of the next one
        self._whole = sender.largest
        self._memory = memory
        self._view = memoryview(memory).toreadonly()
        self._incoming = incoming  # where the ring that is received from begins in the memory
        self._outgoing = outgoing
        self.alive = alive
        self._ended = ended
        self._held: deque[int] = deque()  # ends of records that were received and not yet released
        self._done: set[int] = set()  # of these, the ones released before an older one
        self._releasing = threading.Lock()  # whoever computes may release while another thread receives
        self._partial: NDArray[np.uint8] | None = None
        self._filled = 0
        self.why = ""  # what ended the link; empty while it lasts
        self._reserved: object = None  # the reservation that has the ring's free place
        self._receives_no_more = False  # what came before isn't read any more
        self._returned: Record | None = None

    @property
    def address(self) -> str:
        return self._address

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def user(self) -> int | None:
        return self._user

    def rings(self) -> Rings | None:
        if self.why or self._returned is not None:
            return None
        self._release_all()
        return Rings(self._sender, self.receiver)

    def sending(self) -> ring.Sender | None:
        return None if self.why else self._sender

    def put_back(self, record: Record) -> None:
        self._returned = record

    def send(self, header: bytes, arrays: Sequence[ArrayLike] = (), *, timeout: float | None = None) -> None:
        parts, total = encode(header, arrays, self._limit)
        limit = self.timeouts.send if timeout is None else timeout
        if total > self._whole:
            if limit <= 0:  # what can't be sent at once isn't begun
                self._check(False)
                raise timed_out(self.peer, limit, sending=True)
            self._send_pieces(parts, total, limit)
            return
        try:
            sent = 0 if self.why else self._sender.send(parts, 0.0)
        except Broken as error:
            self._broken(error)
        if sent != 1:
            self._wait(functools.partial(self._sender.send, parts), limit)

    def start(self, header: bytes, arrays: Sequence[ArrayLike] = ()) -> Callable[[], bool]:
        parts, total = encode(header, arrays, self._limit)
        pieces: deque[tuple[list[Part] | list[memoryview], int]] = deque([(parts, WHOLE)])
        if total > self._whole:
            pieces = deque(self._pieces(parts, total))

        def go() -> bool:
            while pieces:
                piece, kind = pieces[0]
                try:
                    sent = -1 if self.why else self._sender.send(piece, 0.0, kind=kind, total=total)
                except Broken as error:
                    self._broken(error)
                if sent != 1:
                    self._check(sent < 0)
                    return False
                pieces.popleft()
            return True

        return go

    def reserve(self, header: bytes, layout: Layout, *, timeout: float | None = None) -> Reservation:
        """What is written into the arrays is seen by the other side at once, sent or not."""
        front, places, total = plan(header, layout, self._limit)
        limit = self.timeouts.send if timeout is None else timeout
        if total > self._whole:
            data = bytearray(total)
            data[: len(front)] = front
            private = tuple(np.ndarray(shape, dtype, data, offset) for dtype, shape, offset in places)
            view = np.frombuffer(data, np.uint8)
            return Reservation(private, lambda: self._send_pieces([view], total, limit))
        self._wait(functools.partial(self._sender.claim, total), limit)
        base = self._outgoing + self._sender.offset
        self._memory[base : base + len(front)] = front
        arrays = tuple(np.ndarray(shape, dtype, self._memory, base + offset) for dtype, shape, offset in places)
        self._reserved = ticket = object()
        return Reservation(arrays, lambda: self._commit(total, ticket))

    def recv(self, timeout: float | None = None, limit: int | None = None) -> Frame:
        self._most = self._limit if limit is None else min(limit, self._limit)
        longest = self.timeouts.recv if timeout is None else timeout
        deadline = time.monotonic() + longest
        self._release_all()
        left = longest
        while True:
            record = self._next(left if left < SLICE else SLICE)
            if record is not None and (frame := self.take(record)) is not None:
                return frame
            if (left := deadline - time.monotonic()) <= 0:
                # Pieces that are there already are still put together; a malicious peer's come for ever.
                if record is None or left < -SLICE:
                    raise timed_out(self.peer, longest, sending=False)
                left = 0.0

    def _next(self, wait: float) -> Record | None:
        """The next record, or None. Raises LinkClosed when none will come."""
        if self._receives_no_more:
            raise LinkClosed(self.why)
        if self._returned is not None:
            returned, self._returned = self._returned, None
            return returned
        try:
            record = self.receiver.recv(wait)
            if record is None and (self.why or not self.alive()):
                record = self.receiver.recv(0.0)  # it may have sent just before
                if record is None:
                    self.over(f"{self.peer} died or was restarted")
                    raise LinkClosed(self.why)
        except Broken as error:
            self._broken(error)
        if record is not None and record[0] == CLOSED:
            self.over(f"{self.peer} closed the link")
            raise LinkClosed(self.why)
        return record

    def take(self, record: Record) -> Frame | None:
        """The frame in a record, or that it completes. Raises FrameError, after which the link is over."""
        kind, offset, length, _, end = record
        try:
            if kind == WHOLE:
                self._held.append(end)
                release = functools.partial(self._release, end)
                return decode(self._view, self._incoming + offset, length, self._most, release)
            return self._piece(record)
        except FrameError:
            self._receives_no_more = True
            self.over(f"{self.peer} sent what isn't a frame")
            raise

    def _piece(self, record: Record) -> Frame | None:
        kind, offset, length, total, end = record
        if kind == FIRST:  # a frame that was given up in the middle is forgotten
            if not length <= total <= self._most:
                reason = f"a frame of {total} bytes is larger than the limit of {self._most}"
                raise FrameError(reason, too_large=True)
            self._partial, self._filled = np.empty(total, np.uint8), 0
        if self._partial is None or self._filled + length > self._partial.nbytes:
            raise FrameError("a piece of a frame came that belongs to none")
        start = self._incoming + offset
        self._partial[self._filled : self._filled + length] = np.frombuffer(self._view, np.uint8, length, start)
        self._filled += length
        self._held.append(end)
        self._release(end)
        if self._filled < self._partial.nbytes:
            return None
        data, self._partial = self._partial, None
        return decode(data.data.toreadonly(), 0, data.nbytes, self._most)

    def _release(self, end: int) -> None:
        """Records are given back to the ring from the oldest one on."""
        held, done = self._held, self._done
        with self._releasing:
            if not held or end < held[0]:
                return  # its link received again since
            if end != held[0]:
                done.add(end)
                return
            held.popleft()
            while held and held[0] in done:
                end = held.popleft()
                done.remove(end)
            self.receiver.release(end)

    def _release_all(self) -> None:
        with self._releasing:
            if self._held:
                end = self._held[-1]
                self._held.clear()
                self._done.clear()
                self.receiver.release(end)

    def _send_pieces(self, parts: list[Part], total: int, limit: float) -> None:
        deadline = time.monotonic() + limit
        for piece, kind in self._pieces(parts, total):
            send = functools.partial(self._sender.send, piece, kind=kind, total=total)
            self._wait(send, max(0.0, deadline - time.monotonic()))

    def _pieces(self, parts: list[Part], total: int) -> Iterator[tuple[list[memoryview], int]]:
        """A frame larger than half the ring, a quarter of the ring at a time: what a record carries, and its kind."""
        sent, kind = 0, FIRST
        piece: list[memoryview] = []
        room = size = self._whole // 2
        for part in parts:
            view = memoryview(part.reshape(-1).view(np.uint8).data if isinstance(part, np.ndarray) else part)
            while view.nbytes:
                piece.append(view[:room])
                room -= piece[-1].nbytes
                sent += piece[-1].nbytes
                view = view[piece[-1].nbytes :]
                if room == 0 or sent == total:
                    yield piece, kind
                    piece, room, kind = [], size, NEXT

    def _commit(self, total: int, ticket: object) -> None:
        if self._reserved is not ticket:
            raise RuntimeError("this reservation was dropped when another one was made")
        self._reserved = None
        self._check(False)
        self._sender.commit(WHOLE, total)

    def _broken(self, error: Exception) -> NoReturn:
        self._receives_no_more = True
        self.over(f"{self.peer} broke the ring: {error}")
        raise FrameError(f"{self.peer} broke the ring: {error}; the link is closed") from None

    def _wait(self, call: Callable[[float], int], limit: float) -> None:
        """Calls until it says 1. Raises LinkTimeout and LinkClosed."""
        deadline = time.monotonic() + limit
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                found = -1 if self.why else call(min(left, SLICE))
            except Broken as error:
                self._broken(error)
            if found == 1:
                return
            self._check(found < 0)
            if left <= 0:
                raise timed_out(self.peer, limit, sending=True)

    def _check(self, closed: bool) -> None:
        """Raises LinkClosed when the other side has gone."""
        if not self.why and closed:
            self.over(f"{self.peer} closed the link")
        elif not self.why and not self.alive():
            self.over(f"{self.peer} died or was restarted")
        if self.why:
            raise LinkClosed(self.why)

    def over(self, why: str) -> None:
        """Ends the link, once. What the other side sent before can still be received."""
        if not self.why:
            self.why = why
            self._sender.close()
            self.receiver.close()
            self._ended(self)

    def stay_awake(self, seconds: float) -> None:
        self.receiver.spin = seconds if usable_cores() > 1 else 0.0

    def close(self) -> None:
        self._receives_no_more = True
        self.over("this link was closed here")

"""Links that carry whole byte strings: everything but shared memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cutset.errors import LinkTimeout
from cutset.link.frames import Frame, Layout, Part, decode, encode, plan
from cutset.link.interface import Reservation
from cutset.link.limits import Limits, Timeouts

__all__ = ["Channel", "timed_out"]


def timed_out(peer: str, waited: float, sending: bool) -> LinkTimeout:
    """The error for a peer that took nothing, or sent nothing, for `waited` seconds."""
    if sending:
        return LinkTimeout(f"{peer} took nothing for {waited:g} s: it is busy or stopped")
    return LinkTimeout(f"nothing came from {peer} for {waited:g} s: it is busy or stopped")


class Channel(ABC):
    """A Link over `_put` and `_take`, which move the bytes of one frame."""

    def __init__(self, address: str, peer: str, timeouts: Timeouts, limits: Limits) -> None:
        self.address = address
        self.peer = peer
        self.user: int | None = None  # known to links that ask the system
        self._timeouts = timeouts
        self._limit = limits.frame

    @abstractmethod
    def _put(self, data: bytes | bytearray, timeout: float, *, urgent: bool = False) -> None:
        """Sends the bytes of a frame, which nobody changes any more. `urgent`: see SharedSocket.send."""

    @abstractmethod
    def _take(self, timeout: float) -> memoryview:
        """The bytes of the next frame, read-only."""

    @abstractmethod
    def close(self) -> None:
        """Ends the channel. A second call does nothing."""

    def stay_awake(self, seconds: float) -> None:  # noqa: B027
        """This link sleeps at once."""

    def send(self, header: bytes, arrays: Sequence[ArrayLike] = (), *, timeout: float | None = None) -> None:
        """Encodes a frame and sends its bytes. Raises LinkTimeout (nothing was sent), LinkClosed and FrameError."""
        parts, _ = encode(header, arrays, self._limit)
        self._put(joined(parts), self._timeouts.send if timeout is None else timeout)

    def send_frame(self, data: bytes, *, timeout: float, urgent: bool = False) -> None:
        """Sends the bytes of a frame that others have made. `urgent`: they are waited for, unlike what this thread does
        next. Raises as `send` does."""
        self._put(data, timeout, urgent=urgent)

    def start(self, header: bytes, arrays: Sequence[ArrayLike] = ()) -> Callable[[], bool]:
        """Encodes a frame; each call of what is returned tries to send it without waiting, and says whether it did.
        Raises FrameError."""
        parts, _ = encode(header, arrays, self._limit)
        data = joined(parts)

        def go() -> bool:
            try:
                self._put(data, 0.0)
            except LinkTimeout:
                return False
            return True

        return go

    def reserve(self, header: bytes, layout: Layout, *, timeout: float | None = None) -> Reservation:
        """Arrays of a new frame, which `commit` sends. Raises FrameError for more bytes than `Limits.frame`."""
        front, places, total = plan(header, layout, self._limit)
        data = bytearray(total)
        data[: len(front)] = front
        arrays: tuple[np.ndarray[Any, Any], ...] = tuple(np.ndarray(s, d, data, offset) for d, s, offset in places)
        wait = self._timeouts.send if timeout is None else timeout
        return Reservation(arrays, lambda: self._put(data, wait))

    def recv(self, timeout: float | None = None, limit: int | None = None) -> Frame:
        """The next frame, of at most `limit` bytes. Raises LinkTimeout, LinkClosed and FrameError."""
        data = self._take(self._timeouts.recv if timeout is None else timeout)
        return decode(data, 0, data.nbytes, self._limit if limit is None else min(limit, self._limit))


def joined(parts: list[Part]) -> bytes:
    """The parts of a frame as one byte string; not copied where it is one already."""
    return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)  # type: ignore[arg-type]

"""A client's conversation with one accelerator: greeting, calls, and what happens when something gets lost.

A call is idempotent: the accelerator keeps nothing of it. So a lost frame is sent again, byte for byte the same, and a
lost link is opened again, until the time is up. Then the call fails; nothing weaker is ever tried instead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import (
    FrameError,
    HandshakeError,
    IntegrityError,
    LinkClosed,
    LinkError,
    LinkTimeout,
    OffloadError,
)
from cutset.link import Frame, Link, Record, RingLink
from cutset.link.limits import MAX_FRAME
from cutset.link.peer import Handshake, Welcome, read_about
from cutset.offload.messages import (
    HANDSHAKE,
    AskCounters,
    Capabilities,
    Counters,
    MakePads,
    Message,
    Multiply,
    Product,
    Refused,
    SelfTest,
    call_of,
    decode,
    encode,
)

__all__ = ["FRONT", "MOST_BYTES", "Patience", "Session"]

Array = NDArray[Any]
Dial = Callable[[], Link]  # opens the link


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take in all, and after how long without an answer its frame is sent again; seconds."""

    total: float = 30.0
    resend: float = 10.0
    redial: float = 0.1  # between attempts to open a link


DEFAULT_PATIENCE = Patience()
FRONT = 1 << 17  # bytes of a frame beside its arrays, at most
MOST_BYTES = 16 << 20  # of an array that is sent or received, unless a row alone is larger


@dataclass(slots=True)
class _Pending:
    """What was sent and not yet answered; `fill` writes the same bytes each time."""

    call: int
    message: Message
    layout: list[tuple[np.dtype[Any], tuple[int, ...]]]
    fill: Callable[[list[Array]], None]
    due: int  # bytes that the answer's arrays may have


class Session:
    """Calls to the accelerator behind `dial`, one at a time, from one thread."""

    def __init__(
        self,
        dial: Dial,
        patience: Patience = DEFAULT_PATIENCE,
        digest: str | None = None,
        most_bytes: int = MOST_BYTES,  # of an array that is sent or received; the link takes frames as large as that
        handshake: Handshake = HANDSHAKE,  # what each side must prove
    ) -> None:
        self._dial, self.patience = dial, patience
        self._handshake = replace(handshake, model=digest or "")
        self._link: Link | None = None
        self._address = "?"  # kept when the link is over, for whoever says why
        self._awake = 0.0
        self.most_bytes = most_bytes
        self._late = 0  # bytes that an answer may have that still comes to a call that was sent twice
        self.calls = 0  # the number of the last one
        self._pending: _Pending | None = None
        self._broken: IntegrityError | None = None
        self._renewable = True
        self.resent = self.redialled = 0
        self.welcome = self._open(time.monotonic() + patience.total)

    @property
    def address(self) -> str:
        """What was connected to, also when the link is over."""
        return self._address

    @property
    def peer(self) -> str:
        """Who is at the other end: the public key with tcp."""
        return self._link.peer if self._link else "?"

    @property
    def user(self) -> int | None:
        """The user that the other side runs as, where the system says so."""
        return None if self._link is None else self._link.user

    def stay_awake(self, seconds: float) -> None:
        """How long a wait for an answer stays awake before it sleeps."""
        self._awake = seconds
        if self._link is not None:
            self._link.stay_awake(seconds)

    def send(
        self,
        message: Callable[[int], Message],  # of the number of the call
        layout: list[tuple[np.dtype[Any], tuple[int, ...]]],
        fill: Callable[[list[Array]], None],
        filled: Callable[[], None] | None = None,  # called when the arrays are written, before they leave
        due: int | None = None,  # bytes that the arrays of the answer may have; None: as many as the link takes
    ) -> None:
        """Sends a call; `receive` gives its answer."""
        if self._broken is not None:
            raise self._broken
        self.calls += 1
        self._pending = _Pending(self.calls, message(self.calls), layout, fill, MAX_FRAME if due is None else due)
        try:
            self._transmit(self._live(), self.patience.resend, filled)
        except LinkTimeout:
            pass  # `receive` sends it again
        except LinkClosed:
            self._drop()

    def ring_link(self) -> RingLink | None:
        """The link, if it is in shared memory: native code may make calls on its rings until the session is used again,
        and counts on from `calls`."""
        return self._link if self._broken is None and isinstance(self._link, RingLink) else None

    def adopt(
        self,
        message: Callable[[int], Message],
        layout: list[tuple[np.dtype[Any], tuple[int, ...]]],
        fill: Callable[[list[Array]], None],
        record: Record | None = None,
        *,
        broken: bool = False,
        due: int = MAX_FRAME,
    ) -> None:
        """The last call was sent by native code, as `send` would have sent it: `receive` goes on with it. record: what
        came already; broken: the ring makes no sense any more."""
        self._pending = _Pending(self.calls, message(self.calls), layout, fill, due)
        if record is not None and isinstance(self._link, RingLink):
            self._link.put_back(record)
        if broken:
            self._drop()

    def receive(self) -> tuple[Message, Frame]:
        """The answer to the last `send`. Raises OffloadError where it was refused, LinkError when the time is up."""
        pending = self._pending
        if pending is None:
            raise OffloadError("nothing was asked of the accelerator")
        end = time.monotonic() + self.patience.total
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise LinkTimeout(self._gave_up())
            try:
                link = self._live() if self._link else self._reopened(end)
                frame = link.recv(min(left, self.patience.resend), FRONT + max(pending.due, self._late))
                message = decode(frame.header)
            except LinkTimeout:
                self._resend(end)
                continue
            except LinkClosed:
                self._drop()
                time.sleep(self.patience.redial)
                continue
            except FrameError as error:  # nonsense on the link: what is lost is asked for again
                if error.too_large:
                    raise self.broke("sent more than any answer to what it was asked has") from None
                self._drop()
                time.sleep(self.patience.redial)
                continue
            if call_of(message) != pending.call:
                frame.release()  # an answer to an earlier sending of an earlier call
                continue
            if isinstance(message, Refused):
                raise OffloadError(f"the accelerator at {link.address} refused: {message.reason}")
            self._pending = None
            return message, frame

    def call(
        self, message: Callable[[int], Message], arrays: list[Array] | None = None, due: int = 0
    ) -> tuple[Message, Frame]:
        """`send` and `receive` with arrays that are there already."""
        given = arrays or []

        def fill(out: list[Array]) -> None:
            for target, source in zip(out, given, strict=True):
                target[...] = source

        self.send(message, [(array.dtype, array.shape) for array in given], fill, due=due)
        return self.receive()

    def counters(self) -> dict[str, float]:
        """What the accelerator says that it has done for this client."""
        message, frame = self.call(AskCounters)
        frame.release()
        if not isinstance(message, Counters):
            raise self.broke("answered a question about its counters with something else")
        return message.values

    def self_test(self, weight: Array, x: Array, q: Array) -> tuple[Array, Array]:
        """Products of residues x (rows, depth) and integers q with a weight that is sent along; copies."""
        message, frame = self.call(SelfTest, [weight, x, q], due=2 * 4 * len(x) * len(weight))
        shape = (len(x), len(weight))
        if not isinstance(message, Product) or [a.shape for a in frame.arrays] != [shape, shape]:
            raise self.broke("answered the self-test with something else")
        residues, integers = (np.array(array) for array in frame.arrays)
        frame.release()
        return residues, integers

    def pads(self, requests: list[tuple[int, bytes, int]], outputs: list[int]) -> list[Array]:
        """R · W^T of seeds, each (rows, outputs), copied; `requests` are (matrix, seed, rows)."""
        asked = [(matrix, rows, seed) for matrix, seed, rows in requests]
        due = sum(4 * rows * width for (_, _, rows), width in zip(requests, outputs, strict=True))
        message, frame = self.call(lambda number: MakePads(number, asked), due=due)
        wanted = [((rows, width), np.dtype(np.uint32)) for (_, _, rows), width in zip(requests, outputs, strict=True)]
        if not isinstance(message, Product) or [(a.shape, a.dtype) for a in frame.arrays] != wanted:
            raise self.broke("sent pads of another shape than was asked for")
        products = [np.array(array) for array in frame.arrays]
        frame.release()
        return products

    def most_rows(self, outputs: int, depth: int) -> int:
        """Rows that a call may have: as many as the accelerator takes, and their frames are bounded here too."""
        return max(1, min(self.capabilities.max_rows, self.most_bytes // (4 * max(outputs, depth))))

    def broke(self, what: str) -> IntegrityError:
        """Ends the session for good; every later call raises the same error."""
        if self._broken is None:
            self._broken = IntegrityError(
                f"the accelerator at {self.address} {what}. Nothing of it was used and the session is over: "
                "find out why, or use another accelerator"
            )
            self.close()
        return self._broken

    def fail(self, error: IntegrityError) -> IntegrityError:
        """Ends the session with an error that names somebody else too; no new one would help."""
        self._broken, self._renewable = self._broken or error, False
        self.close()
        return self._broken

    @property
    def broken(self) -> IntegrityError | None:
        """Why the session is over."""
        return self._broken

    def renew(self) -> None:
        """Opens a new session with the accelerator after a lie ended this one. The next lie ends that too.

        Raises that lie's error where somebody else had part in it, and what opening a session raises; then this one
        stays over.
        """
        broken = self._broken
        if broken is None:
            return
        if not self._renewable:
            raise broken
        self._drop()
        self.welcome = self._open(time.monotonic() + self.patience.total)
        self._pending, self._broken = None, None

    def close(self) -> None:
        """Can be called twice."""
        self._drop()

    def _live(self) -> Link:
        if self._link is None:
            raise LinkClosed("the link to the accelerator is closed")
        return self._link

    def _drop(self) -> None:
        link, self._link, self._late = self._link, None, 0
        if link is not None:
            with contextlib.suppress(LinkError):
                link.close()

    def _open(self, end: float) -> Welcome:
        """Dials and greets. Raises OffloadError where the other side has another version or another model, or says no;
        sets `capabilities`."""
        left = max(0.05, min(self.patience.resend, end - time.monotonic()))
        try:
            self._link, welcome, _ = self._handshake.dial(self._connect, timeout=left)
            self.capabilities = read_about(welcome, Capabilities)
            if self.capabilities.max_rows < 1:
                raise OffloadError(f"the accelerator at {self.address} takes no rows")
        except HandshakeError as error:
            raise OffloadError(str(error)) from None
        except BaseException:
            self._drop()
            raise
        return welcome

    def _connect(self) -> Link:
        link = self._dial()
        self._address = link.address
        link.stay_awake(self._awake)
        return link

    def _reopened(self, end: float) -> Link:
        """Opens the link again and repeats what is unanswered. A closed or absent other side is a LinkClosed."""
        self.redialled += 1
        self.welcome = self._open(end)
        link = self._live()
        self._transmit(link, max(0.05, end - time.monotonic()))
        return link

    def _resend(self, end: float) -> None:
        if self._link is None:
            return
        self.resent += 1
        if self._pending is not None:
            self._late = max(self._late, self._pending.due)
        try:
            self._transmit(self._link, max(0.05, min(self.patience.resend, end - time.monotonic())))
        except LinkTimeout:
            pass
        except LinkClosed:
            self._drop()

    def _transmit(self, link: Link, timeout: float, filled: Callable[[], None] | None = None) -> None:
        pending = self._pending
        if pending is None:
            return
        with link.reserve(encode(pending.message), pending.layout, timeout=timeout) as room:
            pending.fill(list(room.arrays))
            if filled is not None:
                filled()
            room.commit()

    def _gave_up(self) -> str:
        return (
            f"the accelerator gave no answer within {self.patience.total:g} s (tried {self.resent} resends and "
            f"{self.redialled} new links in this session): is it running, and is it overloaded?"
        )


def multiply(matrix: int) -> Callable[[int], Multiply]:
    """For Session.send: multiplies with this matrix."""
    return lambda call: Multiply(call, matrix)

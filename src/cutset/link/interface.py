"""What every link is: one end of a two-way channel, and the listener that makes them; and what those over rings of
shared memory are besides, on which native code may send and receive."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from cutset.link.frames import Frame, Layout

if TYPE_CHECKING:
    from cutset.link._ring import Poller, Receiver, Sender

__all__ = ["Link", "Listener", "Record", "Reservation", "RingLink", "RingListener", "Rings"]

# A record of a ring: its kind, where what it carries begins (from the ring's words), how many bytes that has, how many
# the whole frame, and what gives the record back once it was read.
Record = tuple[int, int, int, int, int]


class Reservation:
    """Room for one frame. Fill `arrays`, then `commit()`; without it nothing is sent."""

    __slots__ = ("_commit", "arrays")

    def __init__(self, arrays: tuple[np.ndarray[Any, Any], ...], commit: Callable[[], None]) -> None:
        self.arrays = arrays
        self._commit: Callable[[], None] | None = commit

    def commit(self) -> None:
        """Sends the frame. The arrays must not be written after that. Raises LinkTimeout and LinkClosed."""
        commit, self._commit = self._commit, None
        if commit is None:
            raise RuntimeError("this reservation was already sent or dropped")
        commit()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._commit = None


class Link(Protocol):
    """One end of a channel. Frames arrive in order, each once, or the link fails.

    One thread may send while another one receives; two threads may not do the same at once. `timeout` is in
    seconds; None is the link's own (`Timeouts`), never "for ever". Every method raises LinkClosed once the other side
    has gone; frames that came before that are still received.
    """

    @property
    def address(self) -> str:
        """What was connected to."""

    @property
    def peer(self) -> str:
        """Who is at the other end: with tcp the public key, proven; elsewhere a text for messages."""

    @property
    def user(self) -> int | None:
        """The user that the other side runs as, where the system says so."""

    def send(self, header: bytes, arrays: Sequence[ArrayLike] = (), *, timeout: float | None = None) -> None:
        """Sends a frame; the arrays may be changed afterwards. Raises LinkTimeout (nothing was sent), FrameError."""

    def start(self, header: bytes, arrays: Sequence[ArrayLike] = ()) -> Callable[[], bool]:
        """Begins to send a frame without waiting: each call of what is returned sends as much as there is room for, and
        says whether that was the rest. The arrays must stay as they are until then, and nothing else may be sent."""

    def reserve(self, header: bytes, layout: Layout, *, timeout: float | None = None) -> Reservation:
        """Room for a frame whose arrays are filled in place. Nothing else may be sent before it is sent or dropped."""

    def recv(self, timeout: float | None = None, limit: int | None = None) -> Frame:
        """The next frame; the one before it is released. Raises LinkTimeout, and FrameError for what isn't a frame, or
        one of more bytes than `limit`, which is `Limits.frame` or less."""

    def stay_awake(self, seconds: float) -> None:
        """How long a wait for a frame stays awake before it sleeps, where the link has that choice: waking up takes a
        while, and staying awake takes a core."""

    def close(self) -> None:
        """Ends the channel. A second call does nothing."""


class Listener(Protocol):
    """Where clients arrive. One thread at a time may use it; it may send on any of its links."""

    @property
    def address(self) -> str:
        """What clients connect to; with tcp and port 0, the port that was found."""

    def recv(self, timeout: float) -> tuple[Link, Frame] | None:
        """The next frame and its client, in turns; None after `timeout` seconds. New clients are admitted meanwhile.

        Every frame must be released. What isn't a frame ends that client's link.
        """

    def gone(self) -> list[Link]:
        """Clients that closed, died or broke the protocol since the last call, and those whose key isn't allowed any
        more: call it now and then."""

    def expect(self, keys: Collection[bytes]) -> None:
        """Lets these public keys connect over tcp too, instead of those of the call before; links that are there stay.

        Elsewhere nobody has a key, and this does nothing.
        """

    def stay_awake(self, seconds: float) -> None:
        """How long a wait for a frame stays awake before it sleeps, where the link has that choice: waking up takes a
        while, and staying awake takes a core."""

    def close(self) -> None:
        """Ends every link and frees the address. A second call does nothing."""


class Rings(NamedTuple):
    """This side's ends of the two rings of a link."""

    sender: Sender
    receiver: Receiver


class RingLink(Link):
    """A link over two rings of shared memory. Native code may use these in place of `send` and `recv`."""

    @abstractmethod
    def rings(self) -> Rings | None:
        """For native code, until this link is used again; None once the link is over. Frames that were received are
        released."""

    @abstractmethod
    def sending(self) -> Sender | None:
        """This side's sending end for native code, as long as nobody sends otherwise; None once the link is over."""

    @abstractmethod
    def put_back(self, record: Record) -> None:
        """A record that native code received and leaves to the next `recv`."""


class RingListener(Listener):
    """A listener whose clients' rings native code may read, by the poller's tokens, in place of `recv`."""

    @property
    @abstractmethod
    def poller(self) -> Poller:
        """The receiving ends of all clients, by their slots."""

    @abstractmethod
    def slot(self, link: Link) -> int | None:
        """What the poller calls a client; None once its link is over."""

    @abstractmethod
    def handle(self, slot: int, record: Record) -> tuple[Link, Frame] | None:
        """Does what a record of the poller asks for; the frame and its client, where it completes one."""

    @abstractmethod
    def pause(self, link: Link, paused: bool) -> None:
        """What a client that is paused sends stays in its ring."""

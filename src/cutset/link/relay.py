"""Bytes between two parties of which one can't be dialled: both dial out to a third, which passes the bytes on.

A connection to that third party begins with an opening of whoever dialled (`opening`); from there on each byte that
comes on one side goes out on the other, unread. What runs over it is the usual link, and its CURVE handshake is that of
the two ends: who passes bytes on sees how many there are, and when. docs/protocol.md has the bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from cutset.errors import ConfigError, FrameError, LinkClosed, LinkError
from cutset.link.addresses import parse_address
from cutset.link.dealer import connect
from cutset.link.interface import Link
from cutset.link.keys import Keys
from cutset.link.limits import Limits, Timeouts

__all__ = [
    "ANSWER",
    "DIAL",
    "OPENING",
    "TOKEN",
    "Opening",
    "Splice",
    "Tunnel",
    "connect_through",
    "dial_plain",
    "endpoint",
    "opening",
    "read_opening",
    "reset",
]

MAGIC = b"cutrly1"
DIAL, ANSWER = b"d", b"a"  # kinds: to whoever has this ticket; in answer to a call with this number
TOKEN = 32  # bytes
OPENING = len(MAGIC) + 1 + TOKEN
CHUNK = 128 << 10  # bytes that are passed on at a time
CONNECT = 5.0  # seconds
# A network that is gone is noticed as on the links that run over it; see zeromq.py.
IDLE, INTERVAL, PROBES, UNACKNOWLEDGED = 2, 1, 3, 60_000


class Opening(NamedTuple):
    """What whoever dialled wants: a kind, and the token that goes with it."""

    kind: bytes
    token: bytes


def opening(kind: bytes, token: bytes) -> bytes:
    """The first bytes of a connection."""
    return MAGIC + kind + token


def read_opening(data: bytes) -> Opening:
    """Raises FrameError for what isn't exactly one."""
    kind, token = data[len(MAGIC) : len(MAGIC) + 1], data[len(MAGIC) + 1 :]
    if not data.startswith(MAGIC) or kind not in (DIAL, ANSWER) or len(token) != TOKEN:
        raise FrameError("what came doesn't begin as a connection that is to be passed on")
    return Opening(kind, token)


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of a tcp address, as the system's own sockets take them; "" for all hosts. Raises ConfigError."""
    where = parse_address(address)
    if where.scheme != "tcp":
        raise ConfigError(f"{address[:100]!r} can't be dialled from elsewhere: write tcp://HOST:PORT")
    host, _, port = where.place.rpartition(":")
    return "" if host == "*" else host.strip("[]"), int(port)


def dial_plain(host: str, port: int, seconds: float = CONNECT) -> socket.socket:
    """A connection of plain bytes. Raises LinkClosed where nobody answers."""
    try:
        return _ready(socket.create_connection((host, port), seconds))
    except (OSError, UnicodeError) as error:
        raise LinkClosed(f"nobody answers at {host}:{port}: {getattr(error, 'strerror', None) or error}") from None


def _ready(connection: socket.socket) -> socket.socket:
    """For bytes that are passed on at once, for as long as both ends are there."""
    connection.settimeout(None)
    for level, name, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED),
    ):
        connection.setsockopt(level, name, value)
    return connection


class Splice:
    """Passes bytes on between two connections until one of them ends, then ends the other; `ended` is called once.

    A thread for each direction: who doesn't take its bytes holds up its own sender, and nobody else.
    """

    def __init__(
        self, first: socket.socket, second: socket.socket, ended: Callable[[Splice], None] = lambda one: None
    ) -> None:
        self._ends = (_ready(first), _ready(second))
        self._ended = ended
        self._running, self._lock = 2, threading.Lock()
        for source, target in (self._ends, self._ends[::-1]):
            threading.Thread(target=self._pass_on, args=(source, target), name="cutset-relay", daemon=True).start()

    def close(self) -> None:
        """Ends both connections; what is on its way inside is lost."""
        for one in self._ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        room = memoryview(bytearray(CHUNK))
        with contextlib.suppress(OSError):
            while count := source.recv_into(room):
                target.sendall(room[:count])
        self.close()
        with self._lock:
            self._running -= 1
            last = not self._running
        if last:
            for one in self._ends:
                one.close()
            self._ended(self)


class Tunnel:
    """A place on this machine at which whoever has `ticket` at the relay `address` is dialled, until it is closed.

    Connections that were made stay. `address`: that of the place.
    """

    def __init__(self, relay: str, ticket: bytes) -> None:
        self._relay, self._ticket = endpoint(relay), ticket
        self._door = socket.create_server(("127.0.0.1", 0), backlog=4)
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self.why = ""  # the relay couldn't be reached
        threading.Thread(target=self._admit, name="cutset-tunnel", daemon=True).start()

    def _admit(self) -> None:
        while True:
            try:
                ours, _ = self._door.accept()
            except OSError:  # closed
                return
            try:
                theirs = dial_plain(*self._relay)
            except LinkError as error:
                self.why = str(error)
                ours.close()
                continue
            try:
                theirs.sendall(opening(DIAL, self._ticket))
                Splice(ours, theirs)
            except OSError:  # one of them broke just now
                ours.close()
                theirs.close()

    def close(self) -> None:
        """Nobody is dialled here any more. A second call does nothing."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect_through(relay: str, ticket: bytes, *, keys: Keys | None, timeouts: Timeouts, limits: Limits) -> Link:
    """A link to whoever has this ticket at the relay; `keys` are for that party. See `cutset.link.connect`."""
    with Tunnel(relay, ticket) as tunnel:
        try:
            link = connect(parse_address(tunnel.address), keys, timeouts, limits)
        except LinkError as error:
            if tunnel.why:
                raise LinkClosed(f"the relay at {relay}: {tunnel.why}") from None
            if isinstance(error, LinkClosed):
                raise LinkClosed(
                    f"the relay at {relay} passes nothing on: the party behind it doesn't answer"
                ) from None
            raise type(error)(str(error).replace(tunnel.address, f"the party behind {relay}")) from None
    link.address = f"{relay}, passed on"  # the tunnel's own says nothing to anybody
    return link


def reset(connection: socket.socket) -> None:
    """Ends a connection at once, with nothing left to be sent."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

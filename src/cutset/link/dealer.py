"""The client's end of a ZeroMQ link."""

from __future__ import annotations

import time
from typing import Any

import zmq

from cutset.errors import ConfigError, LinkClosed, LinkError
from cutset.link.addresses import Address
from cutset.link.channel import Channel, timed_out
from cutset.link.keys import Keys
from cutset.link.limits import Limits, Timeouts
from cutset.link.sockets import SharedSocket
from cutset.link.users import own
from cutset.link.zeromq import GOODBYE, KEYS_HELP, check_owner, configure, join_parts, piece_of, split_parts

__all__ = ["connect"]

RETRY = 0.05  # seconds between two tries to connect

Event = zmq.Event
OUTCOMES = (
    Event.HANDSHAKE_SUCCEEDED,
    Event.HANDSHAKE_FAILED_AUTH,
    Event.HANDSHAKE_FAILED_PROTOCOL,
    Event.HANDSHAKE_FAILED_NO_DETAIL,
)


class ZmqLink(Channel):
    """The client's end."""

    def __init__(self, sock: SharedSocket, address: str, peer: str, timeouts: Timeouts, limits: Limits) -> None:
        super().__init__(address, peer, timeouts, limits)
        self._sock = sock
        self._why = ""  # what ended the link
        self._piece = piece_of(address.partition(":")[0])
        self.user = own() if address.startswith("ipc:") else None  # see check_owner

    def _put(self, data: bytes | bytearray, timeout: float, *, urgent: bool = False) -> None:
        if self._why:
            raise LinkClosed(self._why)
        if not self._sock.send(split_parts(data, self._piece), timeout, self._alive, urgent=urgent):
            if self._why:
                raise LinkClosed(self._why)
            raise timed_out(self.peer, timeout, sending=True)

    def _take(self, timeout: float) -> memoryview:
        if self._why and self._sock.closed:
            raise LinkClosed(self._why)
        parts = self._sock.recv(timeout, self._alive)
        if parts is None:
            if self._why:
                raise LinkClosed(self._why)
            raise timed_out(self.peer, timeout, sending=False)
        if len(parts) == 1 and not len(parts[0].buffer):
            self._why = f"{self.peer} ended the link"
            raise LinkClosed(self._why)
        return join_parts(parts, self._piece, self._limit)

    def _alive(self) -> bool:
        for event, _ in self._sock.events():
            if event in (Event.DISCONNECTED, Event.CLOSED, Event.MONITOR_STOPPED):
                self._why = f"{self.peer} broke off the connection, or died"
        return not self._why

    def close(self) -> None:
        """Ends the link, says so to the other side, and wakes a thread that waits for a frame."""
        if not self._sock.closed:
            broken = bool(self._why)
            self._why = self._why or "this link was closed here"  # before: another thread may wait for a frame
            if not broken:
                self._sock.send((b"",), 0, None)
            self._sock.close(0 if broken else GOODBYE)


def connect(where: Address, keys: Keys | None, timeouts: Timeouts, limits: Limits) -> ZmqLink:
    """A link to the listener at `where`, tried again until `timeouts.connect`. `keys`: needed over tcp, with the
    server's public key. Raises ConfigError, LinkClosed (nobody there) and LinkError (keys refused, or not Cutset)."""
    if where.scheme == "tcp" and (keys is None or keys.server is None):
        raise ConfigError(f"{where}: {KEYS_HELP}, and name the server's public key")
    if where.place.startswith("*"):
        raise ConfigError(f"{where}: '*' is for listening; name the host to connect to")
    deadline = time.monotonic() + timeouts.connect
    context: zmq.Context[Any] = zmq.Context()
    try:
        while (sock := _attempt(context, where, keys, limits, deadline)) is None:
            if time.monotonic() >= deadline:
                raise LinkClosed(f"nobody answers at {where}: start the other side, and check the address and its key")
            time.sleep(RETRY)
    except BaseException as error:
        context.term()
        if isinstance(error, zmq.ZMQError):
            raise LinkError(f"can't connect to {where}: {error.strerror}") from None
        raise
    peer = keys.server.hex() if where.scheme == "tcp" and keys and keys.server else str(where)
    return ZmqLink(sock, str(where), peer, timeouts, limits)


def _attempt(
    context: zmq.Context[Any], where: Address, keys: Keys | None, limits: Limits, deadline: float
) -> SharedSocket | None:
    """A connected socket, or None when nobody was there."""
    raw = context.socket(zmq.DEALER)
    sock, outcome = SharedSocket(context, raw, None), None
    try:
        configure(raw, limits, where.scheme)
        if where.scheme == "tcp" and keys is not None:
            raw.curve_serverkey = keys.server
            raw.curve_publickey, raw.curve_secretkey = keys.public, keys.secret
            raw.ipv6 = where.place.startswith("[")
        raw.connect(str(where))
        outcome = _handshake(sock, where, deadline)
    finally:
        if outcome != Event.HANDSHAKE_SUCCEEDED:
            sock.close(0, last=False)
    if outcome == Event.HANDSHAKE_FAILED_AUTH:
        raise LinkError(f"{where} refused this key: its owner must allow the client's public key")
    if outcome not in (None, Event.HANDSHAKE_SUCCEEDED):
        raise LinkError(f"{where} doesn't answer as it should: another server's key, or not Cutset")
    return sock if outcome is not None else None


def _handshake(sock: SharedSocket, where: Address, deadline: float) -> Event | None:
    """How the connection began; None when nobody was there, or nobody answered in time."""
    while time.monotonic() < deadline:
        for event, detail in sock.events(wait=min(0.1, max(0.0, deadline - time.monotonic()))):
            if event == Event.CONNECTED and where.scheme == "ipc":
                check_owner(where, detail)
            if event in OUTCOMES:
                return Event(event)
            if event in (Event.CLOSED, Event.DISCONNECTED, Event.CONNECT_RETRIED):
                return None
    return None

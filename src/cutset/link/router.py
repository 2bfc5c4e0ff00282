"""The listener's end of ZeroMQ links: one ROUTER for all clients."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from typing import Any

import zmq

from cutset.errors import ConfigError, FrameError, LinkClosed, LinkError
from cutset.link.addresses import Address
from cutset.link.channel import Channel, timed_out
from cutset.link.frames import Frame, decode
from cutset.link.interface import Link
from cutset.link.keys import Keys
from cutset.link.limits import Limits, Timeouts
from cutset.link.sockets import Awake, SharedSocket
from cutset.link.zeromq import (
    DOMAIN,
    GOODBYE,
    KEYS_HELP,
    KeyAuthenticator,
    bind_file,
    configure,
    join_parts,
    owner_of,
    piece_of,
    split_parts,
)

__all__ = ["listen"]

PATIENCE = 1.0  # seconds
LATE = 8  # frames that may come of a link that is over before its connection is cut
IO_THREADS = 4
MOST_SILENT = 256  # connections from which nothing came yet

Event = zmq.Event


class ClientEnd(Channel):
    """The listener's end for one client: `route` is the client's name inside the ROUTER, `fd` its connection there."""

    def __init__(self, listener: ZmqListener, route: bytes, fd: int, peer: str, owner: str, generation: int) -> None:
        super().__init__(listener.address, peer, listener.timeouts, listener.limits)
        self.owner = owner  # whose slot it takes
        self.listener = listener
        self.route = route
        self.fd = fd
        self.generation = generation  # the listener's count of changes of `fd` while it is this client's
        self.inbox: deque[Frame] = deque()  # came while another client's frame was waited for
        self.open = True

    def _put(self, data: bytes | bytearray, timeout: float, *, urgent: bool = False) -> None:
        if self.open:
            try:
                parts = split_parts(data, self.listener.piece)
                if self.listener.sock.send((self.route, *parts), timeout, self._alive, urgent=urgent):
                    return
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self.listener.drop(self)
        if not self.open:
            raise LinkClosed(f"{self.peer} went away")
        raise timed_out(self.peer, timeout, sending=True)

    def _alive(self) -> bool:
        self.listener.check()
        return self.open

    def recv(self, timeout: float | None = None, limit: int | None = None) -> Frame:
        """A listener's frames all have the one limit."""
        longest = self._timeouts.recv if timeout is None else timeout
        deadline = time.monotonic() + longest
        while not self.inbox:
            if not self.open:
                raise LinkClosed(f"{self.peer} went away")
            if (left := deadline - time.monotonic()) < 0:
                raise timed_out(self.peer, longest, sending=False)
            self.listener.fill(min(left, 0.1))
        return self.inbox.popleft()

    def _take(self, timeout: float) -> memoryview:
        raise NotImplementedError

    def close(self) -> None:
        """Ends the link of this client, whose connection is cut if it stays. A second call does nothing."""
        if self.open:
            self.listener.dismiss(self.route, self.fd, self.generation)
            self.listener.drop(self)


class ZmqListener:
    """A listener on a ROUTER socket, for tcp and ipc. `path`: the socket's file, removed in the end; `authenticator`:
    which keys may connect, over tcp."""

    def __init__(
        self,
        sock: SharedSocket,
        address: str,
        timeouts: Timeouts,
        limits: Limits,
        path: str | None,
        authenticator: KeyAuthenticator | None = None,
    ) -> None:
        self.sock = sock
        self._authenticator = authenticator
        self._checking = threading.RLock()  # who waits to send on a link looks too, from another thread
        self.address = address
        self.timeouts = timeouts
        self.limits = limits
        self.path = path
        self.piece = piece_of(address.partition(":")[0])  # bytes of a part of a message
        self._ends: dict[bytes, ClientEnd] = {}  # whoever sends from another thread may drop one at any moment
        self._waiting: deque[ClientEnd] = deque()  # once for each frame in an inbox
        self._gone: list[Link] = []
        self._cut: dict[int, float] = {}  # connections that broke, and when; their last messages may still wait
        self._silent: dict[int, float] = {}  # from which nothing came yet, and since when
        # Connections whose link is over: when they are cut if they stay, and their route. A frame of another route
        # shows that the descriptor is another connection's by now: what came of an old one may be read after that.
        self._leaving: dict[int, tuple[float, bytes]] = {}
        self._changes: Counter[int] = Counter()  # of what a descriptor stands for

    def recv(self, timeout: float) -> tuple[Link, Frame] | None:
        """The next frame and its client, in turns; None after `timeout` seconds. Raises LinkClosed."""
        deadline = time.monotonic() + timeout
        while True:
            while self._waiting:
                end = self._waiting.popleft()
                if end.inbox:  # else `end.recv` took it
                    return end, end.inbox.popleft()
            left = deadline - time.monotonic()
            if (got := self._next(max(left, 0))) is not None:
                return got
            if left <= 0:
                return None

    def fill(self, timeout: float) -> None:
        """Waits for one frame of any client and leaves it with that one."""
        if (got := self._next(timeout)) is not None:
            end, frame = got
            end.inbox.append(frame)
            self._waiting.append(end)

    def recv_bytes(self, timeout: float, awake: Awake | None = None) -> tuple[Link, memoryview] | None:
        """The bytes of what `recv` gives, for whoever knows them; else `decoded` is to be called. `awake`: when to stay
        awake for them. None after `timeout`, and now and then before it."""
        if self._waiting or (got := self._message(timeout, awake)) is None:
            return None
        return got

    def decoded(self, link: Link, data: memoryview) -> tuple[Link, Frame] | None:
        """The frame of these bytes; None where they aren't one, which ends the link."""
        try:
            return link, decode(data, 0, data.nbytes, self.limits.frame)
        except FrameError:
            link.close()
            return None

    def _next(self, timeout: float) -> tuple[ClientEnd, Frame] | None:
        """One message. None after `timeout`, and for a message that isn't a frame."""
        got = self._message(timeout)
        if got is None or (found := self.decoded(*got)) is None:
            return None
        return got[0], found[1]

    def _message(self, timeout: float, awake: Awake | None = None) -> tuple[ClientEnd, memoryview] | None:
        """The bytes of one message. None after `timeout`, and for a message that can't be a frame."""
        if self.sock.closed:
            raise LinkClosed(f"the listener at {self.address} was closed")
        parts = self.sock.recv(timeout, self.check, awake)
        if parts is None:
            return None
        route, fd = parts[0].bytes, int(parts[-1].get(zmq.SRCFD))
        peer = _peer_of(parts[-1])
        end = self._ends.get(route)
        if end is not None and (end.fd != fd or end.peer != peer):  # the same name on another connection
            self.drop(end)
            end = None
        if end is None:
            with self._checking:
                self._read_events()  # so that an old connection's end isn't taken for this one's
                self._silent.pop(fd, None)
            when, over = self._leaving.get(fd, (0.0, b""))
            if over and over != route:
                del self._leaving[fd]
            elif over:  # who goes on sending doesn't read what came before the end, and reading costs others
                self._leaving[fd] = when - PATIENCE / LATE, route
            if fd in self._cut or over == route:  # a connection is one link, and doesn't begin another
                return None
            owner = self._owner(peer, fd)
            if len(self._ends) >= self.limits.clients or self._of(owner) >= self.limits.each:
                self.dismiss(route, fd, self._changes[fd])
                return None
            end = self._ends[route] = ClientEnd(self, route, fd, peer, owner, self._changes[fd])
        if len(parts) == 1 or (len(parts) == 2 and not len(parts[1].buffer)):
            self.dismiss(route, fd, end.generation)
            self.drop(end)
            return None
        try:
            return end, join_parts(parts[1:], self.piece, self.limits.frame)
        except FrameError:
            end.close()
            return None

    def check(self) -> bool:
        """Reads what happened to connections. True, so that whoever waits goes on."""
        with self._checking:
            self._read_events()
            self._cut_overdue()
            if self._cut:
                # Their last frames come first, unless others keep this side busy.
                before = time.monotonic() - (PATIENCE if self.sock.readable() else 0)
                for end in [end for end in list(self._ends.values()) if self._cut.get(end.fd, before + 1) <= before]:
                    self.drop(end)
        return True

    def expect(self, keys: Collection[bytes]) -> None:
        """Lets these public keys connect over tcp too, instead of those of the call before."""
        if self._authenticator is not None:
            self._authenticator.expect(frozenset(keys))

    def _read_events(self) -> None:
        for event, fd in self.sock.events():
            if event in (Event.DISCONNECTED, Event.CLOSED):
                self._changes[fd] += 1
                self._cut[fd] = time.monotonic()
                self._silent.pop(fd, None)
                self._leaving.pop(fd, None)
            elif event == Event.ACCEPTED:  # with a descriptor that may have had an older holder
                self._changes[fd] += 1
                self._cut.pop(fd, None)
                self._leaving.pop(fd, None)
                self._silent[fd] = time.monotonic()
                for end in [end for end in list(self._ends.values()) if end.fd == fd]:
                    self.drop(end)

    def _cut_overdue(self) -> None:
        """Cuts connections that stay after their link is over, and those that never say anything."""
        now = time.monotonic()
        late = [fd for fd, (when, _) in self._leaving.items() if when <= now]
        late += [fd for fd, since in self._silent.items() if now - since > self.timeouts.first]
        late += list(self._silent)[: max(0, len(self._silent) - MOST_SILENT)]  # the oldest
        for fd in dict.fromkeys(late):
            self._leaving.pop(fd, None)
            self._silent.pop(fd, None)
            self._disconnect(fd)

    def _cut_revoked(self) -> None:
        """Ends the links of keys that were allowed when they connected, and aren't now."""
        if self._authenticator is not None and (revoked := self._authenticator.revoked):
            for end in [end for end in list(self._ends.values()) if bytes.fromhex(end.peer) in revoked]:
                end.close()

    def _disconnect(self, fd: int) -> None:
        """Breaks a connection, which a ROUTER doesn't do by itself. By the time a descriptor is shut down it may be
        another connection's; so a copy is, if nothing had happened to the descriptor when the copy was made."""
        before = self._changes[fd]
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            self._read_events()
            if self._changes[fd] == before:
                self._cut[fd] = time.monotonic()  # what still waits of it begins no link
                connection.shutdown(socket.SHUT_RDWR)

    def _owner(self, peer: str, fd: int) -> str:
        """Who takes a slot: a key, or a user of this machine."""
        if self._authenticator is not None:
            return peer
        try:
            return f"user {owner_of(fd)}"
        except OSError:
            return peer

    def _of(self, owner: str) -> int:
        return sum(end.owner == owner for end in list(self._ends.values()))

    def dismiss(self, route: bytes, fd: int, generation: int) -> None:
        """Notifies a client that its link is over, and cuts it soon if it stays: what was sent to it comes first.
        `generation` distinguishes its connection from another one that has got the same descriptor since."""
        with contextlib.suppress(zmq.ZMQError):
            self.sock.send((route, b""), 0, None)
        with self._checking:
            self._read_events()
            if self._changes[fd] == generation:
                self._leaving[fd] = time.monotonic() + PATIENCE, route
            self._cut_overdue()

    def drop(self, end: ClientEnd) -> None:
        """Takes a client off the list of those that are connected; `gone` has it now. Any thread may call it."""
        with self._checking:
            if end.open:
                end.open = False
                if self._ends.get(end.route) is end:
                    del self._ends[end.route]
                self._gone.append(end)

    def gone(self) -> list[Link]:
        """Clients that closed, died, broke the protocol or lost their permission since the last call."""
        if not self.sock.closed:
            self._cut_revoked()
            self.check()
        with self._checking:
            found, self._gone = self._gone, []
        return found

    def stay_awake(self, seconds: float) -> None:
        """This listener sleeps at once."""

    def close(self) -> None:
        """Ends every link, closes the socket and removes its file. A second call does nothing."""
        if self.sock.closed:
            return
        for end in list(self._ends.values()):
            end.close()
        self.sock.close(GOODBYE)
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def _peer_of(part: zmq.Frame) -> str:
    try:
        return str(part.get("User-Id"))  # the key, as the authenticator wrote it
    except zmq.ZMQError:
        return "a client on this machine"


def listen(
    where: Address, keys: Keys | None, allow: Collection[bytes] | None, timeouts: Timeouts, limits: Limits
) -> ZmqListener:
    """A listener at `where`. `keys` and `allow`, the public keys that may connect, are needed over tcp.

    Raises ConfigError where they are missing, LinkError for an address that can't be had.
    """
    # Encrypting a large frame takes long, and one thread does it for all of its connections.
    context: zmq.Context[Any] = zmq.Context(io_threads=IO_THREADS if where.scheme == "tcp" else 1)
    allowed = sock = None
    try:
        raw = context.socket(zmq.ROUTER)
        configure(raw, limits, where.scheme)
        raw.router_mandatory = True
        if where.scheme == "tcp":
            if keys is None or not allow:
                raise ConfigError(f"{where}: {KEYS_HELP}, and name the clients' public keys that may connect")
            allowed = KeyAuthenticator(context, allow)
            raw.curve_server = True
            raw.curve_publickey, raw.curve_secretkey = keys.public, keys.secret
            raw.zap_domain = DOMAIN
        sock = SharedSocket(context, raw, allowed)
        path = where.place if where.scheme == "ipc" else None
        if path is None:
            raw.ipv6 = where.place.startswith("[")
            raw.bind(str(where))
        else:
            bind_file(raw, where)
    except (zmq.ZMQError, OSError) as error:
        _abandon(context, allowed, sock)
        raise LinkError(f"can't listen at {where}: {error.strerror}") from None
    except BaseException:
        _abandon(context, allowed, sock)
        raise
    address = str(where) if path is not None else raw.last_endpoint.decode().rstrip("\0")
    return ZmqListener(sock, address, timeouts, limits, path, allowed)


def _abandon(context: zmq.Context[Any], allowed: KeyAuthenticator | None, sock: SharedSocket | None) -> None:
    if sock is not None:
        sock.close(0, last=False)
    elif allowed is not None:
        allowed.stop()
    context.destroy(linger=0)

"""Accepts clients of shared memory: a Unix socket at which a thread of its own checks who they are.

A client is refused here, before any of its memory is looked at, unless it runs as one of the users who may connect.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cutset.errors import LinkClosed, LinkError
from cutset.link import segment, shm_handshake
from cutset.link.limits import MIN_RING, Limits
from cutset.link.users import credentials, own, user_name

__all__ = ["Acceptor", "NewClient", "SocketAcceptor", "check_sizes"]

PATIENCE = 5.0  # seconds that a client may take for its side of the handshake
MOST_WAITING = 32  # clients in the middle of it; the oldest one goes first
BACKLOG = 128
NO_DESCRIPTORS = 0.1  # seconds between two tries to accept while descriptors are used up
log = logging.getLogger(__name__)


@dataclass(slots=True)
class NewClient:
    """A client and its memory. `user` is None where it isn't known; `alive` says whether its process is there."""

    slot: int
    memory: mmap.mmap
    up: int
    down: int
    futexes: bool
    peer: str
    user: int | None
    alive: Callable[[], bool]


class Acceptor(Protocol):
    """Where clients come from. Whoever listens asks when the control memory's count of joins has risen."""

    def accepted(self) -> list[NewClient]:
        """Clients that came since the last call."""

    def release(self, slot: int) -> None:
        """The client of this slot is gone: another one may have it."""

    def check(self, now: float) -> None:
        """Called several times a second."""

    def close(self) -> None: ...


def check_sizes(up: int, down: int, limits: Limits) -> None:
    """Raises LinkError for capacities that a ring can't have here."""
    if any(not MIN_RING <= size <= limits.max_ring or size % segment.PAGE for size in (up, down)):
        raise LinkError(f"a ring of a size that isn't allowed: at most {limits.max_ring >> 20} MiB each way")


class SocketAcceptor(threading.Thread):
    """`control` is the descriptor of the control memory, which is handed to every client; `wake` tells the listener."""

    def __init__(
        self, path: Path, control: int, epoch: int, limits: Limits, users: Collection[int], wake: Callable[[], None]
    ) -> None:
        super().__init__(name="clients of shared memory", daemon=True)
        self._path, self._control, self._epoch, self._limits, self._wake = path, control, epoch, limits, wake
        self._users = frozenset(users)
        self._free = deque(range(limits.clients))
        self._sockets: dict[int, shm_handshake.LivenessSocket] = {}
        self._user_of: dict[int, int] = {}  # the user of each slot
        self._accepted: deque[NewClient] = deque()
        self._waiting: dict[int, tuple[socket.socket, float]] = {}  # by descriptor: until when
        self._closing = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._socket = _bind(path, shared=self._users != {own()})
        self.start()

    def accepted(self) -> list[NewClient]:
        found = []
        while self._accepted:
            found.append(self._accepted.popleft())
        return found

    def release(self, slot: int) -> None:
        if (one := self._sockets.pop(slot, None)) is not None:
            one.shut()
            self._user_of.pop(slot, None)
            self._free.append(slot)

    def check(self, now: float) -> None:
        """The thread does that by itself."""

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._closing, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(1000 if self._waiting else None)}
            if self._closing in ready:
                break
            for descriptor in ready & self._waiting.keys():
                connection, _ = self._waiting.pop(descriptor)
                poll.unregister(descriptor)
                self._step(connection, self._take_offer)
            if self._socket.fileno() in ready and (newcomer := self._accept()) is not None:
                self._step(newcomer, self._welcome)
                if newcomer.fileno() >= 0:
                    poll.register(newcomer, select.POLLIN)
            now = time.monotonic()
            late = [descriptor for descriptor, (_, end) in self._waiting.items() if end < now]
            late += list(self._waiting)[: max(0, len(self._waiting) - MOST_WAITING)]
            for descriptor in dict.fromkeys(late):
                poll.unregister(descriptor)
                self._waiting.pop(descriptor)[0].close()
        for connection, _ in self._waiting.values():
            connection.close()

    def _step(self, connection: socket.socket, step: Callable[[socket.socket], None]) -> None:
        """One client's mistakes end that client's handshake, and nothing else."""
        try:
            step(connection)
        except (LinkError, OSError) as error:
            reason = str(error) if isinstance(error, LinkError) else "the handshake failed"
            shm_handshake.refuse(connection, reason, later=isinstance(error, LinkClosed))
            connection.close()
        except Exception:
            log.exception("a client of shared memory couldn't be taken")
            connection.close()

    def _accept(self) -> socket.socket | None:
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionError):
                time.sleep(NO_DESCRIPTORS)  # no descriptors are left: they may be again
            return None
        connection.setblocking(False)
        return connection

    def _welcome(self, connection: socket.socket) -> None:
        who = credentials(connection)
        if who.user not in self._users:
            raise LinkError(f"user {user_name(who.user)} may not connect here: start the other side with --allow-user")
        if not self._free:
            raise LinkClosed(f"it has as many clients as it takes, {self._limits.clients}")
        shm_handshake.send(
            connection, shm_handshake.Packet(shm_handshake.WELCOME, 0, (self._epoch, 0), descriptor=self._control)
        )
        self._waiting[connection.fileno()] = connection, time.monotonic() + PATIENCE

    def _take_offer(self, connection: socket.socket) -> None:
        offer = shm_handshake.receive(connection, shm_handshake.OFFER)
        if offer is None:
            connection.close()
            return
        try:
            who = credentials(connection)
            up, down = offer.numbers
            check_sizes(up, down, self._limits)
            if self._links_of(who.user) >= self._limits.each:
                raise LinkClosed(f"one user has as many clients as it may, {self._limits.each}")
            memory = segment.map_sealed(offer.descriptor, segment.ring_bytes(up, down), populate=False)  # others wait
        finally:
            os.close(offer.descriptor)
        try:
            slot = self._free.popleft()
        except IndexError:
            raise LinkClosed(f"it has as many clients as it takes, {self._limits.clients}") from None
        try:
            shm_handshake.send(connection, shm_handshake.Packet(shm_handshake.ACCEPTED))
        except OSError:
            self._free.append(slot)
            raise
        one = self._sockets[slot] = shm_handshake.LivenessSocket(connection)
        self._user_of[slot] = who.user
        peer, futexes = f"the client with process id {who.process}", bool(offer.flags & segment.FUTEXES)
        self._accepted.append(NewClient(slot, memory, up, down, futexes, peer, who.user, one.alive))
        self._wake()

    def _links_of(self, user: int) -> int:
        """Links of a user. One whose process was killed a moment ago has a slot still, but counts no more."""
        sockets = list(self._sockets.items())
        return sum(self._user_of.get(slot) == user and one.alive() for slot, one in sockets)

    def close(self) -> None:
        os.eventfd_write(self._closing, 1)
        self.join(5)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        for one in list(self._sockets.values()):
            one.shut()
        os.close(self._control)
        os.close(self._closing)


def _bind(path: Path, shared: bool) -> socket.socket:
    """A socket file, for everybody's connections or for this user's alone. Its path may be longer than a socket's."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise LinkError(f"{path} is there and isn't a socket: remove it, or choose another name")
        path.unlink()  # a dead listener's: whoever lives holds the lock
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.chmod(path, 0o666 if shared else 0o600)  # nobody connects before listen()
        found.listen(BACKLOG)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise LinkError(f"{path} can't be made: {error.strerror}") from None
    finally:
        os.close(folder)
    return found

"""What both ends of a ZeroMQ link agree on: ipc is a Unix socket that only its owner may open, tcp has CURVE keys.

The client has a DEALER, the listener a ROUTER. A frame is one message; an empty message says that the sender ends the
link. Nothing reconnects: a connection that breaks is a link that closed.

Over tcp a message has parts of `PIECE` bytes. ZeroMQ encrypts a part in one go, and meanwhile no other connection of
the same thread gets anything: in one part, a frame of 10 MB would hold up everybody's small ones for 20 ms.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Collection, Sequence
from typing import Any

import zmq

from cutset.errors import FrameError, LinkError
from cutset.link.addresses import Address
from cutset.link.allowed_keys import AllowedKeys
from cutset.link.keys import key_allowed
from cutset.link.limits import Limits
from cutset.link.users import credentials, own

__all__ = [
    "DOMAIN",
    "GOODBYE",
    "KEYS_HELP",
    "PIECE",
    "KeyAuthenticator",
    "bind_file",
    "check_owner",
    "configure",
    "join_parts",
    "owner_of",
    "piece_of",
    "split_parts",
]

# A network that is gone is noticed by the system's own means. ZeroMQ's heartbeats do it too, but end the process
# (assertion !_io_error) where a connection breaks whose queue is full: https://github.com/zeromq/libzmq/pull/4852
IDLE, INTERVAL, PROBES = 2, 1, 3  # seconds until TCP asks an idle peer, between two questions, and how many
UNACKNOWLEDGED = 60_000  # ms that what was sent may stay so; also where the other side has no time to read
HANDSHAKE = 5000  # ms
PIECE = 128 << 10  # bytes of a part over tcp, which are encrypted in about 0.2 ms
CURVE = 64  # bytes that a part may grow by when it is encrypted (33: RFC 26)
GOODBYE = 200  # ms that close() may take to send what waits
DOMAIN = b"cutset"
ZAP_VERSION = b"1.0"
KEYS_HELP = "tcp needs keys: make them with `cutset keys new NAME`"


def piece_of(scheme: str) -> int:
    """Bytes of a part of a message; 0 where a frame is one part."""
    return PIECE if scheme == "tcp" else 0


def split_parts(data: bytes | bytearray, piece: int) -> list[bytes | bytearray | memoryview]:
    """The parts of a frame: of `piece` bytes each but the last, or one."""
    if not piece or len(data) <= piece:
        return [data]
    view = memoryview(data)
    return [view[at : at + piece] for at in range(0, len(data), piece)]


def join_parts(parts: Sequence[zmq.Frame], piece: int, limit: int) -> memoryview:
    """The bytes of a frame of at most `limit` bytes, not copied where it is one part. Raises FrameError for parts that
    `split_parts` doesn't make."""
    sizes = [len(part.buffer) for part in parts]
    if len(parts) == 1:
        return parts[0].buffer.toreadonly()
    if not piece or any(size != piece for size in sizes[:-1]) or not 0 < sizes[-1] <= piece:
        raise FrameError(f"a message of {len(parts)} parts, where a frame has one, or over tcp parts of {PIECE} bytes")
    if (total := sum(sizes)) > limit:
        raise FrameError(f"a frame of {total} bytes is larger than the limit of {limit}", too_large=True)
    data = bytearray(total)
    for i, part in enumerate(parts):
        data[i * piece : i * piece + sizes[i]] = part.buffer
    return memoryview(data).toreadonly()


def configure(sock: zmq.Socket[bytes], limits: Limits, scheme: str) -> None:
    """Sets what every socket here has: queues and frames within `limits`, no reconnecting, keepalive probes."""
    sock.linger = 0
    sock.sndhwm = sock.rcvhwm = limits.queue
    sock.maxmsgsize = PIECE + CURVE if scheme == "tcp" else limits.frame
    sock.tcp_keepalive, sock.tcp_keepalive_cnt = 1, PROBES
    sock.tcp_keepalive_idle, sock.tcp_keepalive_intvl = IDLE, INTERVAL
    sock.tcp_maxrt = UNACKNOWLEDGED
    sock.handshake_ivl = HANDSHAKE
    sock.reconnect_ivl = -1
    sock.immediate = True  # nothing waits for a connection that isn't there


def bind_file(raw: zmq.Socket[bytes], where: Address) -> None:
    """Binds a socket file that only this user can open. A file that a dead listener left is taken over."""
    path = where.place
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise LinkError(f"{path} is there and isn't a socket: remove it, or name another path")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.settimeout(1)
            probe.connect(path)
            raise LinkError(f"{where} is taken: something listens there already")
    before = os.umask(0o177)
    try:
        raw.bind(str(where))
    finally:
        os.umask(before)


def check_owner(where: Address, descriptor: int) -> None:
    """Refuses a connection to another user, who put a socket file there and would read everything.

    The system says who listens at the other end: the file could be another one by now.
    """
    try:
        owner = owner_of(descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            return  # it broke just now, as the handshake will find
        raise LinkError(f"{where}: its owner can't be found: {error.strerror}") from None
    if owner != own():
        raise LinkError(f"{where} belongs to another user: choose a path in a directory of your own")


def owner_of(descriptor: int) -> int:
    """The user at the other end of a Unix socket, as the system knows it. Raises OSError where it isn't one."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return credentials(connection).user


class KeyAuthenticator:
    """Says who may connect over tcp: ZeroMQ asks it about every client's key (RFC 27, ZAP).

    Answers in a thread of its own, until `stop`. `allowed` are public keys of 32 bytes, now and later; `expect` adds
    others. Who isn't on the list, or doesn't use CURVE, is refused; and while nobody answers, ZeroMQ admits nobody.
    """

    def __init__(self, context: zmq.Context[Any], allowed: Collection[bytes]) -> None:
        self._allowed = allowed
        self._expected: frozenset[bytes] = frozenset()
        self._sock = context.socket(zmq.REP)
        self._sock.linger = 0
        self._sock.bind("inproc://zeromq.zap.01")
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="cutset-zap", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._sock as sock:
            poller = zmq.Poller()
            poller.register(sock, zmq.POLLIN)
            poller.register(self._stop, zmq.POLLIN)
            while self._stop not in dict(ready := poller.poll()):
                if ready:
                    sock.send_multipart(self._answer(sock.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        # version, number, domain, address, identity, mechanism, the client's public key
        good = len(request) == 7 and request[0] == ZAP_VERSION and request[2] == DOMAIN and request[5] == b"CURVE"
        if good and (key_allowed(request[6], self._allowed) or key_allowed(request[6], self._expected)):
            return [ZAP_VERSION, number, b"200", b"OK", request[6].hex().encode(), b""]
        return [ZAP_VERSION, number, b"400", b"this key is not allowed", b"", b""]

    def expect(self, keys: frozenset[bytes]) -> None:
        """Allows these too, and no longer those of the call before."""
        self._expected = keys

    @property
    def revoked(self) -> frozenset[bytes]:
        """Those that were allowed once and aren't any more."""
        return self._allowed.revoked - self._expected if isinstance(self._allowed, AllowedKeys) else frozenset()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

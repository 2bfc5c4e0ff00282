"""What both ends of a ZeroMQ link agree on: ipc is a Unix socket that only its owner may open, tcp has CURVE keys.

The client has a DEALER, the listener a ROUTER. A frame is one message of one part; an empty message says that the
sender ends the link. Nothing reconnects: a connection that breaks is a link that closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat

import zmq

from cutset.errors import LinkError
from cutset.link.addresses import Address
from cutset.link.limits import Limits

__all__ = ["GOODBYE", "KEYS_HELP", "bind_file", "configure"]

HEARTBEAT = 1000  # ms between heartbeats
SILENCE = 4000  # ms without an answer to one, after which the other side counts as dead
HANDSHAKE = 5000  # ms
GOODBYE = 200  # ms that close() may take to send what waits
KEYS_HELP = "tcp needs keys: make them with `cutset keys new NAME`"


def configure(sock: zmq.Socket[bytes], limits: Limits) -> None:
    sock.linger = 0
    sock.sndhwm = sock.rcvhwm = limits.queue
    sock.maxmsgsize = limits.frame
    sock.heartbeat_ivl, sock.heartbeat_timeout = HEARTBEAT, SILENCE
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

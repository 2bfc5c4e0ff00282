"""The handshake of shared memory, in which memory is handed over a Unix socket: three packets, two with a descriptor.

The socket stays open afterwards, and nothing is said on it any more: it breaks when the process at its other end ends.
Both ends speak here; docs/protocol.md has the packets.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from dataclasses import dataclass

from cutset.errors import LinkClosed, LinkError, printable

__all__ = ["LivenessSocket", "Packet", "receive", "refuse", "send"]

MAGIC = b"cutsetH1"
WELCOME, OFFER, ACCEPTED, REFUSED = 1, 2, 3, 4
LATER = 1  # a flag of a refusal
HEAD = struct.Struct("<8sIIQQ")  # magic, kind, flags, and two numbers: an epoch and nothing, or two capacities
MOST_BYTES = 1024
MOST_REASON = 300  # characters


@dataclass(slots=True)
class Packet:
    """`descriptor` is -1 where none came; whoever receives it closes it. `numbers`: an epoch, or two capacities."""

    kind: int
    flags: int = 0
    numbers: tuple[int, int] = (0, 0)
    reason: str = ""
    descriptor: int = -1


def send(connection: socket.socket, packet: Packet) -> None:
    """Raises OSError. The descriptor stays the sender's own too."""
    data = HEAD.pack(MAGIC, packet.kind, packet.flags, *packet.numbers) + packet.reason.encode()
    if packet.descriptor < 0:
        connection.sendmsg([data])
    else:
        socket.send_fds(connection, [data], [packet.descriptor])


def refuse(connection: socket.socket, reason: str, later: bool = False) -> None:
    """Says why, to whoever may not read it any more. `later`: it may be tried again."""
    with contextlib.suppress(OSError):
        send(connection, Packet(REFUSED, LATER if later else 0, reason=reason[:MOST_REASON]))


def receive(connection: socket.socket, kind: int) -> Packet | None:
    """The next packet, None where the other side has gone. Raises LinkError for a refusal (LinkClosed where it may be
    tried again) and for any other packet than one of that kind, OSError where none comes in time."""
    data, descriptors, flags, _ = socket.recv_fds(connection, MOST_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
    try:
        if not data and not descriptors:
            return None
        if len(data) < HEAD.size or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            raise LinkError("the other side sent what isn't a handshake: is it another version of Cutset?")
        magic, found, bits, *numbers = HEAD.unpack_from(data)
        if magic != MAGIC:
            raise LinkError("the other side speaks another protocol: it is another version of Cutset")
        reason = printable(data[HEAD.size :].decode("utf-8", "replace")[:MOST_REASON], lines=False)
        if found == REFUSED:
            raise (LinkClosed if bits & LATER else LinkError)(reason or "the other side refused")
        if found != kind or (kind in (WELCOME, OFFER)) != bool(descriptors):
            raise LinkError("the other side sent another message than was due")
        packet = Packet(found, bits, (numbers[0], numbers[1]), reason, descriptors[0] if descriptors else -1)
        descriptors = []  # the packet's now
        return packet
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


class LivenessSocket:
    """A connection on which nothing more is said. It holds as long as both processes live and neither has cut it."""

    def __init__(self, connection: socket.socket) -> None:
        self._descriptor = connection.detach()

    def alive(self) -> bool:
        """May be asked by several threads at once, which one poll object may not."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)

    def shut(self) -> None:
        """Ends it for both sides. The descriptor itself stays: another thread may be looking at it."""
        connection = socket.socket(fileno=self._descriptor)
        try:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._descriptor)

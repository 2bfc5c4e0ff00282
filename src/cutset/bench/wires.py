"""What `cutset bench link` compares: links, and beside them the bare ring and bare ZeroMQ without frames.

A wire sends prepared messages whose kind says what the other side does: `ECHO` it, `SINK` it, or `ANSWER` with a short
one. The other process is `python -m cutset.bench.wires SYSTEM ADDRESS FOLDER`.
"""

from __future__ import annotations

import mmap
import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from cutset.errors import LinkError, LinkTimeout
from cutset.link import Limits, Link, Timeouts, connect, listen
from cutset.link.keys import load_keys, load_public

__all__ = ["ANSWER", "ECHO", "LINKS", "RING", "SINK", "STOP", "SYSTEMS", "ZEROMQ", "Wire", "address_of", "open_client"]

ECHO, SINK, ANSWER, STOP = b"e", b"s", b"a", b"q"
RING, ZEROMQ = "cutset ring alone", "ZeroMQ ipc"
LINKS = {"cutset shm": "shm", "cutset ipc": "ipc", "cutset tcp": "tcp"}
SYSTEMS = (RING, ZEROMQ, *LINKS)
PATIENCE = 20.0  # seconds
CAPACITY = 8 << 20  # bytes of each ring, as Limits has it
MUCH = 1 << 16  # bytes, from which ZeroMQ is asked not to copy
TIMEOUTS, LIMITS = Timeouts(connect=PATIENCE, send=PATIENCE, recv=PATIENCE), Limits(ring=CAPACITY)


class Wire(ABC):
    largest = 1 << 30  # bytes of a message

    @abstractmethod
    def message(self, kind: bytes, nbytes: int) -> Any:
        """What `send` takes."""

    @abstractmethod
    def send(self, message: Any) -> None: ...

    @abstractmethod
    def recv(self) -> tuple[bytes, Any]:
        """The kind, and what `send` takes to send the same back."""

    def close(self) -> None:
        """Ends it; a ring has nothing to end."""
        return


class LinkWire(Wire):
    def __init__(self, link: Link) -> None:
        self.link = link

    def message(self, kind: bytes, nbytes: int) -> Any:
        return kind, np.ones(nbytes, np.uint8)

    def send(self, message: Any) -> None:
        self.link.send(message[0], message[1:])

    def recv(self) -> tuple[bytes, Any]:
        frame = self.link.recv()
        return frame.header, (frame.header, *frame.arrays)

    def close(self) -> None:
        self.link.close()


class ZmqWire(Wire):
    def __init__(self, address: str, bind: bool) -> None:
        import zmq

        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.sock = context.socket(zmq.PAIR)
        self.sock.linger = 0
        self.sock.rcvtimeo = self.sock.sndtimeo = int(PATIENCE * 1000)
        if bind:
            self.sock.bind(address)
        else:
            self.sock.connect(address)

    def message(self, kind: bytes, nbytes: int) -> Any:
        return kind + bytes(nbytes - 1)

    def send(self, message: Any) -> None:
        self.sock.send(message, copy=len(message) < MUCH)

    def recv(self) -> tuple[bytes, Any]:
        frame = self.sock.recv(copy=False)
        data = frame.buffer
        return bytes(data[:1]), data if data.nbytes >= MUCH else frame.bytes

    def close(self) -> None:
        self.sock.close()


class RingWire(Wire):
    largest = CAPACITY // 4

    def __init__(self, path: Path, server: bool) -> None:
        import cutset.link._ring as ring
        from cutset.link.shm import patience

        size = 2 * (4096 + CAPACITY)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(descriptor, 0, size)
        self.memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        os.close(descriptor)
        outgoing, incoming = (4096 + CAPACITY, 0) if server else (0, 4096 + CAPACITY)
        rest = (*patience(TIMEOUTS),)
        self.sender = ring.Sender(self.memory, outgoing, CAPACITY, 1, self.memory, outgoing + 128, *rest)
        self.receiver = ring.Receiver(self.memory, incoming, CAPACITY, 1, self.memory, incoming + 128, *rest)
        self.view = memoryview(self.memory)[incoming:]
        self.end = 0

    def message(self, kind: bytes, nbytes: int) -> Any:
        return [kind + bytes(nbytes - 1)]

    def send(self, message: Any) -> None:
        for _ in range(int(PATIENCE * 10)):
            if self.sender.send(message, 0.1) == 1:
                return
        raise LinkTimeout("the ring's other side takes nothing")

    def recv(self) -> tuple[bytes, Any]:
        if self.end:
            self.receiver.release(self.end)
            self.end = 0
        for _ in range(int(PATIENCE * 10)):
            record = self.receiver.recv(0.1)
            if record is not None:
                _, offset, length, _, self.end = record
                data = self.view[offset : offset + length]
                return bytes(data[:1]), [data]
        raise LinkTimeout("nothing comes from the ring's other side")


def address_of(system: str, folder: Path, port: int = 0) -> str:
    kind = LINKS.get(system, "ipc")
    name = f"bench-{os.getpid()}-{kind}"
    return {"shm": f"shm://{name}", "tcp": f"tcp://127.0.0.1:{port}", "ipc": f"ipc://{folder / system.split()[0]}"}[
        kind
    ]


def open_client(system: str, address: str, folder: Path) -> Wire:
    if system == RING:
        return RingWire(ring_file(folder), server=False)
    if system == ZEROMQ:
        return ZmqWire(address, bind=False)
    keys = None
    if system == "cutset tcp":
        keys = load_keys(folder / "client.key").expecting(load_public(folder / "server.pub"))
    return LinkWire(connect(address, keys=keys, timeouts=TIMEOUTS, limits=LIMITS))


def ring_file(folder: Path) -> Path:
    return folder / "ring"


def serve(system: str, address: str, folder: Path) -> None:
    """The other side, until it is told to stop. Writes its address and a line's end first."""
    if system in LINKS:
        tcp = system == "cutset tcp"
        keys = load_keys(folder / "server.key") if tcp else None
        allow = [load_public(folder / "client.pub")] if tcp else None
        listener = listen(address, keys=keys, allow=allow, timeouts=TIMEOUTS, limits=LIMITS)
        say(listener.address)
        while (found := listener.recv(PATIENCE)) is not None:
            link, frame = found
            if frame.header == ECHO:
                link.send(frame.header, frame.arrays)
            elif frame.header == ANSWER:
                link.send(ANSWER)
            elif frame.header == STOP:
                break
            frame.release()
        listener.close()
        return
    wire = RingWire(ring_file(folder), server=True) if system == RING else ZmqWire(address, bind=True)
    say(address)
    kind = b""
    while kind != STOP:
        kind, message = wire.recv()
        if kind == ECHO:
            wire.send(message)
        elif kind == ANSWER:
            wire.send(wire.message(ANSWER, 1))
        del message  # a view of the ring
    wire.close()


def say(address: str) -> None:
    sys.stdout.write(address + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except (LinkError, KeyboardInterrupt):
        sys.exit(1)

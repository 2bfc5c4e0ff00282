"""What `python -m benchmarks link` puts beside our links: the bare ring and bare ZeroMQ, without frames.

The other side is `PYTHON benchmarks/wires.py SYSTEM FOLDER`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cutset.bench.wires import (
    ANSWER,
    CAPACITY,
    ECHO,
    PATIENCE,
    STOP,
    TIMEOUTS,
    BenchWire,
    Opener,
    opened,
    say_address,
)
from cutset.errors import LinkError, LinkTimeout

__all__ = ["BARE", "RING", "ZEROMQ"]

RING, ZEROMQ = "cutset ring alone", "ZeroMQ ipc"
MUCH = 1 << 16  # bytes, from which ZeroMQ is asked not to copy


class ZmqWire(BenchWire):
    """A PAIR socket over ipc."""

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


class RingWire(BenchWire):
    """The two rings of a shared-memory link, and nothing around them."""

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


@contextlib.contextmanager
def _open_bare(system: str, folder: Path) -> Iterator[BenchWire]:
    def connect_to(address: str) -> BenchWire:
        return ZmqWire(address, bind=False) if system == ZEROMQ else RingWire(Path(address), server=False)

    with opened(system, [sys.executable, __file__, system, str(folder)], connect_to) as wire:
        yield wire


BARE: dict[str, Opener] = {system: partial(_open_bare, system) for system in (RING, ZEROMQ)}


def serve(system: str, folder: Path) -> None:
    """The other side, until it is told to stop."""
    address = f"ipc://{folder}/zeromq" if system == ZEROMQ else str(folder / "ring")
    wire = ZmqWire(address, bind=True) if system == ZEROMQ else RingWire(Path(address), server=True)
    say_address(address)
    kind = b""
    while kind != STOP:
        kind, message = wire.recv()
        if kind == ECHO:
            wire.send(message)
        elif kind == ANSWER:
            wire.send(wire.message(ANSWER, 1))
        del message  # a view of the ring
    wire.close()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], Path(sys.argv[2]))
    except (LinkError, KeyboardInterrupt):
        sys.exit(1)

"""What `cutset bench link` sends over, and the process at the other end.

A wire sends prepared messages whose kind says what the other side does: `ECHO` it, `SINK` it, or `ANSWER` with a short
one. The other side of a link is `python -m cutset.bench.wires SYSTEM FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cutset.bench.turns import Process
from cutset.errors import LinkError
from cutset.link import Limits, Link, Timeouts, connect, listen
from cutset.link.keys import load_keys, load_public, new_keys, save_keys

__all__ = ["ANSWER", "ECHO", "LINKS", "SINK", "STOP", "BenchWire", "Opener", "opened", "say_address"]

ECHO, SINK, ANSWER, STOP = b"e", b"s", b"a", b"q"
PATIENCE = 20.0  # seconds
CAPACITY = 8 << 20  # bytes of each ring, as Limits has it
TIMEOUTS, LIMITS = Timeouts(connect=PATIENCE, send=PATIENCE, recv=PATIENCE), Limits(ring=CAPACITY)


class BenchWire(ABC):
    """One end of a system that carries messages."""

    largest = 1 << 30  # bytes of a message

    @abstractmethod
    def message(self, kind: bytes, nbytes: int) -> Any:
        """What `send` takes."""

    @abstractmethod
    def send(self, message: Any) -> None:
        """Sends what `message` made, or what `recv` gave. Raises LinkTimeout where nobody takes it."""

    @abstractmethod
    def recv(self) -> tuple[bytes, Any]:
        """The kind, and what `send` takes to send the same back."""

    def close(self) -> None:
        """Ends it; a ring has nothing to end."""
        return


Opener = Callable[[Path], contextlib.AbstractContextManager[BenchWire]]  # in a folder for keys and sockets


class LinkWire(BenchWire):
    """A link of ours: one array a message, behind a header of one byte."""

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


@contextlib.contextmanager
def opened(system: str, command: Sequence[str], connect_to: Callable[[str], BenchWire]) -> Iterator[BenchWire]:
    """A wire to a process of its own, which `say_address` tells where it listens, and which ends when told to STOP."""
    with Process(command, name=system) as process, contextlib.closing(connect_to(process.ready["address"])) as wire:
        yield wire
        wire.send(wire.message(STOP, 1))


@contextlib.contextmanager
def _open_link(system: str, folder: Path) -> Iterator[BenchWire]:
    keys = None
    if system == "cutset tcp":
        for side in ("server", "client"):
            save_keys(new_keys(), side, folder)
        keys = load_keys(folder / "client.key").expecting(load_public(folder / "server.pub"))
    command = [sys.executable, "-m", "cutset.bench.wires", system, str(folder)]
    with opened(system, command, lambda at: LinkWire(connect(at, keys=keys, timeouts=TIMEOUTS, limits=LIMITS))) as wire:
        yield wire


LINKS: dict[str, Opener] = {
    system: partial(_open_link, system) for system in ("cutset shm", "cutset ipc", "cutset tcp")
}


def serve(system: str, folder: Path) -> None:
    """The other side of a link, until it is told to stop."""
    addresses = {"shm": f"shm://bench-{os.getpid()}", "ipc": f"ipc://{folder}/cutset", "tcp": "tcp://127.0.0.1:0"}
    kind = system.removeprefix("cutset ")
    keys = load_keys(folder / "server.key") if kind == "tcp" else None
    allow = [load_public(folder / "client.pub")] if kind == "tcp" else None
    listener = listen(addresses[kind], keys=keys, allow=allow, timeouts=TIMEOUTS, limits=LIMITS)
    say_address(listener.address)
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


def say_address(address: str) -> None:
    """The first answer of a benchmark's child: where to connect."""
    sys.stdout.write(json.dumps({"address": address}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        serve(sys.argv[1], Path(sys.argv[2]))
    except (LinkError, KeyboardInterrupt):
        sys.exit(1)

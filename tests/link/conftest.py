"""Every kind of link, as a listener and clients of it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cutset.link import Limits, Link, Listener, Timeouts, connect, listen
from cutset.link.keys import new_keys
from link.mock import MockLink

KINDS = ("inproc", "shm", "ipc", "tcp", "mock")
QUICK = Timeouts(connect=5, send=5, recv=5)


@dataclass
class Place:
    """Where a test listens; `dial` makes clients, which are closed when the test ends."""

    address: str
    kind: str
    listener: Listener
    dial: Callable[..., Link]
    limits: Limits = field(default_factory=Limits)

    def first(self, timeout: float = 5.0) -> tuple[Link, object]:
        found = self.listener.recv(timeout)
        assert found is not None
        return found


@contextlib.contextmanager
def place(kind: str, folder: Path, limits: Limits) -> Iterator[Place]:
    name = uuid.uuid4().hex[:12]
    address = {
        "inproc": f"inproc://{name}",
        "mock": f"inproc://{name}",
        "shm": f"shm://{name}",
        "ipc": f"ipc://{folder / name}",
    }.get(kind)
    server, client = new_keys(), new_keys()
    if kind == "tcp":
        listener = listen("tcp://127.0.0.1:0", keys=server, allow={client.public}, timeouts=QUICK, limits=limits)
    else:
        listener = listen(str(address), timeouts=QUICK, limits=limits)
    made: list[Link] = []

    def dial(**changes: object) -> Link:
        keys = client.expecting(server.public) if kind == "tcp" else None
        link = connect(listener.address, **{"keys": keys, "timeouts": QUICK, "limits": limits, **changes})
        made.append(MockLink(link) if kind == "mock" else link)
        return made[-1]

    try:
        yield Place(listener.address, kind, listener, dial, limits)
    finally:
        for link in made:
            link.close()
        listener.close()


@contextlib.contextmanager
def echoing(listener: Listener) -> Iterator[list[BaseException]]:
    """Sends every frame back, in a thread. Gives the list of what went wrong."""
    stop, failed = threading.Event(), list[BaseException]()

    def serve() -> None:
        try:
            while not stop.is_set():
                if (found := listener.recv(0.05)) is not None:
                    link, frame = found
                    link.send(frame.header, frame.arrays)
                    frame.release()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield failed
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=KINDS)
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with place(request.param, tmp_path, Limits(frame=64 << 20, ring=1 << 20, queue=4, clients=16)) as found:
        yield found

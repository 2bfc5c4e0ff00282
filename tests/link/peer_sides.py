"""A listener with a handshake in a thread, and who dials it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cutset.cluster import messages as cluster
from cutset.errors import LinkError
from cutset.link import Link, connect, listen
from cutset.link.keys import new_keys
from cutset.link.peer import (
    Handshake,
    Hello,
    Protocol,
    Welcome,
    refusal,
)
from cutset.offload import messages as offload

NUMBERS = itertools.count()
NO_LINK: Any = None
TEST = Protocol("test", 7, whom="tester", before=6)
SERVER, CLIENT, OTHER = new_keys(), new_keys(), new_keys()
PROTOCOLS = [offload.PROTOCOL, cluster.PROTOCOL]


class Side:
    """A listener with a handshake, in a thread; keeps what it said and heard."""

    def __init__(
        self, scheme: str, handshake: Handshake, answer: Callable[[bytes], bytes | None] | None = None
    ) -> None:
        where = "tcp://127.0.0.1:0" if scheme == "tcp" else f"{scheme}://peer-{os.getpid()}-{next(NUMBERS)}"
        secrets: dict[str, Any] = {}
        if scheme == "tcp":
            secrets = {"keys": SERVER, "allow": [CLIENT.public, OTHER.public]}
        self.listener = listen(where, **secrets)
        self.handshake, self._answer = handshake, answer
        self.accepted: list[Hello] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def connect(self, keys: Any = CLIENT) -> Link:
        return connect(self.listener.address, keys=keys.expecting(SERVER.public))

    def _serve(self) -> None:
        while not self._stop.is_set():
            if (got := self.listener.recv(0.05)) is None:
                continue
            link, frame = got
            header = frame.header
            frame.release()
            if self._answer is not None:
                if (said := self._answer(header)) is not None:
                    link.send(said)
                continue
            try:
                found = self.handshake.accept(link, header)
                answer = self.handshake.welcome(link, found, b"all about me")
                self.accepted.append(found)
                link.send(answer)
            except LinkError as error:
                link.send(refusal(header, str(error)))
                link.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.listener.close()


@contextmanager
def serving(scheme: str, handshake: Handshake, answer: Any = None) -> Iterator[Side]:
    side = Side(scheme, handshake, answer)
    try:
        yield side
    finally:
        side.close()


def dial(side: Side, handshake: Handshake, keys: Any = CLIENT, timeout: float = 5.0, **more: Any) -> Welcome:
    link, found, seconds = handshake.dial(lambda: side.connect(keys), b"me", timeout=timeout, **more)
    link.close()
    assert 0 <= seconds < timeout
    return found

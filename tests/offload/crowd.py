"""Small accelerators on every kind of link, and clients that speak to them frame by frame."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cutset.kernels.reference_field import P
from cutset.link import Link, Timeouts, connect, listen
from cutset.link.keys import Keys, new_keys
from cutset.offload.accelerator.accelerator import Accelerator, Quota, limits_for
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.accelerator.ring_accelerator import new_accelerator
from cutset.offload.client.session import Patience, Session, multiply
from cutset.offload.messages import PROTOCOL, Message, Multiply, Product, encode
from cutset.offload.messages import decode as decode_message
from link.hellos import hello
from offload.conftest import serve_in_thread

LINKS = ("inproc", "shm", "ipc", "tcp")
NUMBERS = itertools.count()
RNG = np.random.default_rng(7)
WEIGHTS = [RNG.integers(-127, 128, (outputs, 256), dtype=np.int8) for outputs in (512, 96)]
SHORT = Patience(total=20.0, resend=5.0, redial=0.01)


@dataclass
class Place:
    """A running accelerator, and how to reach it."""

    accelerator: Accelerator
    address: str
    keys: dict[str, Keys]

    def dial(self, who: str = "a", **more: Any) -> Link:
        keys = None
        if self.address.startswith("tcp"):
            keys = self.keys[who].expecting(self.keys["server"].public)
        return connect(self.address, keys=keys, **more)

    def session(self, who: str = "a", patience: Patience = SHORT) -> Session:
        return Session(lambda: self.dial(who), patience)

    def greeted(self, who: str = "a", **more: Any) -> Link:
        link = self.dial(who, **more)
        try:
            say(link, hello(PROTOCOL))
            link.recv(10).release()
        except BaseException:
            link.close()
            raise
        return link


@contextmanager
def serving(
    kind: str, folder: Path, quota: Quota | None = None, products: Any = None, slow: bool = False
) -> Iterator[Place]:
    """slow: the accelerator in Python, where the fast one could be used too."""
    name = f"crowd-{os.getpid()}-{next(NUMBERS)}"
    places = {"ipc": f"ipc://{folder}/{name[-8:]}", "tcp": "tcp://127.0.0.1:0"}
    quota = quota or Quota(max_rows=1024)
    shapes = [(len(w), w.shape[1]) for w in WEIGHTS]
    keys = {who: new_keys() for who in ("server", "a", "b")}
    secrets: dict[str, Any] = {}
    if kind == "tcp":
        secrets = {"keys": keys["server"], "allow": {keys["a"].public, keys["b"].public}}
    listener = listen(
        places.get(kind, f"{kind}://{name}"),
        timeouts=Timeouts(first=quota.greeting),
        limits=limits_for(shapes, quota),
        **secrets,
    )
    products = products or NativeProducts(1)
    for number, weight in enumerate(WEIGHTS):
        products.put(number, weight)
    make = PythonAccelerator if slow else new_accelerator
    accelerator = make(listener, products, shapes, "digest", threads=1, quota=quota)
    ended = serve_in_thread(accelerator)
    try:
        yield Place(accelerator, accelerator.listener.address, keys)
    finally:
        ended()


def say(link: Link, message: Message, *arrays: Any, timeout: float = 10) -> None:
    link.send(encode(message), list(arrays), timeout=timeout)


def hear(link: Link, timeout: float = 20) -> tuple[Message, list[Any]]:
    frame = link.recv(timeout)
    message, arrays = decode_message(frame.header), [np.array(array) for array in frame.arrays]
    frame.release()
    return message, arrays


def product(session: Session, matrix: int, x: Any) -> Any:
    """Of a session, one call."""

    def fill(arrays: list[Any]) -> None:
        arrays[0][...] = x

    session.send(multiply(matrix), [(x.dtype, x.shape)], fill, due=4 * len(x) * len(WEIGHTS[matrix]))
    message, frame = session.receive()
    assert isinstance(message, Product)
    found = np.array(frame.arrays[0])
    frame.release()
    return found


def rows(count: int) -> Any:
    return RNG.integers(0, P, (count, 256), dtype=np.uint32)


def ask(link: Link, call: int, x: Any, matrix: int = 0, timeout: float = 10) -> None:
    say(link, Multiply(call, matrix), x, timeout=timeout)

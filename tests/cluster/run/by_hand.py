"""A coordinator's side of the protocol, played by hand: links, messages, orders, and what a worker answers."""

from __future__ import annotations

import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cutset.cluster.coordinator.plans import even_plan
from cutset.cluster.messages import (
    MINOR,
    PROTOCOL,
    Beat,
    Card,
    Introduction,
    Message,
    Prepare,
    encode,
)
from cutset.cluster.wire import LIMITS, pack, unpack
from cutset.errors import LinkClosed
from cutset.link import Link, Timeouts, connect
from cutset.link.peer import Hello, Refused, Welcome, read_about
from cutset.partition.plan import write_plan
from cutset.video.torch_model import TorchModel
from link import hellos

SECRET = bytes(16)
QUICK = Timeouts(connect=3.0, send=3.0, recv=3.0)


LINKS: list[Link] = []


def close_links() -> None:
    while LINKS:
        LINKS.pop().close()


def dial(address: str, **more: Any) -> Link:
    link = connect(address, timeouts=QUICK, limits=LIMITS, **more)
    LINKS.append(link)
    return link


def say(link: Link, message: Message, arrays: Any = ()) -> None:
    header, parts = pack(message, arrays)
    link.send(header, parts)


def hear(link: Link, *kinds: type[Message]) -> Any:
    """The next message of these kinds."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        frame = link.recv()
        message, _ = unpack(frame)
        frame.release()
        if isinstance(message, kinds):
            return message
        assert isinstance(message, Beat), message
    raise AssertionError(f"no {kinds}")


def ended(link: Link) -> None:
    """The other side closes it, soon."""
    until = time.monotonic() + 5
    try:
        while time.monotonic() < until:
            link.recv(2).release()
    except LinkClosed:
        return
    raise AssertionError("the link is open after 5 seconds")


def hello(role: Any, secret: bytes, name: str, **changes: Any) -> Hello:
    return hellos.hello(PROTOCOL, about=encode(Introduction(role, secret, name, MINOR)), **changes)


def greeted(address: str, secret: bytes = SECRET) -> Link:
    """A link that a session began on; the one before may not have been seen to end yet."""
    until = time.monotonic() + 5
    while True:
        link = dial(address)
        say(link, hello("coordinator", secret, "worker1"))
        answer = hear(link, Welcome, Refused)
        if isinstance(answer, Welcome):
            assert read_about(answer, Card).threads == 1
            return link
        assert time.monotonic() < until, answer.reason
        time.sleep(0.02)


def order(model: TorchModel, number: int = 1, **changes: Any) -> Prepare:
    plan = even_plan(model, ["worker1"])
    fields: dict[str, Any] = {
        "plan": number,
        "epoch": 0,
        "name": "worker1",
        "graph": model.digest,
        "description": model.description,
        "stages": write_plan(plan),
        "weights": {name: model.weight_digest(name) for name in model.graph.weights},
        "next": None,
        "previous": None,
        "in_flight": 2,
        "deltas": True,
        "threshold": 0.0,
        "half": False,
        "levels": 0,
        "bandwidth": float("inf"),
        "profile": False,
        "pace": None,
        "back": None,
    }
    return Prepare(**fields | changes)

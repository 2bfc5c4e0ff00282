"""A link that loses, repeats and breaks frames: the right answer, or an error in time."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from cutset.errors import IntegrityError, LinkClosed, LinkError, LinkTimeout, OffloadError
from cutset.kernels.reference_field import P, residue_product
from cutset.link import Link, connect, listen
from cutset.link.peer import Handshake
from cutset.offload.accelerator.accelerator import Quota
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.accelerator.ring_accelerator import RingAccelerator, new_accelerator
from cutset.offload.client.ping import ping
from cutset.offload.client.session import Patience, Session, multiply
from cutset.offload.messages import PROTOCOL, Multiply, Product, Refused, decode
from cutset.offload.messages import encode as slow_encode
from link.mock import MockLink

NUMBERS = itertools.count()
RNG = np.random.default_rng(5)
WEIGHTS = [RNG.integers(-127, 128, (outputs, 48), dtype=np.int8) for outputs in (40, 7)]
QUOTA = Quota(max_rows=16, window=0.0)
SHORT = Patience(total=5.0, resend=0.1, redial=0.01)


@contextmanager
def serving(scheme: str) -> Iterator[str]:
    name = f"{scheme}://session-{os.getpid()}-{next(NUMBERS)}"
    products = NativeProducts(1)
    for number, weight in enumerate(WEIGHTS):
        products.put(number, weight)
    shapes = [(int(w.shape[0]), int(w.shape[1])) for w in WEIGHTS]
    accelerator = new_accelerator(listen(name), products, shapes, "digest", threads=1, quota=QUOTA)
    assert type(accelerator) is {"inproc": PythonAccelerator, "shm": RingAccelerator}[scheme]
    stop = threading.Event()
    thread = threading.Thread(target=accelerator.serve, args=(stop.is_set,), daemon=True)
    thread.start()
    yield name
    stop.set()
    thread.join(10)
    accelerator.close()


@pytest.fixture
def address() -> Iterator[str]:
    with serving("inproc") as name:
        yield name


@pytest.fixture(params=["inproc", "shm"])
def either(request: pytest.FixtureRequest) -> Iterator[str]:
    """An accelerator in Python, or one whose loop is native."""
    with serving(request.param) as name:
        yield name


def product(session: Session, matrix: int, x: Any) -> Any:
    def fill(arrays: list[Any]) -> None:
        arrays[0][...] = x

    session.send(multiply(matrix), [(x.dtype, x.shape)], fill)
    message, frame = session.receive()
    assert isinstance(message, Product)
    found = np.array(frame.arrays[0])
    frame.release()
    return found


@pytest.mark.parametrize(
    "faults",
    [
        ("",),
        ("", "drop"),
        ("", "duplicate", "duplicate"),
        ("", "delay"),
        ("", "truncate", ""),
        ("", "", "drop", "duplicate", "", "delay", "truncate"),
    ],
    ids="-".join,
)
def test_the_right_product_whatever_the_link_does(faults: tuple[str, ...], address: str) -> None:
    dials: list[MockLink] = []

    def dial() -> Link:
        turned = len(dials) % len(faults)  # or the same frame would meet the same fault on every new link
        dials.append(MockLink(connect(address), faults[turned:] + faults[:turned], seed=len(dials)))
        return dials[-1]

    session = Session(dial, SHORT)
    for turn in range(12):
        x = RNG.integers(0, P, (1 + turn % 3, 48), dtype=np.uint32)
        matrix = turn % 2
        np.testing.assert_array_equal(product(session, matrix, x), residue_product(x, WEIGHTS[matrix]))
    if "drop" in faults:
        assert session.resent > 0
    session.close()


def test_a_frame_is_sent_again_byte_for_byte(address: str) -> None:
    link = MockLink(connect(address), ("", "drop"))  # every second frame is lost
    session = Session(lambda: link, SHORT)
    product(session, 0, RNG.integers(0, P, (2, 48), dtype=np.uint32))
    assert len(link.sent) == 3
    assert link.sent[1] == link.sent[2]
    session.close()


def test_a_link_that_loses_everything_is_an_error_in_time(address: str) -> None:
    link = MockLink(connect(address), ("", *["drop"] * 1000))
    session = Session(lambda: link, Patience(total=0.5, resend=0.1))
    with pytest.raises(LinkTimeout, match=r"no answer within 0\.5 s"):
        product(session, 0, np.zeros((1, 48), np.uint32))
    session.close()


def test_ping_knows_an_exact_device(either: str) -> None:
    session = Session(lambda: connect(either), SHORT)
    pong = ping(session, times=3)
    assert pong.exact
    assert pong.capabilities.matrices == 2
    assert pong.counters["clients"] == 1
    session.close()


@pytest.mark.parametrize(
    ("matrix", "x", "message"),
    [
        (2, np.zeros((1, 48), np.uint32), "there is no matrix 2"),
        (0, np.zeros((1, 47), np.uint32), r"takes one array \(rows, 48\)"),
        (0, np.zeros((1, 48), np.int32), r"takes one array \(rows, 48\)"),
        (0, np.zeros((0, 48), np.uint32), r"takes one array \(rows, 48\)"),
        (0, np.zeros((17, 48), np.uint32), "17 rows are too many"),
        (0, np.full((1, 48), P, np.uint32), "below 2147483647"),
        (0, np.full((1, 48), 30000, np.int16), "must lie between"),
    ],
)
def test_what_an_accelerator_refuses(matrix: int, x: Any, message: str, either: str) -> None:
    session = Session(lambda: connect(either), SHORT)
    with pytest.raises(OffloadError, match=message):
        product(session, matrix, x)
    good = np.ones((1, 48), np.int16)  # and goes on
    np.testing.assert_array_equal(product(session, 0, good), good.astype(np.int32) @ WEIGHTS[0].T.astype(np.int32))
    session.close()


def test_another_version_is_refused_by_name(either: str) -> None:
    newer = Handshake(replace(PROTOCOL, version=PROTOCOL.version + 1))
    with pytest.raises(
        OffloadError, match=r"refused: cutset \S+ speaks version 4 of the offload protocol, cutset \S+ 3"
    ):
        Session(lambda: connect(either), SHORT, handshake=newer)


def test_another_model_is_refused_by_both_twins(either: str) -> None:
    with pytest.raises(
        OffloadError, match=r"refused: it has loaded another model \(.*start it with the same checkpoint"
    ):
        Session(lambda: connect(either), SHORT, digest="another")
    Session(lambda: connect(either), SHORT, digest="digest").close()


def test_a_client_of_the_version_before_is_told_both(either: str) -> None:
    """As it was built: it reads a refusal with a number first, and shows its reason."""
    link = connect(either)
    link.send(msgspec.msgpack.encode(["hello", 1, "cutset 0.1"]))
    kind, call, reason = msgspec.msgpack.decode(link.recv(5).header)
    assert (kind, call) == ("refused", 0)
    assert "cutset 0.1 speaks version 1 of the offload protocol" in reason
    assert "3: install the same Cutset on both sides" in reason
    with pytest.raises(LinkClosed):
        link.recv(5)
    link.close()


def test_who_says_no_hello_gets_nothing_else(either: str) -> None:
    link = connect(either)
    link.send(slow_encode(Multiply(3, 0)), [np.ones((1, 48), np.int16)])
    answer = decode(link.recv(5).header)
    assert answer == Refused("say hello first", 3)
    link.close()


def test_an_accelerator_that_must_prove_itself_and_cannot_is_refused(either: str) -> None:
    asks = Handshake(PROTOCOL, verify=lambda evidence, binding: True)
    with pytest.raises(OffloadError, match="evidence is bound to the keys of a link"):
        Session(lambda: connect(either), SHORT, handshake=asks)


def test_a_broken_session_stays_broken(either: str) -> None:
    session = Session(lambda: connect(either), SHORT)
    address = session.address
    error = session.broke("gave nonsense")
    assert session.address == address != "?"  # whoever reports it can still say who it was
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            product(session, 0, np.zeros((1, 48), np.uint32))
        assert caught.value is error


def test_what_listens_but_is_no_accelerator_is_an_error() -> None:
    name = f"inproc://session-{next(NUMBERS)}"
    listener = listen(name)
    stop = threading.Event()

    def chat() -> None:
        while not stop.is_set():
            if (got := listener.recv(0.05)) is not None:
                got[0].send(b"hello to you too", timeout=1.0)
                got[1].release()

    thread = threading.Thread(target=chat, daemon=True)
    thread.start()
    with pytest.raises(LinkError, match="isn't one of the offload's"):
        Session(lambda: connect(name), SHORT)
    stop.set()
    thread.join(5)
    listener.close()

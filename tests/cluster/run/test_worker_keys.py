"""Who may talk to a worker: keys that are announced, and evidence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cluster.run.by_hand import SECRET, close_links, dial, hear, hello, say
from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running, torch_settings
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.messages import (
    MINOR,
    PROTOCOL,
    Introduction,
    Peer,
    encode,
)
from cutset.cluster.worker import neighbour
from cutset.errors import CutsetError, HandshakeError, LinkError
from cutset.link import listen
from cutset.link.keys import Keys, new_keys
from cutset.link.peer import Binding, Handshake, Refused
from cutset.stream import Stream


@pytest.fixture(autouse=True)
def _close_links() -> Iterator[None]:
    yield
    close_links()


def with_keys(tmp_path: Path, coordinator: Keys, count: int) -> tuple[list[Running], list[Keys]]:
    pairs = [new_keys() for _ in range(count)]
    allow = frozenset([coordinator.public])
    found = [
        Running("tcp://127.0.0.1:0", torch_settings(keys=pair, coordinators=allow), keys=pair, allow=allow)
        for pair in pairs
    ]
    return found, pairs


def test_over_tcp_each_worker_admits_the_one_that_was_announced(tmp_path: Path) -> None:
    mine = new_keys()
    workers, pairs = with_keys(tmp_path, mine, 3)
    pictures = moving(8)
    named = {f"w{i}": (worker.address, pairs[i].public) for i, worker in enumerate(workers)}
    try:
        with Stream(small_model(), pictures, workers=named, keys=mine) as stream:
            results = []
            for result in stream:
                results.append(result)
                if result.picture == 2:
                    # Announced is who comes before: the first one isn't for the last.
                    with pytest.raises(LinkError):
                        dial(workers[2].address, keys=pairs[0].expecting(pairs[2].public))
                    # Who may send pictures can't give orders.
                    link = dial(workers[2].address, keys=pairs[1].expecting(pairs[2].public))
                    say(link, hello("coordinator", SECRET, "w2"))
                    assert "not give orders" in hear(link, Refused).reason
        same(results, expected(pictures))
        with pytest.raises(LinkError):  # and the session is over
            dial(workers[2].address, keys=pairs[1].expecting(pairs[2].public))
    finally:
        for worker in workers:
            worker.close()


def test_a_coordinator_that_isnt_allowed_gets_nowhere(tmp_path: Path) -> None:
    workers, pairs = with_keys(tmp_path, new_keys(), 1)
    options = Options(patience=0.5)
    try:
        named = {"w": (workers[0].address, pairs[0].public)}
        with (
            Stream(small_model(), moving(1), workers=named, keys=new_keys(), options=options) as stream,
            pytest.raises(CutsetError, match="refused this key"),
        ):
            list(stream)
    finally:
        workers[0].close()


def test_a_worker_with_another_key_than_was_said_gets_nothing(tmp_path: Path) -> None:
    mine = new_keys()
    workers, _ = with_keys(tmp_path, mine, 1)
    try:
        named = {"w": (workers[0].address, new_keys().public)}
        options = Options(patience=0.5)
        with (
            Stream(small_model(), moving(1), workers=named, keys=mine, options=options) as stream,
            pytest.raises(CutsetError, match="no worker is left"),
        ):
            list(stream)
    finally:
        workers[0].close()


def test_expected_keys_may_connect_until_others_are(tmp_path: Path) -> None:
    server, allowed, guest = new_keys(), new_keys(), new_keys()
    listener = listen("tcp://127.0.0.1:0", keys=server, allow=[allowed.public])
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            got = listener.recv(0.05)
            if got is not None:
                got[1].release()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with pytest.raises(LinkError):
            dial(listener.address, keys=guest.expecting(server.public))
        listener.expect([guest.public])
        dial(listener.address, keys=guest.expecting(server.public)).close()
        dial(listener.address, keys=allowed.expecting(server.public)).close()
        listener.expect([])
        with pytest.raises(LinkError):
            dial(listener.address, keys=guest.expecting(server.public))
    finally:
        stop.set()
        thread.join()
        listener.close()


def quote(binding: Binding) -> bytes:
    return b"quote " + binding.digest


def verifies(evidence: bytes, binding: Binding) -> bool:
    return evidence == quote(binding)


def test_a_worker_asks_everybody_for_evidence() -> None:
    """Coordinators and workers alike, before anything else; and shows its own to who asks."""
    mine, ours, before = new_keys(), new_keys(), new_keys()
    allow = frozenset([mine.public, before.public])
    asks = Handshake(PROTOCOL, prove=quote, verify=verifies)
    worker = Running(
        "tcp://127.0.0.1:0", torch_settings(keys=ours, coordinators=allow, handshake=asks), keys=ours, allow=allow
    )

    def neighbour_with(prove: Any) -> str:
        setting = torch_settings(keys=before, handshake=Handshake(PROTOCOL, prove=prove, verify=verifies))
        peer = Peer("w2", worker.address, ours.public)
        with pytest.raises(HandshakeError) as caught:
            neighbour.dial(peer, "w1", SECRET, setting, None, lambda *_: None)
        return str(caught.value)

    def coordinator_with(prove: Any) -> None:
        about = encode(Introduction("coordinator", SECRET, "w2", MINOR))
        handshake = Handshake(PROTOCOL, prove=prove, verify=verifies).with_keys(mine)
        handshake.dial(lambda: dial(worker.address, keys=mine.expecting(ours.public)), about, timeout=5)

    try:
        with pytest.raises(HandshakeError, match="you show no evidence, and it is required"):
            coordinator_with(None)
        coordinator_with(quote)
        assert "you show no evidence" in neighbour_with(None)
        assert "you show evidence that isn't good" in neighbour_with(lambda _: b"quote of something else")
        assert "isn't the one that the coordinator announced" in neighbour_with(quote), "the evidence was good"
        plain = Running("tcp://127.0.0.1:0", torch_settings(keys=ours, coordinators=allow), keys=ours, allow=allow)
        try:
            there = mine.expecting(ours.public)
            about = encode(Introduction("coordinator", SECRET, "w2", MINOR))
            wants = Handshake(PROTOCOL, verify=verifies).with_keys(mine)
            with pytest.raises(HandshakeError, match=r"the worker at tcp://\S+ shows no evidence, and it is required"):
                wants.dial(lambda: dial(plain.address, keys=there), about, timeout=5)
        finally:
            plain.close()
    finally:
        worker.close()

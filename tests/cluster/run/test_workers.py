"""What a worker takes, refuses, keeps and forgets."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.by_hand import SECRET, close_links, dial, ended, greeted, hear, hello, order, say
from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running, torch_settings
from cutset.cluster.messages import (
    PROTOCOL,
    Beat,
    Bye,
    Connect,
    Failed,
    Message,
    More,
    Need,
    Peer,
    Prepared,
    Ready,
    Retire,
    WeightPart,
    Work,
    encode,
)
from cutset.errors import LinkError
from cutset.link.peer import Refused
from cutset.stream import Stream
from cutset.video.torch_model import TorchModel


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    worker = Running(f"ipc://{tmp_path}/w")
    yield worker
    worker.close()


@pytest.fixture(autouse=True)
def _close_links() -> Iterator[None]:
    yield
    close_links()


def test_a_worker_serves_one_coordinator_at_a_time(running: Running) -> None:
    first = greeted(running.address)
    second = dial(running.address)
    say(second, hello("coordinator", bytes(15) + b"x", "worker1"))
    assert "serves another coordinator" in hear(second, Refused).reason
    say(first, Bye())
    ended(first)
    greeted(running.address, bytes(15) + b"x").close()


def test_a_coordinator_that_falls_silent_is_forgotten(tmp_path: Path) -> None:
    worker = Running(f"ipc://{tmp_path}/w", silence=0.3)
    try:
        link = greeted(worker.address)
        ended(link)
        greeted(worker.address, b"y" * 16).close()
    finally:
        worker.close()


STAGES = {
    "not UTF-8": b'{"format": "\xa6", "graph": "\x80"}',
    "not UTF-8 in a name": b'{"format":"cutset-plan-1","graph":"","stages":[{"worker":"\xa6","nodes":[0]}]}',
    "nested": b"[" * 60_000,
    "nested objects": b'{"stages":' * 10_000,
    "nothing": b"",
    "another type": b"[1]",
    "huge numbers": b'{"format":"cutset-plan-1","graph":"","stages":[{"worker":"w","nodes":[' + b"9" * 5000 + b"]}]}",
    "a surrogate": b'{"format":"cutset-plan-1","graph":"","stages":[{"worker":"\\ud800","nodes":[0]}]}',
}


@pytest.mark.parametrize("what", STAGES)
def test_stages_that_can_t_be_read_fail_that_plan_and_the_worker_goes_on(running: Running, what: str) -> None:
    model, link = small_model(), greeted(running.address)
    say(link, order(model, 1, stages=STAGES[what]))
    assert hear(link, Failed, Prepared).plan == 1
    say(link, order(model, 2))
    assert isinstance(hear(link, Need, Prepared, Failed), Need)


@pytest.mark.parametrize("number", [10**30, -(10**30), 10**400])
def test_a_graph_with_a_number_that_no_operator_takes_fails_that_plan(running: Running, number: int) -> None:
    model, link = small_model(), greeted(running.address)
    table = json.loads(model.description)
    table["nodes"][0]["args"] = [number]
    say(link, order(model, 1, description=json.dumps(table).encode()))
    assert "more than 64 bits" in hear(link, Failed).reason
    say(link, order(model, 2))
    hear(link, Need)


def test_a_bug_in_the_thread_that_prepares_is_reported(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise KeyError("a bug \ud800\u202e")

    model, link = small_model(), greeted(running.address)
    monkeypatch.setattr("cutset.cluster.worker.preparation.read_plan", bug)
    say(link, order(model, 1))
    assert "KeyError" in hear(link, Failed).reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["preparation.Preparation._prepare", "pipeline.Pipeline._pass"])
def test_a_worker_whose_thread_died_doesn_t_look_alive(
    running: Running, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class End(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise End

    link = greeted(running.address)
    until = time.monotonic() + 5
    while (session := running.worker._session) is None:  # it says welcome first
        assert time.monotonic() < until, running.said
        time.sleep(0.01)
    monkeypatch.setattr(f"cutset.cluster.worker.{where}", die)
    if where.startswith("preparation"):
        say(link, order(small_model(), 1))
    else:
        session._pipeline._come.put(None)  # which ends the first thread, and it tells the next one
    ended(link)
    while not any("session over: the thread cutset-" in line for line in running.said):
        assert time.monotonic() < until + 10, running.said
        time.sleep(0.01)
    monkeypatch.undo()
    greeted(running.address, b"z" * 16)  # the worker itself takes the next coordinator


def test_a_bug_while_a_message_is_taken_ends_that_link_alone(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cutset.cluster.worker.coordinator_session.CoordinatorSession.handle", bug)
    link = greeted(running.address)
    say(link, More())
    assert "ZeroDivisionError in this worker" in hear(link, Refused).reason
    monkeypatch.undo()
    greeted(running.address)


def test_it_asks_for_the_weights_that_it_misses_and_takes_no_others(running: Running) -> None:
    model = small_model()
    link = greeted(running.address)
    say(link, order(model))
    need = hear(link, Need, Failed)
    assert sorted(need.weights) == sorted(model.graph.weights)
    name = need.weights[0]
    wrong = torch.zeros_like(model.tensors[name])
    data = wrong.flatten().view(torch.uint8).numpy()
    say(link, WeightPart(model.weight_digest(name), 0, data.size), [data])
    assert "another digest" in hear(link, Failed).reason


def test_weights_come_over_the_link_in_pieces(running: Running) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 700))
    torch.manual_seed(2)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter)
    picture = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(picture)).numpy()
    model = TorchModel.of(module.eval(), (1, 3, 16, 16), torch.float32)
    assert model.tensors["1.weight"].nbytes > 4 * (256 << 10)
    with Stream(model, [picture], workers=[running.address]) as stream:
        [result] = list(stream)
    assert np.array_equal(result.output, wanted)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"description": b"{}"}, "description of a graph"),
        ({"description": b"\xff"}, "isn't JSON"),
        ({"graph": "0" * 64}, "another digest"),
        ({"stages": b"{}"}, "not a plan"),
        ({"name": "worker9"}, "no stage for worker9"),
        ({"weights": {"nobody": "0" * 64}}, "no weight nobody"),
        ({"weights": {}}, "missing"),
    ],
)
def test_an_order_that_cant_be_followed_is_an_answer_and_the_worker_goes_on(
    running: Running, changes: dict[str, Any], reason: str
) -> None:
    model = small_model()
    link = greeted(running.address)
    say(link, order(model, **changes))
    assert reason in hear(link, Failed).reason
    say(link, order(model, number=2))
    assert hear(link, Need).plan == 2


def test_a_stage_that_needs_more_than_its_memory_is_refused(tmp_path: Path) -> None:
    worker = Running(f"ipc://{tmp_path}/w", torch_settings(memory=1000))
    try:
        link = greeted(worker.address)
        say(link, order(small_model()))
        assert "--memory" in hear(link, Failed).reason
    finally:
        worker.close()


def test_the_next_worker_that_isnt_there_is_named(tmp_path: Path, running: Running) -> None:
    model = small_model()
    link = greeted(running.address)
    peer = Peer("worker2", f"ipc://{tmp_path}/nobody", None)
    say(link, order(model, next=peer))
    for name in hear(link, Need).weights:
        for header, arrays in model.weight_frames(name):
            link.send(header, arrays)
    hear(link, Prepared)
    say(link, Connect(1))
    failed = hear(link, Failed, Ready)
    assert failed.party == "worker2"
    assert "can't be reached" in failed.reason


def test_nothing_that_a_peer_sends_ends_a_worker(running: Running) -> None:
    chooser, model = random.Random(3), small_model()
    work = Work(1, 0, 0, 0, [], [5], 0.0)
    good = [
        encode(message)
        for message in (order(model), work, More(), WeightPart("0" * 64, 0, 9), Retire(5), Connect(1), Bye(), Beat())
    ]
    for turn in range(60):
        link = greeted(running.address, turn.to_bytes(16, "little")) if turn % 4 else dial(running.address)
        header = bytearray(chooser.choice(good))
        for _ in range(chooser.randrange(4)):
            header[chooser.randrange(len(header))] = chooser.randrange(256)
        arrays = [np.zeros(chooser.randrange(9), np.uint8) for _ in range(chooser.randrange(3))]
        try:
            link.send(bytes(header), [array.view(np.int8) if turn % 7 == 0 else array for array in arrays])
            link.recv(0.05)
        except LinkError:
            pass
        link.close()
    pictures = moving(3)
    with Stream(model, pictures, workers=[running.address]) as stream:
        same(list(stream), expected(pictures))


@pytest.mark.parametrize(
    "message",
    [
        Work(9, 0, 0, 0, [], [5], 0.0),
        Work(1, 0, 0, 0, [], [1 << 61], 0.0),
        Beat(),
        More(),
    ],
    ids=["unknown plan", "absurd length", "not for workers", "bytes of nothing"],
)
def test_what_breaks_the_protocol_is_refused_in_one_line(running: Running, message: Message) -> None:
    link = greeted(running.address)
    say(link, message, [np.zeros(3, np.uint8)] if isinstance(message, More) else ())
    assert hear(link, Refused).reason
    ended(link)


def test_another_version_is_refused(running: Running) -> None:
    link = dial(running.address)
    say(link, hello("coordinator", SECRET, "worker1", version=PROTOCOL.version + 1))
    assert "version" in hear(link, Refused).reason


def test_a_coordinator_of_the_version_before_is_told_both(running: Running) -> None:
    """As it was built: it reads a refusal that has nothing but its reason."""
    link = dial(running.address)
    link.send(msgspec.msgpack.encode(["hello", 2, "cutset 0.1", "coordinator", SECRET, "worker1"]))
    kind, reason = msgspec.msgpack.decode(link.recv().header)
    assert kind == "refused"
    assert "cutset 0.1 speaks version 2 of the cluster protocol" in reason
    assert "4: install the same Cutset on both sides" in reason
    ended(link)


def test_a_worker_is_no_part_of_another_session(running: Running) -> None:
    first = greeted(running.address)
    stranger = dial(running.address)
    say(stranger, hello("worker", b"z" * 16, "w"))
    assert "isn't part of that session" in hear(stranger, Refused).reason
    assert hear(first, Beat), "the session goes on"

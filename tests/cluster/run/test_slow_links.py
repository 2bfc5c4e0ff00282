"""Links that are slow, and links that come and go: a run has its results, or it ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running
from cutset.cluster.coordinator.membership import Membership
from cutset.cluster.coordinator.plans import even_plan
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.emulation import Hop, connections
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import MINOR, PROTOCOL, Beat, Card, encode
from cutset.cluster.wire import LIMITS, Outbox, piece_bytes, pieces, unpack
from cutset.cluster.worker import neighbour
from cutset.cluster.worker.pipeline import Pipeline
from cutset.errors import CutsetError
from cutset.link import Listener, listen
from cutset.link.peer import Hello
from cutset.partition.plan import COORDINATOR
from cutset.stream import Stream
from link.hellos import welcome


def line(names: list[str], bandwidth: float, latency: float) -> dict[tuple[str, str], Hop]:
    """Every connection of parties on a line, as `--link` emulates it."""
    return connections([COORDINATOR, *names], [Hop(bandwidth, latency)] * len(names))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[str, None]]]:
    """Two workers that lose patience with each other as quickly as a coordinator here does."""
    monkeypatch.setattr(neighbour, "SILENCE", 0.3)
    monkeypatch.setattr(neighbour, "ASK", 0.1)
    running = {name: Running(f"ipc://{tmp_path}/{name}") for name in ("near", "far")}
    yield {name: (one.address, None) for name, one in running.items()}
    for one in running.values():
        one.close()


@contextmanager
def ends_within(stream: Stream, seconds: float) -> Iterator[None]:
    """A run that would go on for ever fails a test instead."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        stream.stop()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not late.is_set(), f"it didn't end in {seconds} s"


def test_a_link_with_a_longer_way_than_the_heartbeat(pair: Any) -> None:
    told: list[str] = []
    options = Options(silence=0.2, beat=0.05, patience=5.0)
    pictures, paces = moving(3), line(["near", "far"], math.inf, 0.15)
    with (
        Stream(small_model(), pictures, workers=pair, paces=paces, options=options, log=told.append) as stream,
        ends_within(stream, 60),
    ):
        results = list(stream)
    same(results, expected(pictures))
    assert not any("is gone" in text for text in told), told
    assert all(result.attempts == 1 for result in results)


def test_a_link_on_which_heartbeats_wait_behind_results(pair: Any) -> None:
    told: list[str] = []
    options = Options(silence=0.2, beat=0.05, patience=5.0, deltas=False)
    module, picture = torch.nn.Conv2d(3, 16, 3, padding=1), np.random.default_rng(0).random((1, 3, 12, 14), np.float32)
    paces, near = {("near", COORDINATOR): Hop(16e3, 0.0)}, {"near": pair["near"]}
    with (
        Stream(module, [picture] * 2, workers=near, paces=paces, options=options, log=told.append) as stream,
        ends_within(stream, 60),
    ):
        results = list(stream)
    with torch.no_grad():
        wanted = module(torch.from_numpy(picture)).numpy()
    same(results, [wanted] * 2)
    assert results[0].output.nbytes / 16e3 > 3 * options.silence, "it waits for less: this shows nothing"
    assert not any("is gone" in text for text in told), told


class Silent:
    """Answers hello and beats a few times, but never says more; dialled again it is there again."""

    def __init__(self, address: str) -> None:
        self.listener: Listener = listen(address, limits=LIMITS)
        self.hellos = 0
        self._open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._open:
            got = self.listener.recv(0.05)
            if got is None:
                continue
            link, frame = got
            message, _ = unpack(frame)
            frame.release()
            if isinstance(message, Hello):
                self.hellos += 1
                link.send(encode(welcome(PROTOCOL, encode(Card("none", 1, 1, 0, "0", "cpu", MINOR)))))

    def close(self) -> None:
        self._open = False
        self._thread.join(5)
        self.listener.close()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    found = Silent(f"ipc://{tmp_path}/silent")
    yield found
    found.close()


FLAPPING = Options(silence=0.2, beat=0.05, patience=0.8, gather=1.0)


def test_a_worker_that_comes_and_goes_uses_up_the_patience(silent: Silent) -> None:
    address = {"silent": (silent.listener.address, None)}
    with (
        Stream(small_model(), moving(2), workers=address, options=FLAPPING) as stream,
        ends_within(stream, 30),
        pytest.raises(CutsetError, match=r"no worker is left.*lost \d+ times without an item in between"),
    ):
        list(stream)
    assert silent.hellos >= 3


def test_a_worker_that_comes_and_goes_is_left_out_while_others_are_there(workers: LocalWorkers, silent: Silent) -> None:
    told: list[str] = []
    options = replace(FLAPPING, patience=20.0, gather=20.0, rate=20)
    addresses = {"worker1": workers.addresses["worker1"], "silent": (silent.listener.address, None)}
    pictures = moving(50)
    with (
        Stream(small_model(), pictures, workers=addresses, options=options, log=told.append) as stream,
        ends_within(stream, 60),
    ):
        results = list(stream)
    same(results, expected(pictures))
    assert any("silent was lost" in text and "left out" in text for text in told), told


def test_a_route_that_swallows_pictures_ends_the_run(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody beats, and nothing comes back: the pictures aren't sent again for ever."""
    monkeypatch.setattr(Pipeline, "put", lambda self, *item: None)
    results: list[Any] = []
    with (
        Stream(small_model(), moving(2), workers=pair, options=Options(late=0.3)) as stream,
        ends_within(stream, 30),
        pytest.raises(CutsetError, match=r"item 0 of source 0 didn't come back in 0\.3 s, 3 times"),
    ):
        results.extend(stream)
    assert {result.dropped for result in results} == {"item 0 of source 0 didn't come back in 0.3 s"}


class Still:
    """A remote that is up or not, for the arithmetic of Membership."""

    def __init__(self) -> None:
        self.up, self.why, self.emulated = True, "", 0.0


def test_losses_without_a_picture_renew_no_patience() -> None:
    remotes: Any = {"a": Still(), "b": Still()}
    members = Membership(remotes, Options())
    begun = time.monotonic()
    assert members.alone(begun, bool(members.alive())) == 0
    for _ in range(3):
        members.lost("a", "gone")
    assert members.alive() == ["b"], "a is left out, although it is there"
    members.lost("b", "gone")
    remotes["a"].up = remotes["b"].up = False
    assert members.alone(begun + 50, False) >= 49
    members.worked(["a", "b"])
    assert members.alone(begun + 60, False) < 20, "a picture passed: from when nobody was there"


def test_the_last_one_is_not_left_out_for_its_losses() -> None:
    remotes: Any = {"a": Still()}
    members = Membership(remotes, Options())
    for _ in range(9):
        members.lost("a", "gone")
    assert members.alive() == ["a"]


def test_frames_are_smaller_on_slow_links() -> None:
    assert piece_bytes(float("inf")) == piece_bytes(8e6) == 256 << 10
    assert piece_bytes(100e3) == 25_000
    assert piece_bytes(10.0) == 1024
    model = small_model()
    from cutset.cluster.messages import Work

    data = np.arange(5000, dtype=np.uint8)
    work = Work(1, 0, 0, 0, [], [data.size], 0.0)
    frames = [parts for _, parts in pieces(work, [data], 1024)]
    assert [sum(part.size for part in parts) for parts in frames] == [1024] * 4 + [904]
    assert np.array_equal(np.concatenate([part for parts in frames for part in parts]), data)
    name = max(model.tensors, key=lambda one: model.tensors[one].nbytes)
    whole = np.concatenate([parts[0] for _, parts in model.weight_frames(name)])
    assert np.array_equal(np.concatenate([parts[0] for _, parts in model.weight_frames(name, 100)]), whole)
    assert max(parts[0].size for _, parts in model.weight_frames(name, 100)) == 100


class Slow:
    """A link that takes a frame when told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.takes = threading.Semaphore(0)

    def send(self, header: bytes, arrays: Any = (), *, timeout: float | None = None) -> None:
        assert self.takes.acquire(timeout=20)
        self.sent.append(header)

    def close(self) -> None:
        self.takes.release(1000)


def test_heartbeats_leave_room_for_what_they_run_beside() -> None:
    """On a link that is as slow as they are frequent they neither pile up nor come before everything else."""
    link: Any = Slow()
    outbox = Outbox(link, "test", lambda error: None)
    frames = [(b"data %d" % i, []) for i in range(20)]
    outbox.bulk(frames)
    for number in range(40):
        for _ in range(3):
            outbox.beat(Beat())
        link.takes.release()
        until = time.monotonic() + 10
        while time.monotonic() < until and len(link.sent) <= number:
            time.sleep(0.001)
        time.sleep(0.002)
    outbox.close()
    data = [i for i, header in enumerate(link.sent) if header.startswith(b"data")]
    assert len(data) == 20
    assert data[-1] <= 40, "more than one heartbeat between two frames"
    assert 5 < len(link.sent) - len(data) <= 41


def test_an_even_split_of_the_example_has_two_stages() -> None:
    """Otherwise nothing above shows anything of a link between two workers."""
    assert len(even_plan(small_model(), ["near", "far"]).stages) == 2

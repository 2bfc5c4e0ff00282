"""Workers of networks that nobody can dial, and what a relayed hop is taken to cost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_network
from cutset.cluster.coordinator.links import Links
from cutset.cluster.messages import HopReport
from cutset.cluster.worker.worker import Worker, open_worker
from cutset.errors import ConfigError, LinkError
from cutset.link.keys import new_keys, save_keys
from cutset.partition.hop import Hop, relayed
from cutset.partition.plan import COORDINATOR
from cutset.stream import Stream
from cutset.video.worker_runtime import VideoRuntime


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[str]:
    """An address that two workers dial, `a` and `b`; nobody listens there yet."""
    for name in ("me", "a", "b"):
        save_keys(new_keys(), name, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    stop = threading.Event()
    workers = [
        open_worker(
            None,
            VideoRuntime(1),
            threads=1,
            join=address,
            key=str(tmp_path / f"{name}.key"),
            allow=str(tmp_path / "me.pub"),
        )
        for name in ("a", "b")
    ]
    threads = [threading.Thread(target=_serve, args=(worker, stop)) for worker in workers]
    for thread in threads:
        thread.start()
    yield address
    stop.set()
    for thread in threads:
        thread.join()


def _serve(worker: Worker, stop: threading.Event) -> None:
    worker.serve(stop.is_set)
    worker.close()


@pytest.mark.slow
def test_workers_that_dial_in_compute_a_network(meeting: str, tmp_path: Path) -> None:
    how = {"workers": ["join://a", "join://b"], "key": tmp_path / "me.key", "scheduler": "even"}
    keys = [tmp_path / "a.pub", tmp_path / "b.pub"]
    for change, words in (
        ({"worker_keys": keys}, "say where this side listens, with --workers-listen"),
        ({"workers_listen": meeting}, "join://a needs its public key: give --worker-keys"),
        ({"workers_listen": meeting, "worker_keys": keys, "key": None}, "join://a needs --key"),
        ({"workers_listen": meeting, "workers": 2}, "name them with --workers"),
        ({"workers_listen": meeting, "worker_keys": keys[:1] * 2}, "has the public key of another worker"),
    ):
        with pytest.raises(ConfigError, match=words):
            Stream(small_network(), moving(1), **(how | change)).close()
    pictures = moving(5)
    with Stream(small_network(), pictures, workers_listen=meeting, worker_keys=keys, **how) as stream:
        same(list(stream), expected(pictures))
        assert [stage.worker for stage in stream.coordinator.plans[-1][1].stages] == how["workers"]


def test_a_worker_either_listens_or_joins(tmp_path: Path) -> None:
    save_keys(new_keys(), "a", tmp_path)
    key, allow = str(tmp_path / "a.key"), str(tmp_path / "a.pub")
    for address, join in ((None, None), (f"ipc://{tmp_path}/w", "tcp://127.0.0.1:7000")):
        with pytest.raises(ConfigError, match="either listens or joins"):
            open_worker(address, VideoRuntime(1), threads=1, join=join, key=key, allow=allow)
    with pytest.raises(ConfigError, match="listens at tcp://HOST:PORT"):
        open_worker(None, VideoRuntime(1), threads=1, join=f"ipc://{tmp_path}/w", key=key, allow=allow)
    with pytest.raises((ConfigError, LinkError), match="host and the port"):
        open_worker(None, VideoRuntime(1), threads=1, join="tcp://127.0.0.1:0", key=key, allow=allow)


def test_a_relayed_hop_takes_as_long_as_both_of_its_ways() -> None:
    first, second = Hop(8e6, 0.02), Hop(4e6, 0.01)
    both = relayed(first, second)
    for nbytes in (0, 1000, 1 << 20):
        assert both.seconds(nbytes) == pytest.approx(first.seconds(nbytes) + second.seconds(nbytes))
    assert relayed(Hop(), Hop()) == Hop()
    assert relayed(Hop(), second) == second
    assert relayed(Hop(latency=50.0), Hop(latency=50.0)).latency == 60.0, "the most that a hop may have"


def test_links_price_what_is_relayed_until_it_was_seen() -> None:
    ways = {"a": 0.02, "b": 0.03, "c": 0.001}
    paces = {(COORDINATOR, "b"): Hop(4e6, 0.05)}
    links = Links(paces, lambda party, time: time, lambda sender, receiver: receiver == "b", ways.__getitem__)
    assert links.hop("a", "b") == Hop(4e6, 0.07), "from a to here by its round trips, from here to b as emulated"
    assert links.carries("a", "b") == 4e6
    assert links.expected("a", "b", 4e6) == pytest.approx(1.07)
    assert links.hop("a", "c") == links.hop(COORDINATOR, "c") == Hop()
    for number in range(8):
        links.learn("a", "b", HopReport(100_000, 10.0 * number, 10.0 * number + 1, 10.0 * number + 1))
    assert links.hop("a", "b").seconds(100_000) == pytest.approx(1.0, rel=0.1), "then it is what it was seen to be"

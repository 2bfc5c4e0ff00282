"""`cutset stream detector` over workers, of which one is killed on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.frigate_client import FrigateClient
from cutset.cli import main
from cutset.cli.stream_detector import serve_results
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.stream import Stream
from cutset.video import zoo
from cutset.video.detection import HeadLimits, ResultDecoder, choose_decoder, facts_of
from cutset.video.frigate.frigate_server import FrigateServer
from cutset.video.torch_model import TorchModel
from video.detection.spots import NAMES, SIDE, Spots, picture

SIZE = (64, 96)


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalWorkers]:
    with LocalWorkers(2) as local:
        yield local


def request(i: int) -> tuple[Any, int, tuple[int, int]]:
    """A tensor as Frigate sends it, the class of its spot, and where that is: another in every request."""
    number, corner = i % 3, (i * 7 % 80, i * 5 % 48)
    pixels = picture(SIZE, {NAMES[number]: corner}, seed=i % 5)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), number, corner


def is_right(rows: Any, number: int, corner: tuple[int, int]) -> bool:
    x, y = corner
    box = [y / 64, x / 96, (y + SIDE) / 64, (x + SIDE) / 96]
    return bool(rows[0, 0] == number and np.allclose(rows[0, 2:], box, atol=0.01) and not rows[1:].any())


def play(workers: LocalWorkers, address: str, count: int) -> tuple[FrigateServer, FrigateClient, list[str]]:
    """So many requests, with a worker killed after a third and started again after two thirds."""
    model = TorchModel.of(Spots(SIZE).eval(), (1, 3, *SIZE))
    decoder = choose_decoder(facts_of(model.graph, labels=NAMES), HeadLimits())
    assert decoder is not None
    outcomes: list[str] = []
    server = FrigateServer(address, SIZE, deadline=0.2)
    with Stream(
        model, server.pictures, workers=workers.addresses, scheduler="even", options=Options(deadline=0.2)
    ) as stream:
        serving = threading.Thread(target=serve_results, args=(stream, server, ResultDecoder(decoder)))
        serving.start()
        client = FrigateClient(server.address)
        for i in range(count):
            if i == count // 3:
                workers.process("worker2").kill()
            if i == 2 * count // 3:
                workers.start("worker2")
            tensor, number, corner = request(i)
            late = client.late
            rows = client.detect(tensor)
            outcomes.append("none" if client.late > late else "right" if is_right(rows, number, corner) else "wrong")
        client.close()
        server.close()
        serving.join(20)
        assert not serving.is_alive()
    return server, client, outcomes


def check(server: FrigateServer, client: FrigateClient, outcomes: list[str]) -> None:
    assert outcomes.count("wrong") == 0
    assert outcomes.count("none") == client.late
    failed = server.counts["late"] + server.counts["lost"] + server.counts["crowded out"]
    assert server.counts["requests"] == len(outcomes)
    assert server.counts["answered"] + failed + server.counts["unfinished"] == len(outcomes), server.line()
    assert outcomes.count("right") <= server.counts["answered"], server.line()
    assert outcomes[-1] == "right", "it goes on"


def test_a_worker_that_is_killed_costs_answers_and_invents_none(workers: LocalWorkers, tmp_path: Path) -> None:
    server, client, outcomes = play(workers, f"ipc://{tmp_path}/f", 90)
    check(server, client, outcomes)
    assert outcomes[:20].count("right") > 15


@pytest.mark.slow
def test_a_thousand_requests_with_a_worker_killed_on_the_way(workers: LocalWorkers, tmp_path: Path) -> None:
    server, client, outcomes = play(workers, f"ipc://{tmp_path}/f", 1000)
    check(server, client, outcomes)
    assert outcomes.count("right") > 900


def test_the_command(
    workers: LocalWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "build", lambda name, **more: Spots(SIZE).eval())
    made: list[Stream] = []
    begin = Stream.of

    def of(*given: Any, **more: Any) -> Stream:
        made.append(begin(*given, **more))
        return made[-1]

    monkeypatch.setattr(Stream, "of", of)
    found: list[Any] = []

    def use() -> None:
        client = FrigateClient(f"ipc://{tmp_path}/f", timeout=5000)
        tensor, number, corner = request(4)
        found.append(is_right(client.detect(tensor), number, corner))
        client.close()
        made[0].stop()

    using = threading.Thread(target=use)
    using.start()
    addresses = ",".join(address for address, _ in workers.addresses.values())
    command = ["stream", "detector", "spots", "--frigate", f"ipc://{tmp_path}/f", "--size", "64x96"]
    command += ["--workers", addresses, "--scheduler", "even", "--deadline", "5", "--json", str(tmp_path / "r.json")]
    assert main(command) == 0
    using.join()
    assert found == [True]
    assert "1 requests, 1 answered, 1 questions for the model" in capsys.readouterr().err
    rows = {row["metric"]: row["value"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    assert rows["answered"] == 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["alexnet", "--frigate", "ipc://{}/f"], "a detector needs a detector"),
        (["spots", "--frigate", "shm://x"], "tcp://HOST:PORT"),
        (["spots"], "--frigate"),
    ],
)
def test_what_is_refused(flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["stream", "detector", *(flag.replace("{}", str(tmp_path)) for flag in flags), "--scheduler", "even"]
    try:
        code = main([*command, "--size", "64x96"])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert says in capsys.readouterr().err

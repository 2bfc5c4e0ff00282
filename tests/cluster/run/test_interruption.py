"""However a run ends, what was done is in its files; and signals end it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from cluster.run.pictures import moving, small_model
from cutset.cli import main
from cutset.cli.interruption import Interrupted, Interruption
from cutset.cli.stream_results import RunResults
from cutset.cluster.coordinator.coordinator import Coordinator
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.trace.chrome import read_trace
from cutset.link.launch import Child
from cutset.stream import Stream
from cutset.video.torch_model import TorchModel


def command(addresses: str, folder: Path, *more: str) -> list[str]:
    start = ["stream", "run", "alexnet", "--features", "--source", "generated:64x64", "--scheduler", "even"]
    files = ["--json", str(folder / "r.json"), "--trace", str(folder / "t.json")]
    return [*start, "--workers", addresses, *files, *more]


@pytest.fixture
def addresses(workers: LocalWorkers) -> str:
    return ",".join(address for address, _ in workers.addresses.values())


def at_call(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, count: int, deed: Callable[[], None]) -> None:
    """Does something in the middle of the count-th call."""
    real, calls = getattr(where, name), []

    def wrapped(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            deed()
        return real(*args)

    monkeypatch.setattr(where, name, wrapped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_order_and_its_files_are_whole(
    number: int,
    addresses: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of checking a picture: that one counts, the next one doesn't."""
    at_call(monkeypatch, TorchModel, "run", 4, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert main(command(addresses, tmp_path, "--check")) == 128 + number
    assert signal.getsignal(number) is before
    out, err = capsys.readouterr()
    document = json.loads((tmp_path / "r.json").read_text())
    assert len(out.splitlines()) == len(document["pictures"]) == 4
    assert "check: all 4 pictures have the bits" in err
    assert "4 pictures, 0 dropped" in err
    assert document["ended"] == signal.Signals(number).name
    assert {row["metric"] for row in document["rows"]} >= {"latency", "latency, 95 %", "latency, largest"}
    assert all(one["latency_s"] >= one["transit_s"] > 0 for one in document["pictures"])
    trace = read_trace((tmp_path / "t.json").read_bytes())
    assert trace.timeline["coordinator"]
    assert sorted(os.listdir(tmp_path)) == ["r.json", "t.json"]


def test_a_signal_while_nothing_comes_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def soon() -> None:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()

    at_call(monkeypatch, Interruption, "on_signal", 1, soon)
    assert main(command(f"ipc://{tmp_path}/nobody", tmp_path)) == 143
    document = json.loads((tmp_path / "r.json").read_text())
    assert (document["pictures"], document["ended"]) == ([], "SIGTERM")


def test_the_second_signal_aborts(
    addresses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_call(monkeypatch, RunResults, "add", 2, twice)
    assert main(command(addresses, tmp_path)) == 130
    assert os.listdir(tmp_path) == []
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_that_fails_has_its_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(f"ipc://{tmp_path}/nobody", tmp_path, "--patience", "0.3")) == 2
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["ended"].startswith("no worker is left")
    assert read_trace((tmp_path / "t.json").read_bytes()).timeline is not None
    assert "no worker is left" in capsys.readouterr().err


def test_one_file_that_cannot_be_written_at_the_end_does_not_cost_the_other(
    addresses: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "r.json"), "--trace", "/dev/full"]
    assert main([*command(addresses, tmp_path, "--limit", "2"), *files]) == 2
    assert "'/dev/full' can't be written: No space left on device" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "r.json").read_text())["pictures"]) == 2


def test_signals_before_there_is_anything_to_write_and_ignored_ones() -> None:
    with Interruption() as signals:
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 143
        stopped: list[int] = []
        signals.on_signal(lambda: stopped.append(1))
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stopped, signals.name) == ([1], "SIGTERM")
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ended", [0, 1])
def test_a_signal_while_workers_are_stopped_leaves_neither_them_nor_their_directory(
    monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    """The one at which it comes was told already to leave the directory."""
    here = LocalWorkers(2)
    processes = [here.process(name) for name in here.names]
    stop = Child.end
    count = itertools.count()

    def interrupted(child: Child, patience: float = 1.0) -> None:
        if next(count) == ended:
            raise KeyboardInterrupt
        stop(child, patience)

    monkeypatch.setattr(Child, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here.close()
    assert not here.directory.exists()
    assert all(process.returncode is not None for process in processes)
    here.close()


def test_a_signal_while_a_stream_is_closed_closes_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Coordinator) -> None:
        close(self)
        raise KeyboardInterrupt

    close = Coordinator.close
    stream = Stream(small_model(32, 48), moving(1, 32, 48), workers=1)
    assert stream.local is not None
    monkeypatch.setattr(Coordinator, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert not stream.local.directory.exists()


def test_closing_twice_does_nothing() -> None:
    with Stream(small_model(32, 48), moving(1, 32, 48), workers=1) as stream:
        stream.close()
    assert stream.local is not None
    stream.local.close()

"""What masks cost beside the same model run here: ratios of rows, and speculation over a link that is long."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import delayed_relay
from benchmarks.__main__ import main as benchmarks
from benchmarks.masked_speculation import AGAINST, HERE, SERVER
from benchmarks.offload import DECODE, SITES, TARGETS, ratios
from benchmarks.targets import judge
from cutset.bench.turns import started
from cutset.compare.results import Row, load

SPENT = "client CPU at the sites"


def test_ratios_are_to_the_same_model_run_here() -> None:
    rows = [
        Row("offload w246", "cutset local exact", "decode", 50.0, "tok/s"),
        Row("offload w246", "cutset masked over shm", "decode", 49.0, "tok/s"),
        Row("offload layer7b", "cutset local int8", SPENT, 40.0, "ms"),
        Row("offload layer7b", "cutset local exact", SPENT, 50.0, "ms"),
        Row("offload layer7b", "cutset masked+verified over shm", SPENT, 8.0, "ms"),
        Row("offload alone", "cutset masked over shm", "decode", 1.0, "tok/s"),
    ]
    found = {(row.workload, row.system, row.metric): row.value for row in ratios(rows)}
    assert found == {
        ("offload w246", "cutset masked over shm", DECODE): 0.98,
        ("offload layer7b", "cutset masked+verified over shm", SITES): 0.2,
    }
    lines = judge([*rows, *ratios(rows)], TARGETS)
    assert [(line[2], line[3]) for line in lines] == [("0.980", "yes"), ("0.200", "NO")]


def test_bytes_come_through_the_relay_late_and_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            link, _ = server.accept()
            with link:
                while data := link.recv(1 << 16):
                    link.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        command = [sys.executable, delayed_relay.__file__, f"127.0.0.1:{server.getsockname()[1]}", "0.05"]
        with started(command, r"relaying at tcp://(\S+)", name="the relay") as address:
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=20) as link:
                sent, found, began = bytes(range(256)) * 1000, b"", time.monotonic()
                link.sendall(sent)
                while len(found) < len(sent):
                    found += link.recv(1 << 16)
                assert time.monotonic() - began >= 0.1
                assert found == sent
                link.shutdown(socket.SHUT_WR)
                assert link.recv(1) == b""


@pytest.mark.slow
def test_a_small_run_of_speculation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    flags = ["--tokens", "10", "--rounds", "1", "--hop", "2", "--drafts", "4", "--json", str(file)]
    assert benchmarks(["masked_speculation", *flags]) == 0
    assert "speculation, masked, a second server's pads" in capsys.readouterr().out
    rows = {(row.workload, row.system, row.metric): row.value for row in load(file).rows}
    for where in (SERVER, HERE):
        repeating = {name: v for (work, system, name), v in rows.items() if "that repeats" in work and where in system}
        assert repeating[AGAINST] > 0
        assert repeating["tokens a step"] > 1
        assert repeating["rows of pads at a matrix"] >= 10 * 5
    assert benchmarks(["masked_speculation", "--drafts", "0"]) == 2

"""`cutset bench link` on a small scale, and what `python -m benchmarks link` puts beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.wires import RING, ZEROMQ
from cutset.bench import link
from cutset.bench.wires import LINKS
from cutset.cli import main
from cutset.compare.results import load


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SECONDS", 0.005)


def test_every_system_and_both_sizes(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "link.json"
    code = benchmarks(["link", "--rounds", "2", "--size", "64", "--size", "3145728", "--json", str(file)])
    assert code == 0
    out = capsys.readouterr().out
    assert "64 B: cutset shm" in out
    rows = load(file).rows
    seen = {(row.workload, row.system) for row in rows}
    assert {system for workload, system in seen if workload == "link 64 B"} == {RING, ZEROMQ, *LINKS}
    assert {system for workload, system in seen if workload == "link 3 MiB"} == {ZEROMQ, *LINKS}
    assert {row.metric for row in rows} == {"round trip", "round trip p99", "one way"}
    assert all(row.value > 0 for row in rows)


def test_our_own_links_alone(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "link.json"
    assert main(["bench", "link", "--rounds", "1", "--size", "64", "--json", str(file)]) == 0
    assert {row.system for row in load(file).rows} == set(LINKS)
    trips = {row.metric: row.value for row in load(file).rows if row.system == "cutset shm"}
    assert trips["round trip"] <= trips["round trip p99"]
    assert "to reach" not in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--size", "0"], ["--system", "carrier pigeon"]])
def test_wrong_flags(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for run in (lambda: main(["bench", "link", *flags]), lambda: benchmarks(["link", *flags])):
        assert run() == 2
        assert flags[0] in capsys.readouterr().err

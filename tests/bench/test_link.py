"""`cutset bench link` on a small scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutset.bench import link
from cutset.bench.wires import LINKS
from cutset.cli import main
from cutset.compare.results import load


def test_every_system_and_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(link, "SECONDS", 0.005)
    file = tmp_path / "link.json"
    code = main(["bench", "link", "--rounds", "2", "--size", "64", "--size", "3145728", "--json", str(file)])
    assert code == 0
    out = capsys.readouterr().out
    assert "64 B: cutset shm" in out
    rows = load(file).rows
    seen = {(row.workload, row.system) for row in rows}
    assert {system for workload, system in seen if workload == "link 64 B"} == {RING, ZEROMQ, *LINKS}
    assert {system for workload, system in seen if workload == "link 3 MiB"} == {ZEROMQ, *LINKS}
    assert {row.metric for row in rows} == {"round trip", "round trip p99", "one way"}
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--size", "0"], ["--system", "carrier pigeon"]])
def test_wrong_flags(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "link", *flags]) == 2
    assert flags[0] in capsys.readouterr().err

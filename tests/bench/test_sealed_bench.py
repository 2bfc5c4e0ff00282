"""`python -m benchmarks sealed`: starts of a sealed checkpoint beside those of the plain one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sealed
from benchmarks.__main__ import main as benchmarks
from benchmarks.sealed import OVER, RATE
from cutset.compare.results import load


def test_the_rate_is_that_of_what_opening_adds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(3_000_000))
    seconds = {"plain": 1.0, "sealed": 1.002}
    commands: list[list[str]] = []

    def first_byte(command: list[str], cache: str) -> float:
        commands.append(command)
        return seconds["sealed" if "--model-key" in command else "plain"]

    monkeypatch.setattr(sealed, "seconds_to_first_byte", first_byte)
    rows = sealed.starts("w", tmp_path / "model", tmp_path / "sealed", tmp_path / "key", 2, 1)
    found = {(row.system, row.metric): row.value for row in rows}
    assert found["cutset sealed", RATE] == pytest.approx(1.5)
    assert found["cutset plain", "first byte"] == 1.0
    assert str(tmp_path / "sealed") in commands[1]
    assert commands[0][:-1] == commands[1][: len(commands[0]) - 1]  # both do the same


def test_a_start_that_happened_to_be_quicker_makes_no_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(bytes(3_000_000))
    seconds = iter([1.0, 1.0, 1.0, 0.99, 1.0, 1.03])  # plain and sealed: to warm up, and in two rounds
    monkeypatch.setattr(sealed, "seconds_to_first_byte", lambda command, cache: next(seconds))
    rows = sealed.starts("w", tmp_path / "model", tmp_path / "sealed", tmp_path / "key", 2, 2)
    found = {(row.system, row.metric): row.value for row in rows}
    assert found["cutset sealed", sealed.ADDED] == pytest.approx(0.01)
    assert found["cutset sealed", RATE] == pytest.approx(0.3)


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sealed.json"
    flags = ["--model", "tiny", "--tokens", "8", "--rounds", "1", "--threads", "1", "--json", str(file)]
    assert benchmarks(["sealed", *flags]) == 0
    found = {row.metric: row.value for row in load(file).rows}
    assert found[RATE] > 0
    assert found[OVER] > 0
    assert "opening a sealed checkpoint" in capsys.readouterr().out
    assert benchmarks(["sealed", "--tokens", "1"]) == 2

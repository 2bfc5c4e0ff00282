"""`python -m benchmarks batches`: what it counts, and a short run on a local Ray cluster."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batches
from benchmarks.__main__ import main as benchmarks
from benchmarks.batches import TARGETS, Cluster
from benchmarks.targets import judge
from cutset.compare.results import Row
from cutset.errors import EngineError


def test_the_driver_is_killed_once_answers_are_there_and_engines_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(batches, "children", lambda pid, word: [pid + 1])
    monkeypatch.setattr(batches.os, "kill", lambda pid, number: killed.append(pid))
    killing = batches._Killing(Cluster("", {}, 100), tmp_path / "out", 9, every=0.0)
    killing.until = 3
    nobody: Any = None
    assert not killing(nobody)
    assert killed == [], "nothing was answered yet"
    parts = tmp_path / "out.parts"
    parts.mkdir()
    (parts / "1.shard").write_text("a\nb\n")
    time.sleep(0.01)
    assert not killing(nobody)
    assert killed == [101]
    (parts / "2.shard").write_text("c\n")
    assert killing(nobody)
    assert (killing.done, killing.killed) == (3, 2)


def test_rates_count_from_the_first_output(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.mp4.jsonl").write_text("")
        os.utime(tmp_path / f"{number}.mp4.jsonl", (100 + number, 100 + number))
    assert batches._rates(tmp_path, 50, 20.0) == {"pictures a second, whole command": 2.5, batches.PLAYED: 10.0}
    with pytest.raises(EngineError, match="too few outputs"):
        batches._rates(tmp_path / "none", 50, 20.0)


def test_one_wrong_answer_misses_its_target() -> None:
    for wrong, verdict in ((0.0, "yes"), (1.0, "NO")):
        [line] = judge([Row("any", "cutset over Ray", batches.WRONG, wrong, "answers")], TARGETS)
        assert line[3] == verdict


@pytest.mark.slow
def test_a_quick_run_has_all_rows(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("av")
    file = tmp_path / "rows.json"
    assert benchmarks(["batches", "--quick", "--json", str(file)]) == 0
    found = {row["metric"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    assert found[batches.WRONG] == 0
    assert found["outputs that aren't those of one core"] == 0
    assert all(found[target.metric] >= 0 for target in TARGETS)

"""What others take of the machine, by what the system tells: a made-up one."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import neighbours, others
from benchmarks.hostile import IDLE
from cutset.errors import EngineError


def machine(folder: Path, busy: int, own: int, child: int, stranger: int) -> None:
    (folder / "stat").write_text(f"cpu  {busy} 0 0 900 50 0 0 0 0 0\ncpu0 1 1 1 1\n")
    for pid, parent, ticks in ((os.getpid(), 1, own), (70001, os.getpid(), child), (70002, 70001, stranger)):
        place = folder / str(pid)
        place.mkdir(exist_ok=True)
        (place / "stat").write_text(f"{pid} (a (b) c) S {parent} 0 0 0 0 0 0 0 0 0 {ticks} 0 0 0 20 0\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    now = SimpleNamespace(seconds=10.0)
    monkeypatch.setattr(others, "PROC", tmp_path)
    monkeypatch.setattr("benchmarks.others.time.monotonic", lambda: now.seconds)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    return now


def test_only_what_is_no_child_s_counts(clock: SimpleNamespace, tmp_path: Path) -> None:
    machine(tmp_path, 1000, 10, 20, 500)
    counted = others.Others()
    clock.seconds += 2
    machine(tmp_path, 1400, 60, 220, 600)
    assert counted.cores() == pytest.approx((400 - 50 - 200) / 100 / 2)


def test_where_the_system_tells_nothing_nobody_takes_anything(clock: SimpleNamespace) -> None:
    counted = others.Others()
    clock.seconds += 1
    assert counted.cores() == 0


@pytest.mark.parametrize("taken", [[0.5, 0.4, 0.1], [0.5] * 9])
def test_a_rate_on_a_busy_machine_is_measured_again(taken: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile clients come to nothing there, and any accelerator would look fair."""
    rest, asked = list(taken), list[str]()
    monkeypatch.setattr(neighbours, "Others", lambda: SimpleNamespace(cores=lambda: rest.pop(0)))

    def beside(client: object, crowd: object, kind: str) -> float:
        asked.append(kind)
        return float(len(asked))

    monkeypatch.setattr(neighbours, "_beside", beside)
    if taken[-1] > neighbours.OTHERS:
        with pytest.raises(EngineError, match="quiet"):
            neighbours._pair(object(), [], [], "greedy")
    else:
        assert neighbours._pair(object(), [], [], "greedy") == (5.0, 6.0)
        assert asked == [IDLE, "greedy"] * 3

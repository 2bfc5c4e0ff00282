"""`cutset bench stages` on a small scale."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.stages import TARGETS
from cutset.bench import stage_memory, stage_workers
from cutset.cli import main
from cutset.compare.results import Row
from cutset.errors import EngineError


def measured(folder: Path, *flags: str) -> dict[tuple[str, str], float]:
    """Values by system and metric."""
    file = folder / "rows.json"
    assert main(["bench", "stages", "--quick", "--rounds", "1", *flags, "--json", str(file)]) == 0
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return {(row["system"], row["metric"]): row["value"] for row in rows}


@pytest.mark.slow
def test_a_hop_is_timed_from_kernel_to_kernel_over_both_links(tmp_path: Path) -> None:
    found = measured(tmp_path, "--workload", "hop")
    for words in ("tcp with keys", "shared memory"):
        middle, late, bare = (
            found[f"cutset {words}", metric]
            for metric in ("kernel to kernel, p50", "kernel to kernel, p99", "half a round trip of the bare link")
        )
        assert 0 < middle <= late
        assert bare > 0


@pytest.mark.slow
def test_every_workload_runs(tmp_path: Path) -> None:
    found = measured(tmp_path, *(f"--workload={name}" for name in ("groups", "latency", "prefill", "idle")))
    assert found["cutset two stages, a core each", "against one core with 8 streams"] > 0
    assert found["cutset two stages", "of what latency allows"] > 0
    assert found["cutset two stages, a core each", "time to first token, of one core's"] > 0
    assert found["cutset stage", "CPU of a core"] >= 0


@pytest.mark.slow
def test_faults_and_tokens_count_every_answer(tmp_path: Path) -> None:
    faults = measured(tmp_path, "--workload", "faults")
    assert faults["cutset two stages", "answers that differ or failed"] == 0
    assert faults["cutset two stages", "answers that are equal"] == 4
    tokens = measured(tmp_path, "--workload", "tokens")
    assert tokens["cutset stages", "answers that differ"] == 0
    assert tokens["cutset stages", "answers that are equal"] > 0


@pytest.mark.slow
def test_the_cache_is_what_little_memory_allows(tmp_path: Path) -> None:
    found = measured(tmp_path, "--workload", "memory")
    assert 0 < found["cutset three stages", "tokens of the cache, of what memory allows"] <= 1
    assert found["cutset stage of 10 MB", "most memory beyond the base"] > 0


def test_memory_is_divided_among_parts_that_have_layers() -> None:
    def graph(blocks: int) -> Any:  # the embedding, two layers, and the head, as nodes of their own
        nodes = [SimpleNamespace(state=blocks * each) for each in (0, 10, 10, 0)]
        return SimpleNamespace(nodes=nodes, weight_bytes=lambda part: 100 * len(part))

    blocks = [stage_memory._blocks(graph(1), graph(2), part, 250) for part in (range(1), range(2), range(1, 3))]
    assert blocks == [0.0, 5.0, 2.5]


def test_processes_are_pinned_before_they_load_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 1})
    assert stage_workers.cores(2) == [1, 3]
    assert stage_workers.on_cores([1, 3])[-1] == "1,3"
    with pytest.raises(EngineError, match="may use 2"):
        stage_workers.cores(3)


def test_every_target_names_rows_that_are_made() -> None:
    """A target that finds no row would never be missed."""
    one = [Row("kill -9", "cutset two stages", "found, longest", 1.0, "ms")]
    assert [target.text for target in TARGETS if target.worst(one)] == ["kill -9, found (ms)"]


def test_what_cannot_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stages", "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err

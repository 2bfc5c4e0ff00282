"""`python -m benchmarks ray_stages`: a short run on a local Ray cluster, which starts and ends with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ray")

from benchmarks.__main__ import main as benchmarks
from benchmarks.ray_stages import TARGETS


@pytest.mark.slow
def test_a_short_run_has_all_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    few = ["--stages", "2", "--rounds", "1", "--answers", "1", "--tokens", "30", "--rest", "3"]
    assert benchmarks(["ray_stages", *few, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    found = {(row["system"], row["metric"]): row["value"] for row in rows}
    assert all(value > 0 for (_, metric), value in found.items() if "actor" not in metric)
    parts = [value for (_, metric), value in found.items() if metric.startswith("idle stage, its")]
    assert len(parts) == 3
    assert found["cutset stages", "idle stage, all of Ray"] == pytest.approx(sum(parts))
    for target in TARGETS:
        assert [1 for _, metric in found if metric.endswith(target.metric)] == [1]

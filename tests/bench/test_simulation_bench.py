"""`python -m benchmarks simulation` on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.simulation import OFF, RATIO


@pytest.mark.slow
def test_every_part_is_predicted_and_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "rows.json"
    few = ["--clusters", "1", "--rounds", "1", "--tokens", "24", "--requests", "100", "--seconds", "4"]
    assert benchmarks(["simulation", *few, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    kinds = {row["metric"].partition(":")[0] for row in rows}
    assert kinds == {
        "tokens a second",
        "time of a token",
        *(f"request to its last token, p{at}" for at in (50, 95, 99)),
        "age of a result, median",
        "pictures a second",
    }
    for kind in kinds:
        of = {(row["system"], row["metric"]): row["value"] for row in rows if row["metric"].startswith(kind)}
        said, measured = of["cutset simulate", kind], of["cutset, measured", kind]
        assert said > 0
        assert measured > 0
        assert of["cutset simulate", f"{kind}: {RATIO}"] == pytest.approx(said / measured)
        assert of["cutset simulate", f"{kind}: {OFF}"] == pytest.approx(abs(said / measured - 1) * 100)

"""`python -m benchmarks side_channels`: the estimate, and a run of a few requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.side_channels import FEATURES, PROMPTS, QUESTIONS, mutual_information
from cutset.compare.results import load


def test_bits_are_those_of_what_a_feature_tells() -> None:
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 50)
    assert mutual_information(labels, labels * 10.0 + draw.normal(size=200), 4) == pytest.approx(2, abs=0.1)
    assert mutual_information(labels, (labels // 2) * 10.0, 4) == pytest.approx(1, abs=0.1)
    assert mutual_information(labels, draw.normal(size=200), 4) < 0.1
    assert mutual_information(labels, np.zeros(200), 4) == 0


@pytest.mark.slow
def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bits.json"
    assert benchmarks(["side_channels", "--requests", "3", "--period", "10", "--json", str(file)]) == 0
    rows = load(file).rows
    assert len(rows) == 2 * 2 * len(FEATURES)
    assert all(0 <= row.value <= np.log2(max(len(PROMPTS), len(QUESTIONS))) for row in rows)
    assert "mutual information" in capsys.readouterr().out
    assert benchmarks(["side_channels", "--requests", "1"]) == 2

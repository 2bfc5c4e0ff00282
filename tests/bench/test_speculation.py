"""`cutset bench speculation` on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutset.cli import main


def test_text_that_repeats_itself_takes_fewer_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    flags = ["--hop", "10", "--tokens", "64", "--rounds", "1", "--threads", "1", "--json", str(file)]
    assert main(["bench", "speculation", "story", *flags]) == 0
    assert "text that repeats itself, 10 ms a hop" in capsys.readouterr().out
    rows = {
        (row["workload"], row["system"], row["metric"]): row["value"] for row in json.loads(file.read_text())["rows"]
    }
    assert len(rows) == 8
    assert all(value > 0 for value in rows.values())
    steps = {"doesn't" in workload: value for (workload, _, metric), value in rows.items() if metric == "tokens a step"}
    assert steps[False] > 1.1
    assert steps[False] > steps[True]


@pytest.mark.parametrize("flags", [("--hop", "-1"), ("--hop", "nan"), ("--tokens", "1"), ("--rounds", "0")])
def test_what_cannot_be_is_said(flags: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "speculation", *flags]) == 2
    assert flags[0] in capsys.readouterr().err

"""The benchmark of the KV cache runs on a small model, and measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kv
from benchmarks.__main__ import main
from cutset.compare.metric_units import higher_is_better
from cutset.compare.results import load


def test_it_runs_on_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kv", "--model", "tiny", "--context", "512", "--prefix", "128", "--rounds", "1", "--threads", "1"]
    assert main([*words, "--json", str(tmp_path / "kv.json")]) == 0
    rows = load(tmp_path / "kv.json").rows
    said = capsys.readouterr().out
    for target in kv.TARGETS:
        assert target.worst(rows) is not None
        assert target.text in said
    assert {row.system for row in rows if row.metric == "decode"} == {"cutset, float32 cache", "cutset, int8 cache"}
    assert len([row for row in rows if row.metric == "first token"]) == 4
    assert {row.metric: higher_is_better(row.unit, row.metric) for row in rows if row.unit in ("x", "rel")} == {
        kv.FASTER: True,
        kv.SHARE: False,
    }


def test_sizes_without_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "--model", "tiny", "--context", "3"]) == 2
    assert "--context and --prefix must be at least 32" in capsys.readouterr().err

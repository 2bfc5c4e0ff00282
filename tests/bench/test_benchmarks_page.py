"""BENCHMARKS.md is made from the result files, not written."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import report

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_result_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert Path("BENCHMARKS.md").read_text(encoding="utf-8") == report("benchmarks"), "run `make benchmarks`"

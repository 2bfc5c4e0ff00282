"""`python -m benchmarks receipts`: answers with receipts beside the same without."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks
from benchmarks.receipts import SHARE, WITH
from cutset.compare.results import load


def test_a_receipt_beside_its_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "receipts.json"
    flags = ["--model", "tiny", "--tokens", "8", "--prompt", "5", "--rounds", "1", "--json", str(file)]
    assert benchmarks(["receipts", *flags]) == 0
    found = {row.metric: row.value for row in load(file).rows}
    assert found[SHARE] > 0
    assert found[WITH] > 0
    assert found["size of a receipt"] > 16 * 1.5 * (8 + 8 + 8)
    assert "a receipt's CPU time over that of its answer" in capsys.readouterr().out
    assert benchmarks(["receipts", "--tokens", "1"]) == 2

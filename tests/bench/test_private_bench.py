"""What a client of private pictures spends is measured beside multiplying itself, with equal bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.__main__ import main as benchmarks


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))
    asked = ["private_pictures", "--networks", "resnet18", "--size", "64", "--rounds", "1"]
    assert benchmarks([*asked, "--json", str(tmp_path / "r.json")]) == 0
    rows = {
        (row["system"], row["metric"]): row["value"] for row in json.loads((tmp_path / "r.json").read_text())["rows"]
    }
    client, local = (rows[mode, "client CPU at products"] for mode in ("masked+verified", "local"))
    assert min(client, local, rows["masked+verified", "client CPU for pads"]) > 0
    assert rows["masked+verified", "client CPU at products, over local's"] == pytest.approx(client / local)
    assert rows["masked+verified", "bytes over the link"] > 1e5

"""`cutset bench video` measures what it says, on small pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("av")

from cutset.bench.video import SCENES
from cutset.cli import main


def test_a_quiet_scene_beside_torch(tmp_path: Path) -> None:
    out = tmp_path / "video.json"
    arguments = ["--model", "alexnet", "--no-videos", "--scene", "quiet", "--size", "64x80", "--pictures", "12"]
    assert main(["bench", "video", *arguments, "--system", "torch", "--json", str(out)]) == 0
    rows = {(row["system"], row["metric"]): row["value"] for row in json.loads(out.read_text())["rows"]}
    assert rows["torch", "picture"] > 0
    ours = "cutset, delta compute"
    ratio = rows["torch", "picture, mean"] / rows[ours, "picture, mean with checks"]
    assert rows[ours, "times as fast as torch"] == pytest.approx(ratio)
    assert 0 <= rows[ours, "largest error"] < 0.5
    assert 0 < rows[ours, "operations that were done"] <= 100


def test_scenes_are_what_they_are_called() -> None:
    changed = {}
    for name, make in SCENES.items():
        before, after = list(make((48, 64)).pictures(2))
        far = np.abs(before.astype(int) - after.astype(int)).max(axis=1) >= 8
        changed[name] = float(far.mean())
    assert changed["quiet"] < 0.2
    assert changed["busy"] > 0.6
    assert changed["shaking"] > 0.3


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "video", "--pictures", "0"]) == 2
    assert "--pictures" in capsys.readouterr().err

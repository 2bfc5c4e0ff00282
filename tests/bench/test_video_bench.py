"""`cutset bench video` measures what it says, on small pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("av")

from cluster.run.pictures import small_model, small_network
from cutset.bench.stream_videos import Video
from cutset.bench.video import AUTO, OURS, SCENES, VideoSetting, _Ours, _rows, measure_video
from cutset.cli import main
from cutset.errors import RequestError
from cutset.video.delta.box_agreement import BoxAgreement


def test_a_quiet_scene_beside_torch(tmp_path: Path) -> None:
    out = tmp_path / "video.json"
    arguments = [
        "--model",
        "alexnet",
        "--no-videos",
        "--scene",
        "quiet",
        "--size",
        "64x80",
        "--pictures",
        "12",
        "--calibrate",
        "4",
    ]
    assert main(["bench", "video", *arguments, "--system", "torch", "--json", str(out)]) == 0
    rows = {(row["system"], row["metric"]): row["value"] for row in json.loads(out.read_text())["rows"]}
    assert rows["torch", "picture, median"] > 0
    ours = "cutset, delta compute"
    ratio = rows["torch", "picture, mean with checks"] / rows[ours, "picture, mean with checks"]
    assert rows[ours, "times as fast as torch"] == pytest.approx(ratio)
    assert 0 <= rows[ours, "largest error"] < 0.5
    assert 0 < rows[ours, "operations that were done"] <= 100


def test_dense_by_the_runtime_that_auto_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def choose(model: object, runtime: str, tolerance: float, threads: int, log: object) -> str:
        asked.append(tolerance)
        return "torch"

    monkeypatch.setattr("cutset.video.runtimes.choose.choose_runtime", choose)
    out = tmp_path / "video.json"
    arguments = ["--no-videos", "--scene", "quiet", "--size", "64x80", "--pictures", "6", "--calibrate", "0", "--auto"]
    assert main(["bench", "video", "--model", "alexnet", *arguments, "--json", str(out)]) == 0
    rows = {(row["system"], row["metric"]): row["value"] for row in json.loads(out.read_text())["rows"]}
    assert asked == [1e-4]
    best = min(rows[one, "picture, mean with checks"] for one in ("torch", "torch, channels last"))
    assert rows[AUTO, "times as fast as the best"] == pytest.approx(best / rows[AUTO, "picture, mean"])


def test_scenes_are_what_they_are_called() -> None:
    changed = {}
    for name, make in SCENES.items():
        before, after = list(make((48, 64)).pictures(2))
        far = np.abs(before.astype(int) - after.astype(int)).max(axis=1) >= 8
        changed[name] = float(far.mean())
    assert changed["quiet"] < 0.2
    assert changed["busy"] > 0.6
    assert changed["shaking"] > 0.3
    assert changed["jumping"] > 0.3


def test_faces_are_drawn_before_the_quiet_scene_and_some_move() -> None:
    first, second = (list(SCENES["faces"]((192, 256)).pictures(8)) for _ in range(2))
    quiet = list(replace(SCENES["faces"]((192, 256)), drawn="").pictures(8))
    for one, again, plain in zip(first, second, quiet, strict=True):
        assert one.tobytes() == again.tobytes()
        assert 0.1 < (np.abs(one.astype(int) - plain) > 8).any(axis=1).mean() < 0.8
    moved = (np.abs(first[0].astype(int) - first[7]) > 8).any(axis=1)
    assert 0 < moved.mean() < 0.2, "some nod or sway, and the others stand still"


def test_an_onnx_file_of_a_detector(tmp_path: Path) -> None:
    """A map of text is held against the dense one by its boxes, with thresholds of 0 to the last."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("scipy")
    from video.onnx_networks import Builder, save

    net = Builder()
    mean = net.constant("mean", np.full((1, 3, 3, 3), 1.0, np.float32))
    dark = net.add("Conv", ["images", mean, net.constant("bias", np.float32([-18.0]))], "dark", pads=[1] * 4)
    net.add("Sigmoid", [dark], "out")
    path, out = save(net.model(["out"], (1, 3, 128, 160)), tmp_path / "net.onnx"), tmp_path / "video.json"
    arguments = ["--model", str(path), "--no-videos", "--scene", "texts", "--pictures", "4", "--system", "onnxruntime"]
    assert main(["bench", "video", *arguments, "--thresholds", "0", "--clock", "cpu", "--json", str(out)]) == 0
    rows = {(row["system"], row["metric"]): row["value"] for row in json.loads(out.read_text())["rows"]}
    ours = "cutset, delta compute"
    assert rows[ours, "largest error"] < 1e-4
    assert rows[ours, "agreement"] > 0.9
    assert rows[ours, "dense detections"] > 0
    assert rows["onnxruntime", "picture, median"] > 0
    assert not any("checks beyond" in metric for _, metric in rows)


def test_what_is_compared_has_all_that_it_cost() -> None:
    """Checks and slow pictures too; and of a scene without a box it isn't said that boxes agree."""
    setting = VideoSetting(4, 1, 0.01, "wall", lambda line: None)
    ours = _Ours(checks=8.0, shares=[0.1] * 4, errors=[0.0] * 4, dense=[False] * 4, boxes=BoxAgreement())
    seconds = {OURS: [1.0, 1.0, 1.0, 9.0], "torch": [3.0, 3.0, 3.0, 3.0]}
    rows = _rows("w", seconds, ours, 0.01, setting)
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.metric, {})[row.system] = row.value
    assert [metric for metric, values in found.items() if len(values) > 1] == ["picture, mean with checks"]
    assert found["picture, mean with checks"] == {OURS: 5.0, "torch": 3.0}
    assert found["times as fast as the best"] == {OURS: pytest.approx(0.6)}
    assert "agreement" not in found
    assert found["dense detections"] == {OURS: 0.0}
    ours.boxes = BoxAgreement(pairs=1, found=1, truth=1)
    assert [row.value for row in _rows("w", seconds, ours, 0.01, setting) if row.metric == "agreement"] == [1.0]


@pytest.mark.parametrize(("pictures", "calibrate", "before"), [(8, 4, 12), (13, 4, 12), (2, 0, 0)])
def test_a_video_that_ends_before_anything_counts(pictures: int, calibrate: int, before: int) -> None:
    video = Video("short", f"generated:48x64,pictures={pictures}", (48, 64))
    scene = replace(SCENES["quiet"]((48, 64)), video=video)
    setting = VideoSetting(4, 1, 0.01, "wall", lambda line: None, calibrate=calibrate)
    with pytest.raises(RequestError, match=f"has too few pictures: {before} for --calibrate"):
        measure_video("small", small_model(48, 64), small_network(), scene, setting)


def test_text_is_written_into_every_picture() -> None:
    first, second = (SCENES["texts"]((192, 256)).pictures(2) for _ in range(2))
    quiet = SCENES["quiet"]((192, 256)).pictures(2)
    for one, again, plain in zip(first, second, quiet, strict=True):
        assert one.tobytes() == again.tobytes()
        assert 0.005 < (one != plain).any(axis=1).mean() < 0.3


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--pictures", "0"],
        ["--calibrate", "1"],
        ["--min-agreement", "0"],
        ["--thresholds", "-1"],
        ["--size", "native"],
    ):
        assert main(["bench", "video", "--model", "alexnet", *words]) == 2
        assert words[0] in capsys.readouterr().err

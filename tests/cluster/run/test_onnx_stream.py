"""ONNX files over several workers: the bits of one piece, deltas as full ones, other runtimes within a tolerance."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from cluster.run.pictures import moving
from cutset import Stream
from cutset.cli import main
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.partition.plan import Plan, StagePlan
from cutset.video.check import range_error
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import FUSED
from video.onnx_networks import detector, save

PICTURES = moving(4, 16, 24)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(detector(shape=(1, 3, "h", "w")), tmp_path_factory.mktemp("onnx") / "yolo.onnx")


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalWorkers]:
    with LocalWorkers(3) as started:
        yield started


def played(file: Path, workers: LocalWorkers, mode: str = "delta", **how: Any) -> list[dict[str, Any]]:
    model = OnnxModel.of(file, (16, 24))
    count = len(model.graph.nodes)
    bounds = [0, count // 3, 2 * count // 3, count]
    stages = zip(workers.names, itertools.starmap(range, itertools.pairwise(bounds)), strict=True)
    options = Options(deltas=mode == "delta", gather=30.0)  # workers may still be starting
    plan = Plan(model.digest, tuple(StagePlan(name, tuple(nodes)) for name, nodes in stages))
    with Stream(str(file), PICTURES, workers=workers.addresses, plan=plan, options=options, **how) as stream:
        results = list(stream)
        assert len(stream.coordinator.plans[0][1].stages) == 3
    assert [result.picture for result in results] == list(range(len(PICTURES)))
    return [dict(result.outputs) for result in results]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return [{n: a.tobytes() for n, a in each.items()} for each in one] == [
        {n: a.tobytes() for n, a in each.items()} for each in other
    ]


def test_over_three_workers(file: Path, workers: LocalWorkers) -> None:
    whole = OnnxModel.of(file, (16, 24))
    wanted = [whole.run(pixels) for pixels in PICTURES]
    assert same(played(file, workers, mode="delta"), wanted)
    assert same(played(file, workers, mode="full"), wanted)
    for runtime in ("onnxruntime", "openvino"):
        delta = played(file, workers, runtime=runtime, tolerance=1e-4)
        assert max(range_error(found, right) for found, right in zip(delta, wanted, strict=True)) <= 1e-4
        assert same(delta, played(file, workers, runtime=runtime, tolerance=1e-4, mode="full"))
    assert len({each["boxes"].tobytes() for each in wanted}) == len(wanted)


CHECKS: dict[str, tuple[list[str], str, str | None]] = {
    "one piece": ([], "have the bits of the network in one piece", None),
    "cuts": (["--runtime", "openvino"], "have the bits of the network with the same cuts", "openvino"),
    "torch": (["--runtime", "torch"], "have the bits of the network", "torch"),
    "tolerance": (["--tolerance", "1e-4", "--runtime", "onnxruntime"], "3 of 3 pictures are within 0.0001", FUSED),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_command_line_checks(name: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["stream", "run", str(file), "--source", "generated:16x24", "--limit", "3", "--workers", "2", "--check"]
    command += ["--scheduler", "even", "--json", str(tmp_path / "run.json")]
    more, words, runtime = CHECKS[name]
    assert main([*command, *more]) == 0
    assert words in capsys.readouterr().err
    [plan] = json.loads((tmp_path / "run.json").read_text())["plans"]
    assert {stage.get("runtime") for stage in plan["stages"]} == {runtime}


def test_what_would_be_ignored_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["stream", "run", str(file), "--source", "generated:16x24"]
    for more, words in (
        (["--features"], "--features: an ONNX file is run as it is"),
        (["--runtime", "tensorrt"], "tensorrt"),
        (["--tolerance", "-1"], "tolerance"),
    ):
        assert main([*command, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["stream", "run", "alexnet", "--source", "generated:16x24", "--bgr"]) == 2
    assert "--bgr: they are for ONNX files" in capsys.readouterr().err


def test_a_plan_and_a_profile(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile, plan = tmp_path / "profile.json", tmp_path / "plan.json"
    sizes = ["--source", "generated:16x24", "--pictures", "2"]
    assert main(["stream", "profile", str(file), *sizes, "--threads", "1", "-o", str(profile)]) == 0
    named = json.loads(profile.read_text())
    assert named["model"] == "yolo.onnx"
    assert set(named["pictures"] if "pictures" in named else named["sizes"]["values"]) >= {"boxes", "scores"}
    command = ["stream", "plan", str(file), "--size", "16x24", "--profile", str(profile), "-o", str(plan)]
    assert main([*command, "--link", "8MB/s,1ms", "--speed", "0.5,1", "--runtime", "openvino"]) == 0
    assert {stage["runtime"] for stage in json.loads(plan.read_text())["stages"]} == {"openvino"}
    capsys.readouterr()
    found = np.array([one["seconds"] if isinstance(one, dict) else one for one in named["seconds"]])
    assert found.size > 10

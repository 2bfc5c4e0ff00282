"""A plan that can't be played as it says is refused before anything starts, by what doesn't fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cli import main
from cutset.cluster.coordinator.plans import even_plan
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import ConfigError, CutsetError
from cutset.partition.plan import Plan, StagePlan, read_plan, write_plan
from cutset.stream import Stream
from cutset.video.picture_inputs import ENCODINGS
from cutset.video.torch_model import TorchModel

RUN = ["stream", "run", "alexnet", "--features", "--source", "generated:64x96,pictures=2", "--quiet"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan for two workers, as `cutset stream plan` writes it."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    command = ["stream", "plan", "alexnet", "--features", "--size", "64x96", "--scheduler", "balance"]
    assert main([*command, "--link", "8MB/s", "--speed", "1,1", "-o", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    assert [stage["worker"] for stage in found["stages"]] == ["worker1", "worker2"]
    return found


def renamed(plan: dict[str, Any]) -> None:
    plan["stages"][1]["worker"] = "cloud"


def third(plan: dict[str, Any]) -> None:
    first, last = plan["stages"][1]["nodes"][0]
    plan["stages"][1]["nodes"] = [[first, last - 1]]
    plan["stages"].append({"worker": "worker3", "nodes": [last]})


def beyond(plan: dict[str, Any]) -> None:
    plan["stages"][1]["nodes"][0][1] = 400


def missing(plan: dict[str, Any]) -> None:
    plan["stages"].pop()


def overlapping(plan: dict[str, Any]) -> None:
    plan["stages"][1]["nodes"][0][0] -= 1


def repeated(plan: dict[str, Any]) -> None:
    plan["stages"][0]["nodes"].append(0)


def doubled(plan: dict[str, Any]) -> None:
    plan["stages"][1]["worker"] = "worker1"


def swapped(plan: dict[str, Any]) -> None:
    plan["stages"].reverse()


def packets(plan: dict[str, Any]) -> None:
    plan["picture"] = "packets"


def unknown(plan: dict[str, Any]) -> None:
    plan["threshold"] = 0.5


def other(plan: dict[str, Any]) -> None:
    plan["graph"] = "0" * 64


def form(plan: dict[str, Any]) -> None:
    plan["picture"] = "png"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed, "the plan is for cloud; the workers are worker1, worker2"),
        (third, "the plan is for worker3; the workers are worker1, worker2"),
        (beyond, "numbered from 0"),
        (missing, "nodes"),
        (overlapping, "nodes that an earlier stage runs"),
        (repeated, "each once"),
        (doubled, "names a worker twice"),
        (swapped, "no cut"),
        (packets, "packets"),
        (unknown, "unknown field `threshold`"),
        (other, "another model or input size"),
        (form, f"sends 'png', which isn't one of {', '.join(ENCODINGS)}"),
    ],
)
def test_a_plan_that_does_not_fit(
    right: dict[str, Any],
    change: Callable[[dict[str, Any]], None],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LocalWorkers, "start", lambda self, name: pytest.fail("workers were started"))
    plan = json.loads(json.dumps(right))
    change(plan)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    assert main([*RUN, "--workers", "2", "--plan", str(path)]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"format": "cutset-plan-1", "picture": "packets", "picture": "uint8"}', "is not a plan"),
        (b"\xa6", "is not a plan"),
        (b"[" * 100_000, "is not a plan"),
        (b"", "is not a plan"),
    ],
)
def test_a_file_that_is_no_plan(text: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_plan(text)


def test_what_is_said_twice_and_ranges_without_end() -> None:
    plan = even_plan(small_model(), ["a"])
    text = write_plan(plan)
    assert read_plan(text) == plan
    with pytest.raises(ConfigError, match="'picture' is said twice"):
        read_plan(text.replace(b'"picture"', b'"picture": "packets", "picture"'))
    many = b'{"format": "cutset-plan-1", "graph": "", "stages": [{"worker": "a", "nodes": [%s]}], "picture": "uint8", '
    many += b'"scheduler": ""}'
    with pytest.raises(ConfigError, match="more than 100,000 nodes"):
        read_plan(many % b",".join([b"[0, 99999]"] * 1000))


def test_forms_that_pictures_or_sources_cannot_have() -> None:
    model, pictures = small_model(), moving(1)
    plan = even_plan(model, ["ipc:///nowhere"])
    with pytest.raises(ConfigError, match=r"packets, and those of source 0 can't be forwarded"):
        Stream(model, pictures, workers=["ipc:///nowhere"], plan=replace(plan, input="packets"))
    floats = TorchModel.of(torch.nn.Conv2d(3, 2, 1), (1, 3, 8, 8), torch.float32)
    made = replace(even_plan(floats, ["ipc:///nowhere"]), input="float32")
    with pytest.raises(ConfigError, match="networks that take uint8 pictures alone"):
        Stream(floats, [np.zeros((1, 3, 8, 8), np.float32)], workers=["ipc:///nowhere"], plan=made)


def test_a_plan_may_leave_workers_out(workers: LocalWorkers) -> None:
    told: list[str] = []
    model, pictures = small_model(), moving(5)
    nodes = tuple(range(len(model.graph.nodes)))
    plan = Plan(model.digest, (StagePlan("worker2", nodes),))
    with Stream(model, pictures, workers=workers.addresses, plan=plan, log=told.append) as stream:
        same(list(stream), expected(pictures))
    assert "the plan gives nothing to do to worker1, worker3" in told


def test_a_plan_that_a_planner_makes_for_sources_that_cannot_is_an_error(workers: LocalWorkers) -> None:
    def planner(model: TorchModel, alive: Any, why: str) -> Plan:
        return replace(even_plan(model, alive), input="packets")

    with (
        pytest.raises(CutsetError, match="can't be forwarded"),
        Stream(small_model(), moving(2), workers=workers.addresses, planner=planner) as stream,
    ):
        list(stream)


def test_pictures_that_stay_stay_whatever_plan_is_given(
    right: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorkers, "start", lambda self, name: pytest.fail("workers were started"))
    for flags in (["--scheduler", "even"], ["--plan", "PLAN"]):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(right))
        chosen = [str(path) if flag == "PLAN" else flag for flag in flags]
        assert main([*RUN, "--workers", "2", "--pictures-stay", *chosen]) == 2
        assert "--pictures-stay is kept by plans that are made here" in capsys.readouterr().err
    last = max(stage["nodes"][-1][-1] for stage in right["stages"])
    path.write_text(json.dumps(right | {"stages": [{"worker": "worker2", "nodes": [[0, last]]}]}))
    flags = ["--pictures-stay", "--plan", str(path), "--scheduler", "edge"]
    assert main([*RUN, "--workers", "2", *flags]) == 2
    assert (
        "worker2 would be sent private values, which must stay with worker1 (--pictures-stay)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("flag", ["--objective=throughput", "--profile=none.json", "--sparsity=none.npz", "--look=1"])
@pytest.mark.parametrize("how", ["--scheduler even", "--plan none", "--plan none --scheduler even"])
def test_flags_of_planners_are_refused_where_no_planner_measures(
    how: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", "run", "alexnet", "--source", "none.mp4", *how.split(), flag]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert flag.partition("=")[0] in said
    assert "without measuring" in said


@pytest.mark.parametrize("flag", ["--key=none.key", "--worker-keys=none.pub"])
def test_keys_are_refused_for_workers_that_are_started_here(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "run", "alexnet", "--source", "none.mp4", flag]) == 2
    said = capsys.readouterr().err
    assert flag.partition("=")[0] in said
    assert "--workers" in said


@pytest.mark.parametrize("flags", ["--threshold 0.1", "--levels 2", "--max-error 0.01", "--float16 --threshold 0.1"])
def test_what_leaves_out_small_changes_is_refused_where_all_is_sent(
    flags: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorkers, "start", lambda self, name: pytest.fail("workers were started"))
    assert main([*RUN, "--scheduler", "even", "--mode", "full", *flags.split()]) == 2
    assert "the mode full sends all" in capsys.readouterr().err

"""`cutset stream profile`, `plan` and `simulate`, as a user gives them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("torch")
from cutset.cli import main
from cutset.partition.plan import read_plan
from cutset.partition.profile import read_profile

NET = ["alexnet", "--features", "--size", "64x96"]
LINKS = ["--link", "8MB/s,20ms", "--link", "4MB/s,20ms", "--link", "1MB/s,20ms", "--speed", "0.125,0.25,1"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    source = ["--source", "generated:64x96,seed=3"]
    assert main(["stream", "profile", *NET, *source, "--threads", "1", "--pictures", "4", "-o", str(path)]) == 0
    return path


def test_profile_shows_layers_and_sizes(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "profile", *NET, "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "operator", "ms", "±,", "%", "GFLOP/s"]
    assert any(line.startswith("features.0 ") and "conv2d" in line for line in lines)
    found = read_profile(profile)
    assert found.sizes is not None
    assert found.sizes.items == 4
    assert len(found.seconds) == 16
    assert found.model == "alexnet --features"


def test_plan_compares_and_writes(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("plan.json", "g.svg", "t.json")}
    outputs = ["-o", str(files["plan.json"]), "--gantt", str(files["g.svg"]), "--json", str(files["t.json"])]
    assert main(["stream", "plan", *NET, *LINKS, "--profile", str(profile), *outputs]) == 0
    out = capsys.readouterr().out
    for name in ("→ optimal", "balance", "neighbourhood", "edge", "cloud", "forward", "cloud, float32"):
        assert name in out
    assert "is best" in out
    assert "simulated, 12 pictures" in out
    plan = read_plan(files["plan.json"])
    assert plan.scheduler == "optimal"
    document = json.loads(files["t.json"].read_text())
    assert document["chosen"] == "optimal"
    assert plan.graph == document["graph"]
    latencies = {one["name"]: one["latency"] for one in document["plans"] if not one["why_not"]}
    assert latencies["optimal"] == min(latencies.values())
    assert ET.fromstring(files["g.svg"].read_text()).tag.endswith("svg")


def test_plan_takes_the_scheduler_that_is_asked_for(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--scheduler", "edge", "--memory", "1GB,-,500MB", "--workers", "a,b,c", "--objective", "throughput"]
    assert main(["stream", "plan", *NET, *LINKS, "--profile", str(profile), *flags]) == 0
    out = capsys.readouterr().out
    assert "→ edge" in out
    assert "a all" in out
    assert "taken as asked: edge" in out


def test_pictures_that_stay_leave_no_choice(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "plan", *NET, *LINKS, "--profile", str(profile), "--pictures-stay"]) == 0
    out = capsys.readouterr().out
    assert "cloud: worker3 would be sent private values, which must stay with worker1" in out
    row = next(line for line in out.splitlines() if line.startswith("→ optimal"))
    assert "worker1" in row


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--link", "0MB/s"], "carries nothing"),
        (["--link", "fast"], "is no link"),
        (["--speed", "0"], "speed"),
        (["--speed", "1,2", "--link", "1MB/s", "--link", "1MB/s", "--link", "1MB/s"], "speeds for 3 workers"),
        (["--memory", "lots"], "write memory as"),
        (["--memory", "10kB"], "no plan fits"),
        (["--scheduler", "best"], "there is no scheduler"),
        (["--gantt", "g.png"], "neither in .svg nor in .html"),
        (["--simulate", "0"], "--simulate must be"),
        (["--in-flight", "-1"], "in-flight"),
        (["--rate", "0"], "rate"),
        (["--changed", "2"], "share that changes"),
        (["--profile", "none.json"], "can't read the profile"),
        (["--size", "0x0"], "--size"),
        (["--source", "nowhere.mp4"], "no file or folder"),
        (["--pictures", "1"], "--pictures"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "plan", *NET, "--threads", "1", *flags]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2


def test_a_profile_of_another_size_is_refused(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "plan", "alexnet", "--features", "--size", "64x64", "--profile", str(profile)]) == 2
    assert "another model, input size" in capsys.readouterr().err


def test_simulate_reads_its_file(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = profile.with_name("s.toml")
    file.write_text(
        'model = "alexnet"\nfeatures = true\nsize = "64x96"\nprofile = "p.json"\nobjective = "throughput"\n'
        'in_flight = 4\n[[worker]]\nlink = "1MB/s,5ms"\nspeed = 0.1\nname = "camera"\n'
        '[[worker]]\nlink = "20MB/s,5ms"\nmemory = "1GB"\nprofile = "p.json"\n'
    )
    page = tmp_path / "g.html"
    assert main(["stream", "simulate", str(file), "--gantt", str(page), "--simulate", "20"]) == 0
    out = capsys.readouterr().out
    assert "coordinator –[1MB/s,5ms]→ camera –[20MB/s,5ms]→ worker2" in out
    assert "simulated, 20 pictures" in out
    assert "<script" in page.read_text()
    file.write_text('model = "alexnet"\n[[worker]]\nlnk = "1MB/s"\n')
    assert main(["stream", "simulate", str(file)]) == 2
    assert "did you mean 'link'" in capsys.readouterr().err


def test_delta_compute_is_priced_and_shown(profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["-o", str(tmp_path / "plan.json"), "--json", str(tmp_path / "t.json")]
    source = ["--source", "generated:64x96,seed=3,noise=0,shapes=1", "--pictures", "4"]
    asked = ["stream", "plan", *NET, *LINKS, "--profile", str(profile), *source, "--delta-compute"]
    assert main([*asked, "--max-error", "0.05", *files]) == 0
    out = capsys.readouterr().out
    assert "% of the operations of a typical picture" in out
    for name in ("edge, delta compute", "edge, dense", "cloud, delta compute", "cloud, dense"):
        assert name in out
    row = next(line for line in out.splitlines() if "cloud, delta compute" in line)
    assert "worker3 all delta" in row
    assert "computing only what changed" in out or "computing all of every item" in out
    plan = read_plan(tmp_path / "plan.json")
    document = json.loads((tmp_path / "t.json").read_text())
    entries = {one["name"]: one for one in document["plans"]}
    assert [stage.get("delta", False) for stage in entries["optimal"]["stages"]] == [
        not stage.dense for stage in plan.stages
    ]
    assert entries["cloud, delta compute"]["stages"][0]["delta"] is True
    assert "delta" not in entries["cloud, dense"]["stages"][0]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--delta-compute"], "--delta-compute needs --source"),
        (["--max-error", "0.01"], "--max-error is for plans with --delta-compute"),
        (["--delta-compute", "--source", "x.mp4", "--max-error", "1", "--min-agreement", "1"], "not both"),
    ],
)
def test_what_is_wrong_with_flags_of_delta_compute(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", "plan", *NET, "--threads", "1", *flags]) == 2
    assert says in capsys.readouterr().err

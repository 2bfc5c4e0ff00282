"""`cutset plan` and `cutset simulate`, as a user gives them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutset.cli import main
from engine.stage_processes import running

SHAPE = """
[shape]
hidden = 8192
layers = 80
heads = 64
kv_heads = 8
intermediate = 28672
vocab = 128256
"""
UNEVEN = [
    f'[[worker]]\nname = "m{i}"\nlink = "{link}"\nmemory = "{memory}"\nbandwidth = "{rate}GB/s"\ngflops = {10 * rate}\n'
    for i, (link, memory, rate) in enumerate(
        [
            ("100MB/s,1ms", "24GiB", 60),
            ("100MB/s,1ms", "16GiB", 40),
            ("30MB/s,5ms", "8GiB", 20),
            ("100MB/s,1ms", "48GiB", 90),
            ("10MB/s,20ms", "8GiB", 5),
            ("100MB/s,1ms", "24GiB", 50),
            ("100MB/s,2ms", "32GiB", 45),
            ("30MB/s,5ms", "12GiB", 25),
            ("100MB/s,1ms", "24GiB", 60),
            ("1MB/s,80ms", "64GiB", 90),
            ("100MB/s,1ms", "16GiB", 40),
            ("30MB/s,5ms", "24GiB", 30),
        ]
    )
]


def file(folder: Path, *parts: str, head: str = "context = 4096\nsequences = 16\n") -> Path:
    path = folder / "machines.toml"
    path.write_text(head + "\n".join(parts))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Addresses of two stages."""
    with running(tmp_path_factory.mktemp("stages"), "a", "b") as stages:
        yield ",".join(stages.settings("a", "b")["stages"])


def test_a_plan_is_printed_drawn_and_run(two: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("layers.svg", "steps.html", "plan.json")}
    outputs = ["-o", str(files["layers.svg"]), "--gantt", str(files["steps.html"]), "--json", str(files["plan.json"])]
    flags, (a, b) = ["--stages", two, "--objective", "latency", "--threads", "1"], two.split(",")
    assert main(["plan", "story", *flags, "--context", "64", "--sequences", "1", *outputs]) == 0
    out = capsys.readouterr().out
    assert "1 sequences of 64 tokens; best latency" in out
    for name in ("→ optimal", "even", f"{a} alone", f"{b} alone", "The best machine alone", "simulated, 12 steps"):
        assert name in out
    row = next(line for line in out.splitlines() if line.startswith("→ optimal"))
    assert re.search(r"optimal +all ", row), "for one token after the other one machine is best"
    assert "One machine runs all layers" in out
    assert "Left out, since it is no slower without" in out
    found = json.loads(files["plan.json"].read_text())
    assert [stage["layers"] for stage in found["plan"]["stages"]] == ["0-5"]
    assert 0 < found["plan"]["token"] <= found["even"]["token"]
    assert [one["name"] for one in found["alone"]] == [a, b]
    drawn = files["layers.svg"].read_text()
    assert ET.fromstring(drawn).tag.endswith("svg")
    assert drawn.count(f">{found['plan']['stages'][0]['worker']}<") == 8, "embedding, six layers, head"
    assert "<html" in files["steps.html"].read_text()
    words = ["generate", "story", "--prompt", "Once", "--max-tokens", "5", *flags]
    assert main([*words, "--max-model-len", "64", "--max-num-seqs", "1", "--cache-mib", "4"]) == 0
    assert "layers 0-5\n" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_of_one_machine_share_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "story", "--prompt", "Once upon a time", "--max-tokens", "5", "--stages", "2"]
    assert main([*words, "--scheduler", "optimal", "--threads", "1", "--max-model-len", "64", "--cache-mib", "4"]) == 0
    err = capsys.readouterr().err
    assert re.search(r"stages: worker1 layers 0-\d, worker2 layers \d-5", err), err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "name them with --stages"),
        (["--stages", "2", "--context", "0"], "--context must be from 1"),
        (["--stages", "2", "--sequences", "0"], "--sequences must be from 1"),
        (["--stages", "2", "--context", "9999999"], "--context must be at most"),
        (["--stages", "ipc:///x,ipc:///x"], "names ipc:///x twice"),
        (["--stages", "ipc:///x", "--simulate", "0"], "--simulate must be"),
        (["--stages", "9"], "at most 6 stages"),
        (["--stages", "2", "--objective", "speed"], "one of throughput, latency"),
        (["--stages", "2", "--stage-keys", "x.pub"], "for stages at addresses"),
    ],
)
def test_what_cannot_be_planned_is_said(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "story", *flags]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_too_little_memory_is_said_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "a", extra=["--memory", "6MB"]) as stages:
        [a] = stages.settings("a")["stages"]
        assert main(["plan", "story", "--stages", a, "--context", "256", "--sequences", "64"]) == 2
        err = capsys.readouterr().err
        assert re.search(
            r"need about \d+ MiB .*64 sequences of 256 tokens.* may use 6 MiB .*largest layer needs \d+ MiB", err
        )


def test_seventy_billion_weights_over_twelve_uneven_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    found = {}
    for objective in ("throughput", "latency"):
        head = f'objective = "{objective}"\ncontext = 4096\nsequences = 16\n'
        assert main(["simulate", str(file(tmp_path, SHAPE, *UNEVEN, head=head)), "--json", str(out)]) == 0
        found[objective] = json.loads(out.read_text())
    text = capsys.readouterr().out
    assert "80 layers" in text
    assert "No machine alone has the memory" in text
    for one in found.values():
        room = {machine["name"]: machine["memory"] for machine in one["machines"]}
        stages = one["plan"]["stages"]
        assert 2 < len(stages) < 12
        assert all(stage["bytes"] <= room[stage["worker"]] for stage in stages)
        nodes = [node for stage in stages for node in stage["nodes"]]
        assert nodes == list(range(82))
        assert "m9" in one["left_out"], "80 ms and 1 MB/s away"
    assert found["latency"]["plan"]["token"] < found["throughput"]["plan"]["token"]
    assert found["throughput"]["plan"]["rate"] > found["latency"]["plan"]["rate"]


def test_a_model_that_is_here_and_a_shape_that_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutset.engine.stage_timing.RUNS", 1)
    workers = '[[worker]]\nlink = "1ms"\nspeed = 0.5\nmemory = "6MB"\n', '[[worker]]\nlink = "1ms"\ncount = 2\n'
    model = file(tmp_path, *workers, head='model = "story"\ncontext = 256\n')
    assert main(["simulate", str(model), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "story, 6 layers" in out
    assert "worker1 needs" in out
    assert re.search(r"optimal +(all|worker2)", out), "the first one has too little memory for all layers"
    shape = "[shape]\nhidden = 256\nlayers = 3\nheads = 4\nexperts = 4\nqk_norm = true\n"
    assert main(["simulate", str(file(tmp_path, shape, *workers)), "--threads", "1"]) == 0
    assert "3 layers" in capsys.readouterr().out


def test_a_thousand_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [part.replace("[[worker]]", "[[worker]]\ncount = 84") for part in UNEVEN]
    assert main(["simulate", str(file(tmp_path, SHAPE, *kinds))]) == 0
    assert "of 1008 machines run layers" in capsys.readouterr().out


def test_two_ways_to_divide_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "story", "--prompt", "x"]
    assert main([*words, "--stages", "2", "--scheduler", "even", "--objective", "latency"]) == 2
    assert "--scheduler even measures nothing" in capsys.readouterr().err
    assert main([*words, "--objective", "latency"]) == 2
    assert "--objective is for stages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([SHAPE], "[[worker]]"),
        (UNEVEN[:2], "a model or a [shape]"),
        ([SHAPE, UNEVEN[0].replace("link", "lnk")], "did you mean 'link'"),
        ([SHAPE, '[[worker]]\nname = "a"'], "a has no link"),
        ([SHAPE, UNEVEN[0], UNEVEN[0]], "two workers are called 'm0'"),
        ([SHAPE, UNEVEN[0].replace("24GiB", "lots")], "is not a size"),
        ([SHAPE, UNEVEN[0].replace("gflops = 600", "speed = 1")], "give a speed, or bandwidth and gflops"),
        ([SHAPE, UNEVEN[0].replace("gflops = 600", "")], "bandwidth, as"),
        ([SHAPE, UNEVEN[0] + "count = 0"], "count must be from 1"),
        ([SHAPE, '[[worker]]\nlink = "1ms"\nspeed = 0'], "a speed must be above 0"),
        ([SHAPE.replace("layers = 80", ""), UNEVEN[0]], "layers is missing"),
        ([SHAPE + "bits = 99", UNEVEN[0]], "bits of a weight"),
        ([SHAPE.replace("layers = 80", "layers = -1"), UNEVEN[0]], "layers must be from 0"),
        ([SHAPE, UNEVEN[0]], "GiB"),
    ],
)
def test_files_that_say_nothing_sensible(
    parts: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(file(tmp_path, *parts))]) == 2
    err = capsys.readouterr().err
    assert words.replace("GiB", "MiB") in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("context = 0\n", "context must be from 1"),
        ("sequences = 0\n", "sequences must be from 1"),
        ('objective = "speed"\n', "objective is latency or throughput"),
        ('source = "street.mp4"\n', "cutset stream simulate"),
    ],
)
def test_a_load_that_cannot_be(head: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(file(tmp_path, SHAPE, UNEVEN[0], head=head))]) == 2
    assert words in capsys.readouterr().err

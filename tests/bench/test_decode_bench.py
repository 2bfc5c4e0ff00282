"""`cutset bench decode` is about this machine; `python -m benchmarks decode` puts others beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import opponents
from benchmarks.__main__ import main as benchmarks
from benchmarks.decode import OPPONENTS, opponent_systems, pythons
from cutset.bench.decode import FLOAT, OWN, WORKLOADS, System, own_systems, run_workload
from cutset.bench.turns import Process
from cutset.cli import main
from cutset.compare.results import load
from cutset.errors import EngineError

FAKE = """
import json, sys
print(json.dumps({"versions": {"fake": "2"}, "rss": 1, "rss_before": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps(ANSWER), flush=True)
"""


def fake(label: str, answer: str) -> System:
    def start(folder: Path) -> Process:
        return Process([sys.executable, "-c", FAKE.replace("ANSWER", answer)], name=label)

    return System(label, FLOAT, start)


def test_our_own_systems_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "decode.json"
    flags = ["--workload", "tiny", "--rounds", "1", "--threads", "1", "--json", str(file)]
    assert main(["bench", "decode", *flags]) == 0
    found = load(file)
    assert [row.system for row in found.rows] == [f"cutset {name}" for name in OWN]
    assert all(row.value > 0 for row in found.rows)
    assert found.command.startswith("cutset bench decode --workload tiny")
    assert "to the best opponent" not in capsys.readouterr().out


def test_an_opponent_stands_beside_ours_and_one_that_fails_is_left_out(tmp_path: Path) -> None:
    WORKLOADS["tiny"].model.write_checkpoint(tmp_path / "model")
    told: list[str] = []

    def missing(folder: Path) -> Process:
        raise EngineError("absent: no module")

    systems = [
        *own_systems(["native float32"], 1),
        fake("rival", '{"seconds": 0.5}'),
        fake("broken", '{"error": "no"}'),
    ]
    systems += [fake("unable", '{"missing": "x"}'), System("absent", FLOAT, missing)]
    rows, versions = run_workload(WORKLOADS["tiny"], tmp_path / "model", systems, rounds=2, log=told.append)
    assert {row.system: row.metric for row in rows} == {"cutset native float32": "forward", "rival": "forward"}
    assert [row.value for row in rows if row.system == "rival"] == [500.0]
    assert versions == {"fake": "2"}
    assert "tiny: without absent: no module" in told
    assert "tiny: forward 2x5: without broken: no" in told


def test_one_of_ours_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no"):
        run_workload(
            WORKLOADS["tiny"], tmp_path, [fake("cutset x", '{"error": "no"}')], rounds=1, log=lambda line: None
        )


def test_opponents_take_part_in_what_they_can() -> None:
    tasks = {task.name: task for workload in WORKLOADS.values() for task in workload.tasks}
    taking = {
        name: [system.label for system in opponent_systems(pythons(["python"]), 1) if system.takes(task)]
        for name, task in tasks.items()
    }
    assert taking["prefill 128, decode 64"] == list(OPPONENTS)
    assert set(OPPONENTS) - set(taking["prefill 128, decode 64, 8 sequences"]) == {"torch.compile"}
    whole = {name for name in OPPONENTS if name.startswith(("llama.cpp", "openvino", "onnxruntime-genai"))}
    assert set(OPPONENTS) - set(taking["forward 2x5"]) == whole


def test_an_opponent_runs_in_a_process_that_has_nothing_of_cutset(tmp_path: Path) -> None:
    """With a Python that finds no package at all, it says what it lacks."""
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-I", "-S", opponents.__file__, "ctranslate2 int8", str(tmp_path)]
    with pytest.raises(EngineError, match="rival: ModuleNotFoundError: No module named 'ctranslate2'"):
        Process(command, name="rival", quiet=True)


@pytest.mark.slow
def test_transformers_runs_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    flags = ["--workload", "tiny", "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "x.json")]
    assert benchmarks(["decode", *flags, "--system", "transformers", "--system", "native float32"]) == 0
    found = load(tmp_path / "x.json")
    assert {row.system for row in found.rows} == {"transformers", "cutset native float32"}
    assert found.command.startswith("python -m benchmarks decode")
    assert "transformers" in found.machine.versions
    assert "to the best opponent" in capsys.readouterr().out


def test_a_system_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks(["decode", "--system", "abacus"]) == 2
    assert "--system 'abacus' isn't one of: native float32" in capsys.readouterr().err


def test_programs_may_have_pythons_of_their_own() -> None:
    python = pythons(["a", "openvino=b"])
    assert [python(name) for name in ("llama.cpp q8_0", "openvino int4")] == ["a", "b"]
    assert pythons(None)("transformers") == sys.executable


def test_where_the_other_python_lies_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    flags = ["--workload", "tiny", "--rounds", "1", "--system", "native int8", "--python", "/somewhere/bin/python"]
    assert benchmarks(["decode", *flags, "--json", str(tmp_path / "x.json")]) == 0
    assert "--python PYTHON" in load(tmp_path / "x.json").command

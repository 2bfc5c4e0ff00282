"""What the package measures, and what a checkout alone does: no opponent, target or hostile client is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cutset
from benchmarks.__main__ import COMMANDS
from benchmarks.__main__ import main as benchmarks
from cutset.cli import bench, main

PACKAGE = Path(cutset.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
OTHERS = {"transformers", "ctranslate2", "llama_cpp", "gguf", "benchmarks"}


def test_the_package_imports_no_opponent() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & OTHERS, path


def test_the_wheel_is_made_of_the_package_alone() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["scikit-build"]["wheel"]["packages"] == ["src/cutset"]
    assert not list(PACKAGE.rglob("*opponents*")), "they are in benchmarks/"
    users = settings["project"]["optional-dependencies"]
    needed = {need.partition(">")[0] for name, needs in users.items() if name != "dev" for need in needs}
    assert needed.isdisjoint(OTHERS)


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (["decode", "--python", "x"], "decode"),
        (["decode", "--workload", "start"], "decode"),
        (["decode", "--system", "llama.cpp f32"], "decode"),
        (["link", "--system", "ZeroMQ ipc"], "link"),
        (["offload", "--workload", "neighbours"], "neighbours"),
        (["offload", "--workload", "w246", "--workload", "neighbours"], "neighbours"),
        (["stream", "--part", "bytes", "--part", "faults"], "stream"),
    ],
)
def test_comparisons_are_pointed_to(flags: list[str], command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cutset: error: comparisons with other programs are run in a checkout of Cutset: ")
    assert err.splitlines()[0].endswith(f": python -m benchmarks {command}")
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize("flags", [["delta"], ["delta", "--json", "x"], ["report", "--check"]])
def test_commands_of_a_checkout_outside_of_one(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "lib" / "cutset" / "cli" / "bench.py"))
    assert main(["bench", *flags]) == 2
    err = capsys.readouterr().err
    assert err == (
        "cutset: error: comparisons with other programs are run in a checkout of Cutset: "
        f"python -m benchmarks {flags[0]}\n"
    )


def test_every_result_file_has_a_command_and_every_command_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.json")}
    further = files - set(COMMANDS)  # COMMAND_WHAT, of a command that was run in another way too
    assert {name.partition("_")[0] for name in further} <= set(COMMANDS)
    for name in COMMANDS:
        if COMMANDS[name].module.startswith("benchmarks.") and name != "stream":  # that one needs torch
            assert benchmarks([name, "--help"]) == 0
            assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_benchmarks_run_as_a_module_of_a_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "report", "--check"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "BENCHMARKS.md is up to date\n"), done.stderr
    done = subprocess.run([sys.executable, "-m", "benchmarks", "reprot"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "'reprot' is not a command; did you mean 'report'?" in done.stderr

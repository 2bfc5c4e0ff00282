"""Files that a command is to write are looked at before it does anything that takes time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cutset.cli import main

STREAM = ["stream", "run", "alexnet", "--source", "generated:64x96,pictures=2"]
COMMANDS = [
    (STREAM, ["--json", "--trace"]),
    (["stream", "plan", "alexnet"], ["--json", "--out", "--gantt"]),
    (["stream", "simulate", "file.toml"], ["--json", "--out", "--gantt"]),
    (["stream", "profile", "alexnet"], ["--json", "--out"]),
    (["stream", "train", "alexnet"], ["--json", "--output", "--keep"]),
    (["stream", "train", "alexnet", "-o", "x.npz"], ["--json", "--keep"]),
    (["stream", "graph", "alexnet"], ["--json", "--output"]),
    (["stream", "show", "changed", "alexnet"], ["--json", "--output", "--keep"]),
    (["stream", "trace", "trace.json"], ["--json", "--output"]),
    (["generate", "story", "--prompt", "a"], ["--json", "--output", "--trace", "--receipt"]),
    (["trust", "show", "r"], ["--output"]),
    (["trust", "log", "prove", "log", "r", "--key", "k"], ["--output"]),
    (["chat", "story"], ["--trace"]),
    (["serve", "story"], ["--trace"]),
    (["batch", "story", "in.jsonl"], ["--output"]),
    (["forward", "model.json"], ["--json", "--output"]),
    (["compare", "a", "b"], ["--json"]),
    (["tokenize", "story", "a"], ["--json"]),
    (["models"], ["--json"]),
    (["config"], ["--json"]),
    (["doctor"], ["--json"]),
    (["bench", "stream"], ["--json"]),
    (["bench", "decode"], ["--json"]),
    (["bench", "link"], ["--json"]),
    (["bench", "delta"], ["--json"]),
    (["bench", "serve"], ["--json"]),
    (["bench", "offload"], ["--json", "--plot"]),
    (["bench", "exchange"], ["--json", "--plot"]),
    (["bench", "quality", "model"], ["--json"]),
]


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, flags in COMMANDS for flag in flags], ids=lambda x: str(x)[-40:]
)
def test_a_file_that_cannot_be_written_is_refused_at_once(
    command: list[str], flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, flag, "gone/out.svg"]) == 2
    assert capsys.readouterr().err == "cutset: error: 'gone/out.svg' can't be written: No such file or directory\n"
    assert os.listdir(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forward", "model.json", "--trace", "/proc/deep/below"]) == 2
    assert "no files can be written in '/proc/deep/below'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (STREAM, ("--json", "--trace")),
        (["stream", "plan", "alexnet"], ("--out", "--json")),
        (["stream", "graph", "alexnet"], ("--output", "--json")),
    ],
)
def test_two_outputs_are_two_files(
    command: list[str],
    flags: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, flags[0], "x.svg", flags[1], "./x.svg"]) == 2
    assert f"{flags[0]} and {flags[1]} name the same file" in capsys.readouterr().err

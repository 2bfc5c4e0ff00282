"""What commands leave behind and show: files for their owner alone, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.cli.output import table
from cutset.errors import CutsetError, printable
from cutset.files import write_atomically, write_json

SECRET = "One day, a secret"
EVIL = "a\x1b[2Jb\x9bc\rd\u202ee\u2066f\u200fg\u061ch\u2028i\ufeffj\U000e0041k\ud800l\x00m\x7fn"
PLAIN = re.sub(r"[^a-n\[\]2J]", "\ufffd", EVIL)
GENERATE = ("generate", "story", "--max-tokens", "3", "--threads", "1")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_figures_with_a_prompt_are_for_their_owner(
    tmp_path: Path, before: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["cutset", "generate", "--prompt", SECRET])
    previous = os.umask(0)
    try:
        for name in ("figures.json", "tokens.json", "answer.txt"):
            if before is not None:
                (tmp_path / name).write_text("{}")
                (tmp_path / name).chmod(before)
        figures, tokens, answer = (str(tmp_path / name) for name in ("figures.json", "tokens.json", "answer.txt"))
        assert main([*GENERATE, "--prompt", SECRET, "--json", figures, "--output", answer]) == 0
        assert main(["tokenize", "story", SECRET, "--json", tokens]) == 0
    finally:
        os.umask(previous)
    assert SECRET in json.loads(Path(figures).read_text())["command"]
    assert (mode(Path(figures)), mode(Path(tokens))) == (0o600, 0o600)
    assert mode(Path(answer)) == (0o600 if before is None else before)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_private_file_is_never_open_to_others_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        seen.append(mode(Path(source)))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_json(tmp_path / "a", {"prompt": SECRET}, private=True)
    write_atomically(tmp_path / "b", SECRET)
    assert seen[0] == 0o600
    assert seen[1] == 0o666 & ~_umask()


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


@pytest.mark.parametrize("how", ["--prompt", "--prompt-file", "a pipe"])
def test_a_prompt_that_isn_t_in_the_process_list(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cutset", *GENERATE]
    told = subprocess.run([*command, "--prompt", SECRET], capture_output=True, text=True, check=True).stdout
    (tmp_path / "prompt").write_text(SECRET)
    words = {"--prompt": ["--prompt", "-"], "--prompt-file": ["--prompt-file", str(tmp_path / "prompt")]}
    more = words.get(how, ["--prompt-file", "-"])
    done = subprocess.run([*command, *more], input=SECRET, capture_output=True, text=True, check=True)
    assert done.stdout == told


def test_what_is_no_prompt_on_stdin() -> None:
    command = [sys.executable, "-m", "cutset", *GENERATE, "--prompt", "-"]
    for data, why in ((b"a\xff", "not valid UTF-8"), (b"x" * (1 << 21), "more than 1048576 bytes")):
        done = subprocess.run(command, input=data, capture_output=True)
        assert done.returncode == 2
        assert why in done.stderr.decode()
    done = subprocess.run([sys.executable, "-m", "cutset", "tokenize", "story", "-"], input=b"One", capture_output=True)
    assert done.stdout.startswith(b" ") or done.stdout[:1].isdigit()


def test_nothing_that_a_terminal_obeys() -> None:
    assert printable(EVIL) == PLAIN
    assert printable("a\nb") == "a\nb"
    assert printable("a\nb", lines=False) == "a\ufffdb"
    assert printable("नमस्ते 👩‍👩‍👧 שלום Ünïcödé") == "नमस्ते 👩‍👩‍👧 שלום Ünïcödé"
    assert table([(EVIL, "x\ny"), ("a", "b")]).splitlines()[0] == f"{PLAIN}  x\ufffdy"


def test_a_refusal_s_text_reaches_the_terminal_as_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> Any:
        raise CutsetError(f"the accelerator refused: {EVIL}")

    monkeypatch.setattr("cutset.cli.generate.settings_from", refuse)
    assert main([*GENERATE, "--prompt", "x"]) == 2
    assert capsys.readouterr().err == f"cutset: error: the accelerator refused: {PLAIN}\n"


def test_names_in_files_reach_the_terminal_as_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a\\u202Eb\\x1B[2J"
    Path("models.yaml").write_text(f'"{name}": {{path: "{name}", description: "{name}"}}')
    assert main(["models"]) == 0
    Path("models.yaml").write_text(f'"{name}": {{path: x, "{name}": y}}')
    assert main(["models"]) == 2
    Path("manifest").write_text('[loader]\nargv = ["cutset", "serve", "--host", "\\u202e\\u001b\\n"]')
    assert main(["manifest", "--check", "manifest"]) == 1
    Path("cutset.toml").write_text('threads = "\\u202e\\u001b"\n')
    assert main(["config"]) == 2
    said = capsys.readouterr()
    assert not re.search("[\x1b\u202e]", said.out + said.err)
    assert "\ufffd" in said.out


def test_an_answer_on_a_terminal_and_in_a_pipe() -> None:
    code = (
        "from cutset.cli.answer import print_answer\n"
        "from cutset.engine.outputs import Delta\n"
        "import dataclasses\n"
        "given = {f.name: None for f in dataclasses.fields(Delta)}\n"
        "given |= {'text': 'a\\x1b[2J\\x9bb\\n', 'token_ids': []}\n"
        "print_answer([Delta(**given)])\n"
    )
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout.decode() == "a\x1b[2J\x9bb\n"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    os.close(theirs)
    assert os.read(ours, 1000).decode() == "a\ufffd[2J\ufffdb\r\n"
    os.close(ours)

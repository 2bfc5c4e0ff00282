"""The commands that answer, as a user would type them: what goes to stdout, to stderr, and what bad input gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.link import segment
from cutset.models.registry import BUNDLED

Output = tuple[int, str, str]


@pytest.fixture
def cutset(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: str) -> Output:
        code = main(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def process(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cutset.cli", *argv], capture_output=True, text=True, timeout=60, **more
    )


def test_only_the_continuation_goes_to_stdout(cutset: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    code, out, err = cutset(
        "generate", "story", "--prompt", "Once upon a time", "--max-tokens", "12", "--json", str(file)
    )
    assert code == 0
    assert out.strip()
    assert not out.startswith("Once")
    assert err.count("\n") == 1
    for word in ("loaded in", "first token after", "prefill", "12 generated at", "ended by length"):
        assert word in err
    content = json.loads(file.read_text())
    assert content["output"]["text"].strip() == out.strip()
    assert len(content["output"]["token_ids"]) == 12
    assert {row["metric"] for row in content["rows"]} == {"load", "first_token", "prefill", "decode"}


def test_a_prompt_may_come_from_stdin() -> None:
    given = process("generate", "story", "--prompt", "-", "--max-tokens", "8", input="Once upon a time")
    direct = process("generate", "story", "--prompt", "Once upon a time", "--max-tokens", "8")
    assert given.returncode == direct.returncode == 0
    assert given.stdout == direct.stdout
    broken = subprocess.run(
        [sys.executable, "-m", "cutset.cli", "generate", "story", "--prompt", "-"],
        input=b"\xff\xfe",
        capture_output=True,
        timeout=60,
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    assert broken.returncode == 2
    assert b"UTF-8" in broken.stderr


def test_seed_and_temperature(cutset: Any) -> None:
    flags = ("--max-tokens", "20", "--temperature", "0.9", "--prompt", "One day")
    texts = [cutset("generate", "story", *flags, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_stop_ends_the_text(cutset: Any) -> None:
    _, full, _ = cutset("generate", "story", "--prompt", "Once upon a time", "--max-tokens", "40")
    word = full.split()[5]
    _, cut, err = cutset(
        "generate", "story", "--prompt", "Once upon a time", "--max-tokens", "40", "--stop", word, "--stop", "zzz"
    )
    assert cut.rstrip("\n") == full[: full.index(word)].rstrip("\n")
    assert "ended by stop" in err


def test_tokenize(cutset: Any) -> None:
    code, out, _ = cutset("tokenize", "story", "Once upon", "--ids")
    assert code == 0
    ids = [int(word) for word in out.split()]
    code, table, _ = cutset("tokenize", "story", "Once upon")
    assert [int(line.split()[0]) for line in table.splitlines()] == ids
    assert cutset("tokenize", "story", "Once upon", "--ids", "--no-special")[1].split() == out.split()[1:]


def test_chat_keeps_the_conversation(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (tmp_path / "models.yaml").write_text(
        json.dumps({"talker": {"path": str(BUNDLED["story"]), "chat_template": template}})
    )
    chat = ("chat", "talker", "--temperature", "0", "--max-tokens", "16")
    done = process(*chat, input="Once upon a time\n\nOne day\n/reset\nOnce upon a time\n/exit\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = [line for line in done.stderr.splitlines() if line.startswith("[")]
    prompts = [int(line.split("prompt ")[1].split()[0]) for line in figures]
    assert len(prompts) == 3
    assert prompts[0] == prompts[2] < prompts[1]
    assert "cached" in figures[1]


def test_chat_goes_on_after_bytes_that_are_no_text(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (tmp_path / "models.yaml").write_text(
        json.dumps({"talker": {"path": str(BUNDLED["story"]), "chat_template": template}})
    )
    argv = [sys.executable, "-m", "cutset.cli", "chat", "talker", "--temperature", "0", "--max-tokens", "4"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        argv, input=b"\xff\xfe\nOnce upon a time\n", capture_output=True, timeout=60, cwd=tmp_path, env=strict
    )
    assert done.returncode == 0
    assert b"isn't valid Unicode" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "nowhere", "--prompt", "x"], "'nowhere' is no directory"),
        (["generate", "story", "--prompt", "x", "--temperature", "-1"], "temperature=-1.0"),
        (["generate", "story", "--prompt", "x", "--max-tokens", "0"], "max_tokens=0"),
        (["generate", "story", "--prompt", "x", "--top-p", "0"], "top_p=0.0"),
        (["generate", "story", "--prompt", "x", "--device", "cuda:9", "--backend", "torch"], "cuda:9"),
        (["generate", "story", "--prompt", "x", "--device", "tpu"], "tpu"),
        (["generate", "story", "--prompt", "x", "--threads", "none"], "--threads"),
        (["generate", "story", "--prompt", "x", "--max-model-len", "99999"], "max_model_len"),
        (["generate", "story", "--prompt", "word " * 2000], "too many"),
        (["generate", "story", "--prompt", "x", "--json", "/nowhere/x.json"], "/nowhere/x.json"),
        (["chat", "story"], "no chat template"),
        (["tokenize", "nowhere", "x"], "nowhere"),
        (["quantize", "story", "-o", "."], "not an empty directory"),
        (["forward", "nowhere.json"], "neither a checkpoint directory nor an exchange file"),
        (["random", "--heads", "7", "-o", "x.json"], "7 attention heads"),
        (["convert", "story", "-o", "x.json"], "neither"),
        (["compare", "a.npy", "b.npy"], "a.npy"),
    ],
)
def test_bad_input_gets_one_clear_error(
    argv: list[str], message: str, cutset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "file").touch()  # makes the directory one that isn't empty
    monkeypatch.chdir(tmp_path)
    code, _, err = cutset(*argv)
    assert code == 2
    assert message in err
    assert err.startswith("cutset: error:") or "cutset: error:" in err
    assert err.count("\n") <= 3
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "someone/some-model", "--prompt", "x"],
        ["chat", "someone/some-model"],
        ["tokenize", "someone/some-model", "x"],
        ["quantize", "someone/some-model", "-o", "int"],
        ["bench", "quality", "someone/some-model"],
    ],
)
def test_offline_never_touches_the_network(argv: list[str], cutset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(hub_id: str, *, local_files_only: bool, **more: Any) -> str:
        asked.append(local_files_only)
        raise OSError("it isn't in the cache")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setenv("CUTSET_DOWNLOAD", "1")
    code, _, err = cutset(*argv, "--offline")
    assert code == 2
    assert "offline (from --offline) forbids fetching it" in err
    assert asked == [True]


def test_ctrl_c_stops_cleanly() -> None:
    argv = [sys.executable, "-m", "cutset.cli", "generate", "story", "--prompt", "Once", "--max-tokens", "100000"]
    running = subprocess.Popen([*argv, "--ignore-eos", "--temperature", "1"], stdout=-1, stderr=-1, text=True)
    assert running.stdout is not None
    running.stdout.read(1)  # it has begun to write
    running.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = running.communicate(timeout=20)
    assert time.monotonic() - started < 10
    assert running.returncode in (0, 130)  # 0: the context ended before the signal came
    assert "Traceback" not in err


def test_ctrl_c_stops_the_demo_at_once() -> None:
    """A terminal sends it to every process; the client must not wait for an accelerator that ended."""
    argv = [sys.executable, "-m", "cutset.cli", "demo", "--threads", "1"]
    running = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=-1, text=True, start_new_session=True)
    assert running.stderr is not None
    try:
        assert any("Now an accelerator" in line for line in running.stderr)
        time.sleep(1.5)  # it has started by then, or is starting
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=20)  # less than what a call may take
    finally:
        running.kill()
    assert running.returncode in (0, 130)
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m cutset.cli generate story --prompt Once --max-tokens 200 --ignore-eos | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_the_demo_tells_stories(cutset: Any) -> None:
    code, out, err = cutset("demo")
    assert code == 0
    assert out.count("\n") >= 3
    assert out.startswith("Once upon a time")
    assert "parameters" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_no_accelerator_behind_when_it_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    def listening(control: Path) -> bool:
        try:
            locks = segment.Locks(segment.open_file(control))
        except FileNotFoundError:
            return False
        try:
            return locks.taken(0)
        finally:
            locks.let_go()

    def until(there: bool) -> None:
        deadline = time.monotonic() + 30
        while any(listening(control) for control in tmp_path.glob("*.ctl")) != there:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    environ = os.environ | {"CUTSET_SHM_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "cutset.cli", "demo", "--threads", "1"]
    running = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(there=True)  # the accelerator's, which runs in a process of its own
    finally:
        running.send_signal(number)
        running.wait(20)
    until(there=False)

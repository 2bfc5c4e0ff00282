"""The commands as people type them: generate through an accelerator, ping, and what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutset.cli import main
from cutset.errors import LinkClosed
from cutset.link import Timeouts
from cutset.models.random import RandomModel

Start = Callable[..., Any]


def cutset(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cutset", *arguments], capture_output=True, text=True, timeout=120)


def generate(*more: str) -> subprocess.CompletedProcess[str]:
    return cutset("generate", "story", "--prompt", "One day", "--max-tokens", "12", "--threads", "1", *more)


def test_generate_says_the_same_through_an_accelerator_and_names_the_mode(start: Start, ipc: str) -> None:
    start(ipc)
    here = generate("--mode", "local")
    assert here.returncode == 0, here.stderr
    for mode, kept in (((), "masked+verified"), (("--mode", "verified"), "verified"), (("--mode", "plain"), "plain")):
        there = generate("--offload", ipc, *mode)
        assert there.returncode == 0, there.stderr
        assert there.stdout == here.stdout
        assert f"[mode {kept}: " in there.stderr
        loud = "cutset: warning: mode plain: whoever runs"
        assert (loud in there.stderr) == (kept == "plain")
        assert ("rows of pads" in there.stderr) == kept.startswith("masked")


def test_ping(start: Start, ipc: str, tmp_path: Path) -> None:
    RandomModel(hidden=64, heads=4, kv_heads=2, vocab=128).write_checkpoint(tmp_path / "other")
    gone = cutset("ping", ipc, "--timeout", "1")
    assert gone.returncode == 1
    assert gone.stdout.startswith("no: ")
    assert "Traceback" not in gone.stderr
    start(ipc)
    there = cutset("ping", ipc, "--model", "story")
    assert there.returncode == 0, there.stdout + there.stderr
    said = " ".join(there.stdout.split())
    for words in ("reachable yes", "round trip", "exact arithmetic yes", "the same as MODEL yes"):
        assert words in said
    other = cutset("ping", ipc, "--model", str(tmp_path / "other"))
    assert other.returncode == 1
    assert "the same as MODEL NO" in " ".join(other.stdout.split())


@pytest.mark.parametrize("seconds", ["0.3", "20"])
def test_ping_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    waited: list[float] = []

    def connect(address: str, *, timeouts: Timeouts, **_: object) -> None:
        waited.append(timeouts.connect)
        raise LinkClosed("nobody")

    monkeypatch.setattr("cutset.offload.client.offload.connect", connect)
    assert main(["ping", "shm://nobody-is-here", "--timeout", seconds]) == 1
    assert waited == [float(seconds)]


@pytest.mark.parametrize(
    "more",
    [
        ("shm://x", "--timeout", "-1"),
        ("shm://x", "--timeout", "0"),
        ("shm://x", "--timeout", "nan"),
        ("shm://x", "--timeout", "inf"),
        ("shm:/x",),
        ("tcp://127.0.0.1:1",),
    ],
)
def test_ping_refuses_what_can_t_be_asked(capsys: pytest.CaptureFixture[str], more: tuple[str, ...]) -> None:
    assert main(["ping", *more]) == 2
    said = capsys.readouterr()
    assert "error" in said.err
    assert not said.out


def test_pads_of_a_second_party_and_who_may_not_be_one(start: Start, tmp_path: Path) -> None:
    first, second = f"ipc://{tmp_path}/first", f"ipc://{tmp_path}/second"
    start(first)
    start(second)
    here = generate("--mode", "local")
    for addresses in ((first, second), (first, first)):
        refused = generate("--offload", addresses[0], "--pads-from", addresses[1])
        assert refused.returncode == 2
        assert "must be another party" in refused.stderr
    there = generate("--offload", first, "--pads-from", second, "--pads-same-host")
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout
    inline = generate("--offload", first, "--pads", "inline")
    assert inline.stdout == here.stdout
    assert " 0 made ahead" in inline.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--offload", "shm://nobody-is-here", "--offload-timeout", "1"), "nobody-is-here"),
        (("--offload", "tcp://localhost:1"), "cutset keys"),
        (("--mode", "masked"), "give --offload ADDRESS"),
        (("--mode", "none"), "must be one of"),
    ],
)
def test_what_can_not_be_kept_is_one_line_and_exit_code_2(more: tuple[str, ...], message: str) -> None:
    done = generate(*more)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["--key", "--allow"])
@pytest.mark.parametrize("address", ["shm://keyless", "ipc:///tmp/keyless"])
def test_keys_are_not_ignored_where_nobody_is_asked_for_one(
    flag: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accelerator", "story", "--listen", address, flag, "client.pub"]) == 2
    assert "are for tcp" in capsys.readouterr().err

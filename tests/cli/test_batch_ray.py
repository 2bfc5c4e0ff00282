"""`cutset batch --ray`: the lines of a file over actors, of which some die."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from benchmarks.ray_cluster import children
from cutset.cli import main

COUNT = 400


def write(path: Path, count: int = COUNT) -> Path:
    body = {"max_tokens": 8, "temperature": 0.9}
    lines = [
        {
            "custom_id": f"r {n}",
            "method": "POST",
            "url": "/v1/completions",
            "body": body | {"prompt": f"{n}", "seed": n},
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    return path


def texts(path: Path) -> list[Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (one["id"], one["error"] or one["response"]["body"]["choices"][0]["text"], one["custom_id"]) for one in found
    ]


@pytest.mark.parametrize(
    ("version", "mode", "flags", "message"),
    [
        (None, None, ["--ray", "local"], "--ray needs Ray 2.60, which isn't installed: pip install 'cutset[ray]'"),
        ("2.9.1", None, ["--ray", "local"], "--ray needs Ray 2.60, and 2.9.1 is installed: pip install 'cutset[ray]'"),
        ("2.60.1", None, ["--ray", "auto"], "Ray's token authentication is off"),
        ("2.60.1", None, ["--ray", "10.0.0.1:6379"], "--insecure-ray"),
        (
            "2.60.1",
            "token",
            ["--ray", "127.0.0.1:1"],
            "no Ray cluster can be reached at 127.0.0.1:1 ([Errno 111] Connection refused): start",
        ),
        ("2.60.1", "token", ["--ray", "here"], "tcp://here"),
        ("2.60.1", "token", ["--ray", "127.0.0.1:99999999"], "127.0.0.1:99999999"),
        ("2.60.1", "token", ["--ray", "auto", "--ray-actors", "-1"], "--ray-actors must be from 0"),
    ],
)
def test_what_ray_needs_is_one_line(
    version: str | None,
    mode: str | None,
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real: Callable[[str], str] = importlib.metadata.version

    def installed(name: str) -> str:
        if name != "ray":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    source = write(tmp_path / "in.jsonl", 1)
    assert main(["batch", "story", str(source), "-o", str(tmp_path / "out.jsonl"), *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl"]


def actors() -> list[int]:
    """Processes of Ray's that have an engine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"MapWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_an_actor_and_then_the_driver_die(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    source = write(tmp_path / "in.jsonl")
    here, out = tmp_path / "here.jsonl", tmp_path / "out.jsonl"
    common = [
        sys.executable,
        "-m",
        "cutset.cli",
        "batch",
        "story",
        str(source),
        "--threads",
        "1",
        "--max-num-seqs",
        "4",
    ]
    subprocess.run([*common, "-o", str(here)], check=True, timeout=300)
    over = [*common, "-o", str(out), "--ray", "local", "--ray-actors", "2", "--resume"]
    before = set(actors())
    room = tempfile.TemporaryDirectory(prefix="c")  # paths of sockets must be short
    env = os.environ | {"TMPDIR": room.name}
    process = subprocess.Popen(over, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    shards, killed, end = out.with_name("out.jsonl.parts"), False, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
        written = len(list(shards.glob("*.shard")))
        if written and not killed and (victims := set(actors()) - before):
            os.kill(min(victims), signal.SIGKILL)
            killed = True
        elif killed and written > 2:
            process.kill()
    out_text, _ = process.communicate()
    assert killed
    assert out_text == "", "Ray would print pages of what was lost"
    left = set(Path(room.name).glob("cutset-*"))
    done = subprocess.run(over, capture_output=True, text=True, timeout=400, env=env)
    assert done.returncode == 0, done.stderr
    with room:
        assert left, "the driver was killed"
        assert not list(Path(room.name).glob("cutset-*")), "and what it left was removed by the next"
    assert texts(out) == texts(here)
    assert sorted(os.listdir(tmp_path)) == ["here.jsonl", "in.jsonl", "out.jsonl"]


DEADLY = """
import os
from cutset.serve.batches import batch_lines

answer = batch_lines.LineAnswerer.answer

async def deadly(self, line, first):
    if line.text and b'"r 7"' in line.text:
        os._exit(9)
    return await answer(self, line, first)

batch_lines.LineAnswerer.answer = deadly
"""


@pytest.mark.slow
def test_a_line_that_ends_every_engine_gets_an_error(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    source, out = write(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    command = [sys.executable, "-m", "cutset.cli", "batch", "story", str(source), "-o", str(out), "--threads", "1"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    over = [*command, "--ray", "local", "--ray-actors", "2"]
    done = subprocess.run(over, capture_output=True, text=True, timeout=500, env=env)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 41
    assert {one["custom_id"] for one in found if one["error"]} == {"r 7", None}
    assert next(one["error"]["code"] for one in found if one["custom_id"] == "r 7") == "engine_ended"


@pytest.mark.slow
def test_nodes_go_and_then_the_driver_while_files_play(tmp_path: Path) -> None:
    """Two of three nodes, one after the other, then the driver; each output is that of a run without Ray."""
    pytest.importorskip("ray.data")
    pytest.importorskip("torch")
    pytest.importorskip("av")
    from video.sources.clips import pictures, write_clip

    scene = pictures(60, (96, 160))
    names = [f"{number:02d}.mp4" for number in range(14)]
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        write_clip(tmp_path / "in" / name, scene[number : number + 30])
    (tmp_path / "in" / "wrong.mp4").write_bytes(b"this is no video")
    command = [sys.executable, "-m", "cutset.cli", "stream", "batch", "mobilenet_v3_small", "in/*.mp4"]
    command += ["--workers", "1", "--scheduler", "even"]
    subprocess.run([*command, "-o", "here"], check=True, timeout=300, cwd=tmp_path)
    over = [*command, "-o", "there", "--ray", "local", "--ray-actors", "3", "--resume"]
    process = subprocess.Popen(over, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    gone, end = 0, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)  # a fast machine plays them all within a second
        done = len(list((tmp_path / "there").glob("*.mp4.jsonl")))
        if gone < 2 and done > 2 * gone and len(raylets := children(process.pid, "raylet/raylet")) == 3 - gone:
            os.kill(raylets[-1], signal.SIGKILL)  # not the head's
            gone += 1
        elif gone == 2 and done > 6:
            process.kill()
    _, err = process.communicate()
    assert gone == 2, err
    done = subprocess.run(over, capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in [*(f"{name}.jsonl" for name in names), "files.jsonl"]:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "there")) == sorted(os.listdir(tmp_path / "here"))

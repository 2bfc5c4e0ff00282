"""`cutset batch`: OpenAI's batches from a file to a file, each answer once, whatever interrupts it."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from cutset.batches.input_lines import survey
from cutset.batches.shard_folder import Record, ShardFolder
from cutset.cli import main
from cutset.serve.batches.batch_lines import custom_id

FLAGS = ("--threads", "1", "--max-num-seqs", "4")
Line = dict[str, Any]


def request(name: str, url: str = "/v1/completions", **body: Any) -> Line:
    """A line that asks for few tokens, drawn by a seed."""
    asked = {"prompt": f"Once {name}", "max_tokens": 6, "temperature": 0.9, "seed": 7}
    return {"custom_id": name, "method": "POST", "url": url, "body": body or asked}


def write(path: Path, lines: list[Line | bytes]) -> Path:
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines) + b"\n")
    return path


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(line: Line) -> Any:
    """What doesn't differ from run to run."""
    if line["response"] is None:
        return line["custom_id"], line["error"]
    body = dict(line["response"]["body"])
    body.pop("id", None)
    body.pop("created", None)
    if "usage" in body:
        body["usage"] = {name: value for name, value in body["usage"].items() if "details" not in name}
    return line["custom_id"], line["response"]["status_code"], body


POISON: list[tuple[bytes, str, str | None]] = [
    (b"{", "invalid_json_line", None),
    (b"[1]", "invalid_request", None),
    (b"\xff\xfe{}", "invalid_encoding", None),
    (b'{"body": ' + b"[" * 50_000, "invalid_json_line", None),
    (b'{"custom_id": "big", "body": "' + b"x" * (10 << 20) + b'"}', "line_too_long", None),
    (json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions"}).encode(), "invalid_request", "a"),
    (json.dumps(request("b") | {"method": "GET"}).encode(), "invalid_method", "b"),
    (json.dumps(request("c", "/v1/images")).encode(), "invalid_url", "c"),
    (json.dumps(request("d") | {"more": 1}).encode(), "invalid_request", "d"),
    (json.dumps(request("") | {"custom_id": ""}).encode(), "invalid_custom_id", ""),
    (json.dumps(request("e") | {"custom_id": 5}).encode(), "invalid_request", None),
    (json.dumps(request("k", prompt="\ud800")).encode(), "invalid_json_line", None),
    (json.dumps(request("good 0")).encode(), "duplicate_custom_id", "good 0"),
]
REFUSED = [  # by who answers the request
    ("f", {"prompt": "a", "temperature": "hot"}, 400),
    ("g", {"prompt": "a " * 3000}, 400),
    ("h", {"prompt": "a", "model": "other"}, 404),
    ("i", {"prompt": "a", "stream": True}, 400),
    ("j", {"prompt": "a", "max_tokens": 0}, 400),
]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Line | bytes]]:
    """Requests among which are poisonous lines."""
    good = [request(f"good {number}") for number in range(8)]
    wrong: list[Line | bytes] = [text for text, _, _ in POISON]
    wrong += [request(name, **body) for name, body, _ in REFUSED]
    lines: list[Line | bytes] = [*good[:4], *wrong, b"", b"  \r", *good[4:]]
    return write(tmp_path_factory.mktemp("batch") / "in.jsonl", lines), lines


@pytest.fixture(scope="module")
def answered(poisoned: tuple[Path, list[Line | bytes]]) -> tuple[list[Line], str]:
    """What a batch makes of them."""
    source, _ = poisoned
    command = [
        sys.executable,
        "-m",
        "cutset.cli",
        "batch",
        "story",
        str(source),
        "-o",
        str(source.parent / "out.jsonl"),
    ]
    done = subprocess.run([*command, *FLAGS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return read(source.parent / "out.jsonl"), done.stderr


def test_each_line_has_its_answer_or_its_error(answered: tuple[list[Line], str], poisoned: Any) -> None:
    found, err = answered
    assert [line["custom_id"] for line in found[:4]] == [f"good {number}" for number in range(4)]
    assert [line["custom_id"] for line in found[-4:]] == [f"good {number}" for number in range(4, 8)]
    for line in [*found[:4], *found[-4:]]:
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["object"] == "text_completion"
        assert line["response"]["request_id"] == line["response"]["body"]["id"]
    wrong = found[4:-4]
    assert len(wrong) == len(POISON) + len(REFUSED)
    for line, (_, code, name), number in zip(wrong, POISON, range(5, 100), strict=False):
        assert (line["response"], line["custom_id"], line["error"]["code"]) == (None, name, code)
        assert line["error"]["line"] == number
        assert line["error"]["message"]
    for line, (name, _, status) in zip(wrong[len(POISON) :], REFUSED, strict=True):
        assert (line["custom_id"], line["error"], line["response"]["status_code"]) == (name, None, status)
        assert line["response"]["body"]["error"]["message"]
    assert len({line["id"] for line in found}) == len(found)
    assert f"{len(found)} requests, {len(wrong)} failed, in " in err
    assert "1 lines have the custom_id of an earlier line" in err


def test_the_output_is_for_its_owner_and_nothing_else_is_left(answered: Any, poisoned: tuple[Path, Any]) -> None:
    folder = poisoned[0].parent
    assert sorted(os.listdir(folder)) == ["in.jsonl", "out.jsonl"]
    assert stat.S_IMODE((folder / "out.jsonl").stat().st_mode) == 0o600


def test_a_complete_one_is_left_as_it_is(
    answered: Any, poisoned: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = poisoned[0]
    before = (source.parent / "out.jsonl").stat().st_mtime_ns
    assert main(["batch", "story", str(source), "-o", str(source.parent / "out.jsonl"), "--resume", *FLAGS]) == 0
    assert "is complete: nothing is left to do" in capsys.readouterr().err
    assert (source.parent / "out.jsonl").stat().st_mtime_ns == before


def test_order_changes_no_answer(answered: tuple[list[Line], str], tmp_path: Path) -> None:
    lines = [request(f"good {number}") for number in range(8)]
    random.Random(5).shuffle(lines)
    source = write(tmp_path / "in.jsonl", list(lines))
    assert main(["batch", "story", str(source), "-o", str(tmp_path / "out.jsonl"), *FLAGS, "--at-once", "3"]) == 0
    found = read(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in found] == [line["custom_id"] for line in lines]
    before = {line["custom_id"]: said(line) for line in answered[0] if line["error"] is None}
    assert [said(line) for line in found] == [before[line["custom_id"]] for line in lines]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-body", "0"], "--max-body must be from 1"),
        (["--at-once", "0"], "--at-once must be from 1"),
        (["-o", "in.jsonl"], "-o names the input"),
        (["-o", "/dev/null"], "/dev/null is no regular file"),
        (["--tool-parser", "none at all"], "none at all"),
        (["--served-model-name", "a", "--served-model-name", "a"], "a name stands for two things"),
        (["--lora-modules", "a=nowhere"], "nowhere has no adapter_config.json"),
    ],
)
def test_wrong_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", [request("a")])
    assert main(["batch", "story", "in.jsonl", "-o", "out.jsonl", "--threads", "1", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert "go on with" not in err
    assert os.listdir(tmp_path) == ["in.jsonl"], "nothing was answered, so nothing is kept"


def test_inputs_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n  \n")
    for name, message in (("gone.jsonl", "No such file"), ("empty.jsonl", "no requests"), (".", "no regular file")):
        assert main(["batch", "story", name, "-o", "out.jsonl"]) == 2
        assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["empty.jsonl"]


def test_a_run_goes_on_only_when_asked_and_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in.jsonl", [request("a"), request("b")])
    digest = survey(source, 1 << 20, custom_id).sha256
    with ShardFolder(tmp_path / "out.jsonl.parts", {"of": "requests", "input": digest, "lines": 2}) as folder:
        folder.commit([Record("1", True, b'{"custom_id":"b","kept":true}')])
    run = ["batch", "story", "in.jsonl", "-o", "out.jsonl", *FLAGS]
    assert main(run) == 2
    assert "holds the answers of a run that wasn't finished: go on with --resume" in capsys.readouterr().err
    write(source, [request("a"), request("c")])
    assert main([*run, "--resume"]) == 2
    assert "has input" in capsys.readouterr().err
    write(source, [request("a"), request("b")])
    assert main([*run, "--resume"]) == 0
    assert "1 of 2 answers are there" in capsys.readouterr().err
    found = read(tmp_path / "out.jsonl")
    assert [line["custom_id"] for line in found] == ["a", "b"]
    assert found[1]["kept"] is True


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cutset.cli", "batch", "story", str(source), "-o", str(out), *FLAGS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_shard(out: Path, process: subprocess.Popen[str]) -> None:
    parts = out.with_name(out.name + ".parts")
    while process.poll() is None and not list(parts.glob("*.shard")):
        time.sleep(0.02)


def test_ctrl_c_leaves_what_was_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [request(f"r {number}") for number in range(3000)])
    out = tmp_path / "out.jsonl"
    process = start(source, out)
    wait_for_shard(out, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("batch: SIGINT: ")
    assert f"go on with: cutset batch story {source} -o {out} --threads 1 --max-num-seqs 4 --resume" in last
    assert not out.exists()
    assert list(out.with_name("out.jsonl.parts").glob("*.shard"))


@pytest.mark.slow
def test_killed_at_any_moment_each_line_has_its_one_answer(tmp_path: Path) -> None:
    """Twenty kills between the start and a late moment of runs that go on."""
    count, chance = 1500, random.Random(11)
    source = write(tmp_path / "in.jsonl", [request(f"r {number}") for number in range(count)])
    undisturbed, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert start(source, undisturbed).communicate(timeout=600)
    for _ in range(20):
        process = start(source, out, "--resume")
        time.sleep(chance.uniform(0.2, 4.0))
        process.kill()
        process.communicate()
    process = start(source, out, "--resume")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    found = read(out)
    assert [line["custom_id"] for line in found] == [f"r {number}" for number in range(count)]
    assert [said(line) for line in found] == [said(line) for line in read(undisturbed)]
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl", "whole.jsonl"]

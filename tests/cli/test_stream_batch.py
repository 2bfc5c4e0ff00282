"""`cutset stream batch`: what is in each of many files, once, whatever interrupts it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from cutset.cli import main, stream_batch, stream_files
from cutset.cli.stream_batch import matching
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import ConfigError, GraphError
from cutset.video import zoo
from video.detection.spots import NAMES, Spots, box_of, picture
from video.sources.clips import write_clip

SIZE = (64, 96)
Run = Callable[..., int]


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalWorkers]:
    with LocalWorkers(1) as local:
        yield local


def clip(path: Path, start: int, count: int = 4) -> Path:
    """A red spot that goes to the right, from `start` on."""
    path.parent.mkdir(exist_ok=True)
    shown = [picture(SIZE, {"red": (start + 4 * i, 10)}, seed=i) for i in range(count)]
    return write_clip(path, shown, options={"crf": "1"})


@pytest.fixture
def run(workers: LocalWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with the detector of spots, in a directory with videos and files that are none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUTSET_STREAM_SCHEDULER", "even")
    monkeypatch.setattr(zoo, "build", lambda name, **more: Spots(SIZE).eval())
    clip(tmp_path / "in" / "a.mp4", 0)
    (tmp_path / "in" / "b.mp4").write_bytes(b"this is no video")
    clip(tmp_path / "in" / "c.mp4", 8)
    clip(tmp_path / "other" / "a.mp4", 16, 3)
    (tmp_path / "in" / "d.mp4").write_bytes(b"")
    whole = (tmp_path / "in" / "c.mp4").read_bytes()
    (tmp_path / "in" / "e.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "labels").write_text("\n".join(NAMES))
    [(address, _)] = workers.addresses.values()

    def go(*more: str, files: tuple[str, ...] = ("in/*.mp4", "other/a.mp4"), out: str = "out") -> int:
        return main(["stream", "batch", "spots", *files, "-o", out, "--labels", "labels", "--workers", address, *more])

    return go


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_file_has_its_lines_and_broken_ones_are_noted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    listed = read(tmp_path / "out" / "files.jsonl")
    assert [one["file"] for one in listed] == [f"in/{name}.mp4" for name in "abcde"] + ["other/a.mp4"]
    outputs = [one["output"] for one in listed]
    assert outputs == ["a.mp4.jsonl", None, "c.mp4.jsonl", None, None, "a.mp4-1.jsonl"]
    assert [bool(one["error"]) for one in listed] == [output is None for output in outputs]
    assert [one["pictures"] for one in listed] == [4, 0, 4, 0, 0, 3]
    for output, start, count in (("a.mp4.jsonl", 0, 4), ("c.mp4.jsonl", 8, 4), ("a.mp4-1.jsonl", 16, 3)):
        lines = read(tmp_path / "out" / output)
        assert [line["picture"] for line in lines] == list(range(count))
        assert [line["time"] for line in lines] == pytest.approx([i / 10 for i in range(count)], abs=0.01)
        for i, line in enumerate(lines):
            assert line["size"] == [96, 64]
            [found] = line["detections"]
            assert found["label"] == "red"
            assert np.allclose(found["box"], box_of((start + 4 * i, 10)), atol=1)
    err = capsys.readouterr().err
    assert "stream: in/b.mp4: " in err
    assert "6 files, 3 failed, in " in err
    assert "11 pictures; out/files.jsonl" in err
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".parts",
        "a.mp4-1.jsonl",
        "a.mp4.jsonl",
        "c.mp4.jsonl",
        "files.jsonl",
    ]

    # What is done stays; what is new or has changed is played.
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.mp4*")}
    assert run() == 2
    assert "go on with --resume" in capsys.readouterr().err
    clip(tmp_path / "in" / "c.mp4", 40, 2)
    clip(tmp_path / "in" / "f.mp4", 4, 1)
    assert run("--resume") == 0
    assert "5 of 7 files are done" in capsys.readouterr().err
    changed = {name for name, at in before.items() if (tmp_path / "out" / name).stat().st_mtime_ns != at}
    assert changed == {"c.mp4.jsonl"}
    assert [one["pictures"] for one in read(tmp_path / "out" / "files.jsonl")] == [4, 0, 2, 0, 0, 1, 3]
    assert len(read(tmp_path / "out" / "c.mp4.jsonl")) == 2
    assert run("--resume", "--only", "blue") == 2
    assert "has settings" in capsys.readouterr().err


class Killed(BaseException):
    """The process dies here."""


def test_killed_or_interrupted_it_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("in/a.mp4", "in/c.mp4", "other/a.mp4")
    assert run(files=files, out="whole") == 0
    real, seen = stream_files.picture_line, [0]

    def at(number: int, act: Callable[[], object]) -> None:
        def line(*args: Any, **more: Any) -> Any:
            seen[0] += 1
            if seen[0] == number:
                act()
            return real(*args, **more)

        seen[0] = 0
        monkeypatch.setattr(stream_files, "picture_line", line)

    def die() -> None:
        raise Killed

    at(6, die)  # in the second file
    with pytest.raises(Killed):
        run(files=files)
    at(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    capsys.readouterr()
    assert run("--resume", files=files) == 130
    err = capsys.readouterr().err
    assert "SIGINT: 1 of 3 files are done; go on with: cutset stream batch spots in/a.mp4" in err
    assert err.strip().endswith("--resume")
    at(0, die)
    assert run("--resume", files=files) == 0
    assert seen[0] == 7, "the first file wasn't played again"
    for name in ("files.jsonl", "a.mp4.jsonl", "c.mp4.jsonl", "a.mp4-1.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_files_that_the_network_cant_take_dont_end_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even the first one: only where no other can be played, it is the network."""
    assemble = stream_files.FilePlayer._assemble

    def too_small(self: Any, path: Path) -> Any:
        if path.name.startswith("a"):
            raise GraphError("the kernel is larger than the picture")
        return assemble(self, path)

    monkeypatch.setattr(stream_files.FilePlayer, "_assemble", too_small)
    assert run(files=("in/a.mp4", "other/a.mp4"), out="none") == 2
    assert "the kernel is larger than the picture" in capsys.readouterr().err
    assert not (tmp_path / "none" / ".parts").exists(), "there is nothing to go on with"
    for more, files in (((), ("in/a.mp4", "in/c.mp4")), (("--resume",), ("in/a.mp4", "in/c.mp4", "other/a.mp4"))):
        assert run(*more, files=files) == 0
        listed = read(tmp_path / "out" / "files.jsonl")
        assert [one["file"] for one in listed] == list(files)
        assert [one["error"] for one in listed if one["output"] is None] == [
            "the kernel is larger than the picture"
        ] * (len(files) - 1)


def test_one_that_cant_be_read_is_noted_and_tried_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "in" / "a.mp4"
    whole = gone.read_bytes()
    found = stream_batch.matching

    def vanishes(texts: Any) -> Any:
        files = found(texts)
        gone.unlink()
        return files

    with monkeypatch.context() as patched:
        patched.setattr(stream_batch, "matching", vanishes)
        assert run(files=("in/a.mp4", "in/c.mp4")) == 0
    assert "in/a.mp4: it can't be read: No such file" in capsys.readouterr().err
    listed = read(tmp_path / "out" / "files.jsonl")
    assert [(one["pictures"], one["sha256"] is None) for one in listed] == [(0, True), (4, False)]
    gone.write_bytes(whole)
    assert run("--resume", files=("in/a.mp4", "in/c.mp4")) == 0
    assert [one["pictures"] for one in read(tmp_path / "out" / "files.jsonl")] == [4, 4]


def test_files_are_found_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.mp4", "a.mp4", "[x].mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    assert [str(path) for path in matching(["b.mp4", "*.mp4", "./a.mp4"])] == ["b.mp4", "[x].mp4", "a.mp4"]
    assert [str(path) for path in matching(["[x].mp4"])] == ["[x].mp4"]
    for text, message in (
        ("no*.mp4", "names no file"),
        ("folder.mp4", "is no file"),
        ("rtsp://camera", "names no file"),
    ):
        with pytest.raises(ConfigError, match=message):
            matching([text])


def test_a_network_that_there_is_not_ends_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["stream", "batch", "alexnett", "in/a.mp4", "-o", "out", "--scheduler", "even"]) == 2
    assert "alexnet" in capsys.readouterr().err
    assert main(["stream", "batch", "in/a.mp4", "-o", "out"]) == 2

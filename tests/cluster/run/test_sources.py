"""Runs over sources that are hard to read: workers that get packets see what the source sees."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cli.stream_results import SourceWatch
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.messages import Report
from cutset.errors import SourceLost
from cutset.stream import Stream
from cutset.video.sources import ArraySource, Picture, Source, open_source
from video.sources.ffmpeg import ffmpeg, make
from video.sources.test_damage import spoil
from video.sources.test_orientation import exif, turned_video, with_exif
from video.sources.test_reading import X264
from video.sources.test_reconnect import free_port, server


def turned(folder: Path) -> Path:
    return turned_video(folder / "turned.mp4", 6)


def cut(folder: Path) -> Path:
    whole, path = make(folder / "whole.mp4", *X264, "-g", 100, pictures=30), folder / "cut.mp4"
    ffmpeg("-ss", 1.4, "-i", whole, "-c", "copy", path)
    return path


def bad(folder: Path) -> Path:
    return spoil(make(folder / "whole.mp4", *X264, pictures=24), [9])[0]


def mixed(folder: Path) -> Path:
    sizes = ("64x48", "96x80", "64x48")
    parts = [make(folder / f"{i}.h264", *X264, size=size, pictures=8) for i, size in enumerate(sizes)]
    path = folder / "mixed.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def av1(folder: Path) -> Path:
    return make(folder / "a.webm", "-c:v", "libaom-av1", "-cpu-used", 8, "-g", 6, pictures=12)


def photo(folder: Path) -> Path:
    path = make(folder / "a.jpg", pictures=1)
    path.write_bytes(with_exif(path.read_bytes(), exif(7)))
    return path


@pytest.mark.parametrize("kind", [turned, cut, bad, mixed, av1, photo])
def test_packets_of_what_is_hard_to_read(workers: LocalWorkers, tmp_path: Path, kind: Any) -> None:
    path = str(kind(tmp_path))
    size = (48, 64) if kind is mixed else None
    with open_source(path, size=size) as source:
        pictures = [picture.pixels for picture in source]
    model = small_model(*pictures[0].shape[2:])
    first = replace(even_plan(model, workers.names), input="packets")
    second = replace(even_plan(model, list(reversed(workers.names))), input="packets")
    results, sent, options = [], [], Options(rate=60)

    def observe(report: Report, plan: Any, seconds: float) -> None:
        if report.received and report.received[0].edge == model.input.name:
            sent.append(report.received[0].nbytes)

    with (
        open_source(path, size=size) as source,
        Stream(model, source, workers=workers.addresses, plan=first, options=options, observe=observe) as stream,
    ):
        for result in stream:
            results.append(result)
            if result.picture == 4:  # in the middle of a group
                stream.coordinator.propose(second, "a test")
    same(results, expected(pictures))
    assert all(result.attempts <= 2 for result in results)
    assert sent
    assert (pictures[0].nbytes in sent) == (kind is mixed), "pixels were sent where packets could be"


class Lost(Source):
    name, rate, size = "camera", None, (32, 48)

    def __init__(self, pictures: list[Any]) -> None:
        self.pictures = pictures

    def __iter__(self) -> Iterator[Picture]:
        yield from (Picture(i, pixels, i / 25) for i, pixels in enumerate(self.pictures))
        self.faults.lost += 1
        raise SourceLost("camera: lost after 3 pictures")


def test_a_lost_source_doesnt_end_the_others(workers: LocalWorkers) -> None:
    pictures = moving(9, 32, 48)
    sources = (Lost(pictures[:3]), ArraySource(pictures))
    said: list[str] = []
    watch = SourceWatch(said.append)
    watch.sources = list(sources)
    with Stream(small_model(32, 48), *sources, workers=workers.addresses) as stream:
        found = list(watch.results(stream))
    for number, count in ((0, 3), (1, 9)):
        same([result for result in found if result.source == number], expected(pictures[:count]))
    assert said == ["camera: lost after 3 pictures"]
    assert watch.lost
    assert watch.figures()[0]["lost"] == 1
    assert watch.lines() == ["camera: lost 1×, back 0×, away for 0.0 s"]
    with (
        Stream(small_model(32, 48), Lost(pictures[:3]), workers=workers.addresses) as stream,
        pytest.raises(SourceLost),
    ):
        list(stream)


RUN = [sys.executable, "-m", "cutset.cli", "stream", "run", "alexnet", "--scheduler", "even", "--workers", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("back", [True, False])
def test_a_camera_is_lost_during_a_run(tmp_path: Path, back: bool) -> None:
    """Killed and started again, or not: said, counted, and an exit code that says whether it came back."""
    port, file = free_port(), tmp_path / "r.json"
    url = f"rtsp://user:secret@127.0.0.1:{port}/live"
    more = ["--source", url, "--rate", "20", "--limit", "100000", "--json", str(file)]
    quick = ["--source-timeout", "2", "--source-patience", "20" if back else "1"]
    with server(port, size="64x80") as first:
        command = [*RUN, *more, *quick, *(["--limit", "60"] if back else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                for _ in range(3):
                    assert process.stdout.readline()
                first.kill()
                first.wait()
                if back:
                    time.sleep(1)
                    with server(port, size="64x80"):
                        out, err = process.communicate(timeout=120)
                else:
                    out, err = process.communicate(timeout=120)
            finally:
                process.kill()
    assert process.returncode == (0 if back else 1), err
    assert "Traceback" not in err
    assert "secret" not in err
    assert "lost after" in err
    assert ("back after" in err) == back
    [figures] = json.loads(file.read_text())["sources"]
    assert (figures["lost"], figures["reconnects"]) == (1, int(back))
    if back:
        assert out.count("\n") == 57
        assert "lost 1×, back 1×" in err


@pytest.mark.slow
def test_what_is_not_read_ends_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n")
    broken = spoil(
        make(tmp_path / "a.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", size="80x80", pictures=60), range(9, 60)
    )[0]
    for path, said in ((tmp_path / "a.m3u8", "HLS playlist"), (broken, "bad packets one after another")):
        done = subprocess.run([*RUN, "--source", str(path)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr

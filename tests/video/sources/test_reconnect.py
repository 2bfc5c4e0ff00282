"""Cameras and streams that are lost: opened again after growing pauses, or lost for good in so many words."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import SourceError, SourceLost
from cutset.video.sources import PacketDecoder, PacketHistory, Tolerance, open_source
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.faults import Faults
from cutset.video.sources.live import open_rtsp
from cutset.video.sources.reconnect import ReconnectingSource
from video.sources.clips import pictures, write_clip
from video.sources.ffmpeg import make

QUICK = Tolerance(timeout=10.0, patience=30.0, pause=0.05, longest=0.3)
HASTY = replace(QUICK, timeout=0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(port, *words, size="48x64"):
    """An RTSP server, ready to be dialled; killed at the end, whatever it does."""
    script = Path(__file__).parent / "rtsp_server.py"
    command = [sys.executable, str(script), str(port), size, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def checked(source, found):
    """What a worker decodes of these pictures is what the source gave."""
    decoder, history = PacketDecoder(source.codec), PacketHistory()
    for picture in found:
        history.add(picture)
        pixels = decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
        assert np.array_equal(pixels, picture.pixels)
        restart = history.restart(picture.index)
        again = PacketDecoder(source.codec).decode(restart.packets, opens=True, skipped=restart.skipped)
        assert np.array_equal(again, picture.pixels)
    assert all(a.index < b.index and a.time < b.time for a, b in itertools.pairwise(found))


def test_a_server_that_is_killed_and_comes_back():
    port, said, found = free_port(), [], []
    with contextlib.ExitStack() as stack:
        with server(port):
            url = f"rtsp://user:secret@127.0.0.1:{port}/live?token=hidden"
            source = stack.enter_context(open_source(url, tolerance=QUICK, tell=said.append))
            stream = iter(source)
            found += itertools.islice(stream, 8)
        with server(port):
            while source.faults.reconnects == 0 or len(found) < 30:
                found.append(next(stream))
            faults, said = replace(source.faults), list(said)  # before this one is killed, too
    checked(source, found)
    assert (faults.lost, faults.reconnects, faults.bad_packets) == (1, 1, 0)
    assert faults.away > 0
    assert "lost after" in said[0]
    assert "next try in" in said[0]
    assert "back after" in said[-1]
    assert not any("secret" in line or "hidden" in line for line in said)
    gaps = [b.time - a.time for a, b in itertools.pairwise(found)]
    assert max(gaps) > 2 * sorted(gaps)[len(gaps) // 2], "the time that it was away is in the pictures' times"


def test_a_server_that_stalls():
    """It neither answers nor closes anything while it is stopped; nor does it take new connections."""
    port, said = free_port(), []
    with (
        server(port) as process,
        open_source(f"rtsp://127.0.0.1:{port}/live", tolerance=HASTY, tell=said.append) as source,
    ):
        stream = iter(source)
        found = list(itertools.islice(stream, 5))
        process.send_signal(signal.SIGSTOP)
        while source.faults.lost == 0 or len(said) < 2:  # and one try more
            time.sleep(0.05)
        assert source.faults.reconnects == 0
        process.send_signal(signal.SIGCONT)
        while source.faults.reconnects == 0:
            found.append(next(stream))
        found += itertools.islice(stream, 5)
        assert source.faults.lost >= source.faults.reconnects >= 1
    assert said[0].count("pictures") == 1, "how many there were is said once"
    checked(source, found)


def test_a_server_that_never_comes_back():
    port, said, found = free_port(), [], []
    tolerance = replace(QUICK, patience=1.0)
    with server(port):
        source = open_source(f"rtsp://127.0.0.1:{port}/live", tolerance=tolerance, tell=said.append)
        stream = iter(source)
        found += itertools.islice(stream, 4)
    with source:
        why = r"lost after \d+ pictures \(.*\) and not back in 1 s, \d+ tries; the last: connection refused"
        with pytest.raises(SourceLost, match=why) as one:
            found.extend(stream)
    assert isinstance(one.value, SourceError)
    assert (source.faults.lost, source.faults.reconnects) == (1, 0)
    assert source.faults.away >= 0.5
    checked(source, found)


def test_without_patience_it_is_lost_at_once():
    port = free_port()
    with server(port, 12), open_source(f"rtsp://127.0.0.1:{port}/live", tolerance=Tolerance(patience=0)) as source:
        with pytest.raises(SourceLost, match="lost after 12 pictures"):
            list(source)
        assert source.faults.reconnects == 0


def test_a_server_that_ends_after_every_few_pictures():
    """It is dialled again for as long as it gives some."""
    port = free_port()
    with server(port, 6), open_source(f"rtsp://127.0.0.1:{port}/live", tolerance=QUICK) as source:
        found = list(itertools.islice(source, 15))
    checked(source, found)
    assert source.faults.reconnects >= 2


def test_a_recording_has_an_end():
    port = free_port()
    with server(port, 12, "recording"), open_source(f"rtsp://127.0.0.1:{port}/film", tolerance=QUICK) as source:
        found = list(source)
    assert found[-1].index == 11
    assert source.faults == Faults()


def test_one_connection_where_nothing_else_is_wished():
    port = free_port()
    with server(port, 12), open_rtsp(f"rtsp://127.0.0.1:{port}/live", None, timeout=5.0) as source:
        assert list(source)[-1].index == 11


def test_another_size_when_it_is_back():
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/live"
    for size in (None, (24, 32)):
        with contextlib.ExitStack() as stack:
            with server(port, 6):
                source = stack.enter_context(open_source(url, tolerance=QUICK, size=size))
                found = list(itertools.islice(source, 3))
            with server(port, size="64x80"):
                if size is None:
                    with pytest.raises(SourceLost, match="64x80 after it was lost, 48x64 before; give a size"):
                        list(source)
                    continue
                while source.faults.reconnects == 0 or len(found) < 20:
                    found.append(next(iter(source)))
        assert {picture.pixels.shape for picture in found} == {(1, 3, 24, 32)}
        assert found[0].packets is not None
        assert found[-1].packets is None  # a worker expects the first size


def test_closing_ends_the_waiting():
    port = free_port()
    tolerance = replace(QUICK, patience=1e6, pause=1e5, longest=1e6)
    with server(port):
        source = open_source(f"rtsp://127.0.0.1:{port}/live", tolerance=tolerance)
        next(iter(source))
    while source.faults.lost == 0:
        time.sleep(0.02)
    source.close()
    assert not source._thread.is_alive()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False

    def __init__(self) -> None:
        self.waits = []


def reconnecting(paths, tolerance=None, clock=None, said=None):
    """A source that finds these files, one after another, and None where nothing answers."""
    left = iter(paths)
    clock = clock or Clock()

    def opens(before):
        path = next(left, None)
        if path is None:
            raise SourceError("can't open camera: no answer")
        return ContainerSource(f"file:{path}", "camera", before=before, container=path.suffix[1:], timeout=(9.0, 9.0))

    found = ReconnectingSource(
        opens, tolerance or Tolerance(), (said if said is not None else []).append, clock=clock, jitter=lambda: 1.0,
        wait=clock.wait,
    )  # fmt: skip
    return found, clock


def test_pauses_grow_up_to_a_limit(tmp_path):
    path, said = write_clip(tmp_path / "a.h264", pictures(7), options={"bf": "0"}), []
    source, clock = reconnecting(
        [path, None, None, None, path, *[None] * 99], Tolerance(patience=60, pause=1, longest=8), None, said
    )
    found = []
    with pytest.raises(
        SourceLost, match=r"camera: lost after 14 pictures \(the stream ended\).* in 60 s, 8 tries; .*no answer"
    ):
        found += source
    assert clock.waits[:4] == [1, 2, 4, 8]
    assert clock.waits[4:] == [8, 8, 8, 8, 8, 8, 8, 4]  # it didn't last, so it isn't trusted yet
    assert [picture.index for picture in found] == list(range(14))
    assert found[7].time - found[6].time == pytest.approx(15)
    assert source.faults == Faults(lost=2, reconnects=1, away=pytest.approx(75))
    assert [line for line in said if "back after" in line] == ["camera: back after 15.0 s, at try 4"]


def test_pauses_are_short_again_after_a_connection_that_lasted(tmp_path):
    path = write_clip(tmp_path / "a.h264", pictures(7), options={"bf": "0"})
    source, clock = reconnecting([path, None, None, path, None, path], Tolerance(pause=1, longest=8))
    for picture in itertools.islice(source, 18):
        if picture.index == 10:
            clock.now += 30
    assert clock.waits == [1, 2, 4, 1, 2]


def test_chance_spreads_the_tries():
    tolerance = Tolerance(pause=1, longest=8)
    assert tolerance.pauses(0, lambda: 0.0) == 0.5
    assert tolerance.pauses(9, lambda: 1.0) == 8
    assert tolerance.pauses(10**9, lambda: 1.0) == 8
    assert len({tolerance.pauses(2) for _ in range(20)}) > 1
    assert all(2 <= tolerance.pauses(2) <= 4 for _ in range(50))


def test_other_parameters_when_it_is_back(tmp_path, monkeypatch):
    """A camera that was started anew has other parameter sets: workers get them with the packets."""
    first = make(tmp_path / "a.flv", "-c:v", "libx264", "-g", 4, "-x264opts", "cabac=1", pictures=8)
    second = make(tmp_path / "b.flv", "-c:v", "libx264", "-g", 4, "-x264opts", "cabac=0:8x8dct=0:bframes=0", pictures=8)
    monkeypatch.setattr(ContainerSource, "finite", False)  # as if it were no file
    source, _ = reconnecting([first, second, first])
    found = list(itertools.islice(source, 24))
    expected = []
    for path in (first, second, first):
        with open_source(str(path)) as one:
            expected += [picture.pixels for picture in one]
    for picture, right in zip(found, expected, strict=True):
        assert np.array_equal(picture.pixels, right)
    checked(source, found)


def test_another_codec_when_it_is_back(tmp_path):
    first = write_clip(tmp_path / "a.h264", pictures(6), options={"bf": "0"})
    second = write_clip(tmp_path / "b.hevc", pictures(6), "libx265", {"x265-params": "log-level=none"})
    source, _ = reconnecting([first, second, first])
    found = list(itertools.islice(source, 18))
    assert [picture.packets is None for picture in found] == [False] * 6 + [True] * 6 + [False] * 6
    with open_source(str(second)) as one:
        for picture, right in zip(found[6:12], one, strict=True):
            assert np.array_equal(picture.pixels, right.pixels)
    checked(source, found[:6] + found[12:])

"""Live sources and metering. Cameras are stood in for by FFmpeg's own; RTSP is real, on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import SourceError
from cutset.video.sources import PacketDecoder, PacketHistory, Source, open_source
from cutset.video.sources.container import ContainerSource
from cutset.video.sources.live import LiveSource, open_rtsp, without_secrets
from cutset.video.sources.opening import Metered
from video.sources.clips import pictures, write_clip

PATIENCE = 20.0
LISTEN = {"rtsp_flags": "listen", "listen_timeout": "20", "analyzeduration": "100000"}


class Steps(Source):
    """Gives the pictures of another source when it is told to."""

    def __init__(self, inner: Source) -> None:
        self.name, self.size, self.rate, self.codec = "steps", inner.size, inner.rate, inner.codec
        self.inner, self.go, self.asked, self.closed = inner, threading.Semaphore(0), threading.Semaphore(0), False

    def __iter__(self):
        for picture in self.inner:
            self.asked.release()
            assert self.go.acquire(timeout=PATIENCE)
            yield picture
        self.asked.release()

    def step(self, count: int) -> None:
        """Lets `count` pictures out, and waits until they have been taken."""
        for _ in range(count):
            assert self.asked.acquire(timeout=PATIENCE)
            self.go.release()
        assert self.asked.acquire(timeout=PATIENCE)
        self.asked.release()

    def close(self) -> None:
        self.closed = True
        self.inner.close()


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3", "b_strategy": "0"}])
def test_who_is_late_misses_pictures_but_no_packets(tmp_path, options):
    path = str(write_clip(tmp_path / "clip.mp4", pictures(20), options=options))
    with open_source(path) as whole:
        expected = [picture.pixels for picture in whole]
    steps = Steps(open_source(path))
    live = LiveSource(steps, kept=2)
    found, shown = iter(live), []
    steps.step(4)  # two of these are dropped
    shown.append(next(found))
    for count in (1, 5, 3, 6):  # over the beginnings of groups, too
        steps.step(count)
        shown.append(next(found))
    steps.step(1)
    shown += [next(found), next(found)]
    with pytest.raises(StopIteration):
        next(found)
    assert shown[0].index == 2
    assert [picture.index for picture in shown] == sorted({picture.index for picture in shown})
    assert any(picture.skipped for picture in shown)
    decoder, history = PacketDecoder(live.codec), PacketHistory()
    for picture in shown:
        history.add(picture)
        pixels = decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
        assert np.array_equal(pixels, expected[picture.index])
        assert np.array_equal(pixels, picture.pixels)
    for picture in shown:
        restart = history.restart(picture.index)
        again = PacketDecoder(live.codec).decode(restart.packets, opens=True, skipped=restart.skipped)
        assert np.array_equal(again, picture.pixels)
    live.close()
    assert steps.closed


class Failing(Source):
    name, size, rate = "failing", (4, 4), None

    def __iter__(self):
        raise SourceError("the camera was unplugged")
        yield


def test_errors_of_the_thread_reach_the_reader():
    with LiveSource(Failing()) as live, pytest.raises(SourceError, match="unplugged"):
        next(iter(live))


def test_a_camera_of_ffmpegs_own():
    """A raw source, which has no packets to forward."""
    source = LiveSource(ContainerSource("testsrc=size=64x48:rate=50:duration=0.2", "test", container="lavfi"), kept=99)
    with source:
        shown = list(source)
    assert len(shown) == 10
    assert shown[0].pixels.shape == (1, 3, 48, 64)
    assert shown[0].packets is None
    assert not np.array_equal(shown[0].pixels, shown[9].pixels)


def test_a_camera_that_is_not_there():
    for text in ("camera:99", "/dev/video99"):
        with pytest.raises(SourceError, match="no camera /dev/video99"):
            open_source(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_rtsp_without_an_answer_names_no_password():
    url = f"rtsp://user:secret@127.0.0.1:{free_port()}/live?token=hidden"
    with pytest.raises(SourceError, match=r"can't open rtsp://127\.0\.0\.1") as caught:
        open_source(url)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert without_secrets("rtsp://a:b@host/x@y?z") == "rtsp://host/x@y"


def test_an_rtsp_server_that_says_nothing_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/live"
        with pytest.raises(SourceError, match="no answer in"):
            open_rtsp(url, None, timeout=0.2)


def test_rtsp_pictures_and_packets():
    """This side listens, as FFmpeg can, and a sender publishes; the way of the packets is that of any RTSP."""
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    with subprocess.Popen([sys.executable, str(Path(__file__).parent / "publish.py"), url]) as sender:
        try:
            with open_rtsp(url, None, LISTEN, timeout=PATIENCE) as source:
                found = list(source)
        finally:
            sender.terminate()
    assert found[-1].index == 11
    assert source.size == (48, 64)
    decoder = PacketDecoder(source.codec)
    for picture in found:
        pixels = decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
        assert np.array_equal(pixels, picture.pixels)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_file_is_paced_as_a_camera_would():
    clock = Clock()
    source = Metered(open_source("generated:8x8"), limit=5, rate=10, clock=clock, sleep=clock.sleep)
    times = []
    for picture in source:
        times.append(clock.now)
        clock.now += 0.25 if picture.index == 1 else 0.01  # one takes long, then it catches up
    assert times == pytest.approx([100, 100.1, 100.35, 100.36, 100.4])
    assert source.rate == 10
    assert list(source) == []


def test_senseless_meters_are_refused():
    for wrong in ({"limit": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"rate": -1.0}):
        with pytest.raises(SourceError, match="generated:8x8"):
            open_source("generated:8x8", **wrong)
    with pytest.raises(SourceError, match="rows and columns"):
        open_source("generated:8x8", size=(0, 5))

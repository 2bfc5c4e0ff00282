"""Emulated links over real ones, by a clock that the test turns: nothing here waits for time to pass."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cutset.cluster.emulation import DIRECT, EmulatedLink, Hop
from cutset.errors import FrameError, LinkClosed, LinkTimeout
from cutset.link import Limits, connect, listen

PATIENCE = 20.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def turn(self, now: float, *links: EmulatedLink) -> None:
        self.now = now
        for link in links:
            link.hop = link.hop  # wakes its thread


class Recorder:
    """A link that keeps what is sent; `fail` is raised instead, and nothing is taken while `shut`."""

    address = peer = "recorder"
    user: int | None = None

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, list[np.ndarray]]] = []
        self.fail: Exception | None = None
        self.shut = False
        self.closed = False
        self.changed = threading.Condition()

    def send(self, header, arrays=(), *, timeout=None):
        with self.changed:
            if self.fail:
                raise self.fail
            if self.shut:
                self.changed.wait(0.01)
                raise LinkTimeout("busy")
            self.frames.append((header, [np.array(a) for a in arrays]))
            self.changed.notify_all()

    def wait(self, count: int) -> list[bytes]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.frames) >= count, PATIENCE)
        return [header for header, _ in self.frames]

    def recv(self, timeout=None):
        raise LinkTimeout("nothing")

    def stay_awake(self, seconds):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def below():
    return Recorder()


@pytest.fixture
def clock():
    return Clock()


def test_frames_arrive_in_order_when_their_time_has_come(below, clock):
    link = EmulatedLink(below, Hop(1000.0, 3.0), clock=clock)
    array = np.arange(20, dtype=np.float32)
    for i in range(3):
        link.send(b"%d" % i, [array + i])
    sizes = 64 + array.nbytes  # of a frame; a second's fraction each
    array[:] = -1  # may be changed afterwards
    clock.turn(2.9, link)
    clock.turn(3 + 1.5 * sizes / 1000, link)
    assert below.wait(1) == [b"0"]
    clock.turn(3 + 2.5 * sizes / 1000, link)
    assert below.wait(2) == [b"0", b"1"]
    clock.turn(50, link)
    assert below.wait(3) == [b"0", b"1", b"2"]
    for i, (_, arrays) in enumerate(below.frames):
        assert np.array_equal(arrays[0], np.arange(20, dtype=np.float32) + i)
    link.close()
    assert below.closed


def test_a_full_queue_waits_for_the_wire(below, clock):
    link = EmulatedLink(below, Hop(1000.0), queue=2, clock=clock)
    link.send(b"0")
    link.send(b"1")
    with pytest.raises(LinkTimeout):
        link.send(b"2", timeout=0)
    sent = threading.Thread(target=link.send, args=(b"2",))
    sent.start()
    clock.turn(0.07, link)  # an empty frame has 64 bytes
    sent.join(PATIENCE)
    assert not sent.is_alive()
    clock.turn(9.0, link)
    assert below.wait(3) == [b"0", b"1", b"2"]
    link.close()


def test_a_receiver_that_takes_nothing_fills_the_queue(below, clock):
    below.shut = True
    link = EmulatedLink(below, DIRECT, queue=2, clock=clock)
    link.send(b"0")
    link.send(b"1")
    with pytest.raises(LinkTimeout):
        link.send(b"never", timeout=0.05)
    below.shut = False
    link.send(b"2", timeout=PATIENCE)
    assert below.wait(3) == [b"0", b"1", b"2"]
    link.close()


def test_a_slow_wire_gets_faster_while_it_carries(below, clock):
    link = EmulatedLink(below, Hop(1.0), clock=clock)
    link.send(b"slow")
    clock.turn(1.0, link)
    link.hop = Hop(1e6)
    clock.turn(1.1, link)
    assert below.wait(1) == [b"slow"]
    assert link.hop == Hop(1e6)
    link.close()


def test_errors_below_reach_the_next_call(below, clock):
    link = EmulatedLink(below, DIRECT, clock=clock)
    below.fail = LinkClosed("the peer is gone")
    link.send(b"lost")
    link._thread.join(PATIENCE)
    for call in (lambda: link.send(b"x"), lambda: link.reserve(b"x", [])):
        with pytest.raises(LinkClosed, match="the peer is gone"):
            call()
    link.close()


def test_what_can_not_be_sent_is_refused_at_once(below):
    link = EmulatedLink(below, DIRECT, limits=Limits(frame=2048))
    with pytest.raises(FrameError, match="limit"):
        link.send(b"", [np.zeros(4096, np.uint8)])
    with pytest.raises(FrameError):
        link.send(b"", [np.array(["text"])])
    link.close()
    with pytest.raises(LinkClosed, match="closed here"):
        link.send(b"")
    link.close()
    assert not link._thread.is_alive()


def test_closing_ends_the_thread_whatever_waits(below, clock):
    link = EmulatedLink(below, Hop(1.0, 50.0), clock=clock)
    link.send(b"never")
    link.close()
    assert not link._thread.is_alive()
    assert below.frames == []
    below.shut = True
    link = EmulatedLink(below, DIRECT)
    link.send(b"never")
    link.close()
    assert not link._thread.is_alive()


@pytest.mark.parametrize("scheme", ["inproc", "shm", "ipc"])
def test_over_real_links_both_ways(scheme, tmp_path):
    address = f"ipc://{tmp_path}/link" if scheme == "ipc" else f"{scheme}://emulated-{tmp_path.name[-20:]}"
    listener = listen(address)
    done = threading.Event()

    def echo() -> None:
        while not done.is_set():
            if (found := listener.recv(0.05)) is not None:
                peer, frame = found
                back = EmulatedLink(peer, Hop(50e6, 0.001))
                back.send(frame.header, frame.arrays)
                frame.release()
                peers.append(back)

    peers: list[EmulatedLink] = []
    thread = threading.Thread(target=echo)
    thread.start()
    try:
        link = EmulatedLink(connect(address), Hop(50e6, 0.001))
        rng = np.random.default_rng(0)
        for i in range(3):
            sent = rng.integers(0, 255, (3, 40, 50 + i), dtype=np.uint8)
            with link.reserve(b"r%d" % i, [(np.uint8, sent.shape)]) as room:
                room.arrays[0][...] = sent
                room.commit()
            frame = link.recv(PATIENCE)
            assert frame.header == b"r%d" % i
            assert np.array_equal(frame.arrays[0], sent)
            frame.release()
        link.close()
    finally:
        done.set()
        thread.join()
        for peer in peers:
            peer.close()
        listener.close()

"""What only shared memory has: files, slots, views in place."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import ConfigError, LinkClosed, LinkError, LinkTimeout
from cutset.link import Link, Listener, RingLink, RingListener, Timeouts, connect, listen, segment, shm
from cutset.link.frames import encode
from link.shm_dialling import LIMITS, QUICK, dial, until


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.fixture
def address() -> str:
    return f"shm://{uuid.uuid4().hex[:8]}"


def test_arrays_lie_in_the_ring(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    with link.reserve(b"", [(np.uint32, (100,)), (np.complex128, (3,))]) as room:
        assert room.arrays[0].ctypes.data % 64 == room.arrays[1].ctypes.data % 64 == 0
        room.arrays[0][:] = 1
        room.commit()
        found = listener.recv(1)
        assert found is not None
        room.arrays[0][:] = 2  # what nobody should do, and a liar does
    assert (found[1].arrays[0] == 2).all()
    # Views outlive the link: the memory stays mapped as long as they do.
    kept = found[1].arrays[0]
    link.close()
    listener.close()
    del link, listener, found, room
    assert (kept == 2).all()


def test_frames_may_be_released_in_any_order(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    rng, held, sent, seen = random.Random(5), [], 0, 0
    for _ in range(400):
        try:
            link.send(sent.to_bytes(4, "little"), [np.full(2000, sent)], timeout=0)
            sent += 1
        except LinkTimeout:
            assert held
        while (found := listener.recv(0)) is not None:
            assert int.from_bytes(found[1].header, "little") == seen
            held.append((seen, found[1]))
            seen += 1
        while held and (len(held) > 5 or rng.random() < 0.5):
            number, frame = held.pop(rng.randrange(len(held)))
            assert (frame.arrays[0] == number).all()
            frame.release()
    assert seen > 300
    link.close()
    listener.close()


def test_a_frame_in_pieces_that_was_given_up_is_forgotten(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    with pytest.raises(LinkTimeout):
        link.send(b"too slow", [np.ones(1 << 20, np.uint8)], timeout=0.05)
    assert listener.recv(0.05) is None
    link.send(b"small", [np.arange(5)])
    found = listener.recv(1)
    assert found is not None
    assert found[1].header == b"small"
    link.close()
    listener.close()


def test_slots_are_counted_and_used_again(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    for _ in range(3):
        links = [dial(address) for _ in range(4)]
        with pytest.raises(LinkClosed, match="as many clients"):
            dial(address)
        for link in links:
            link.close()
        for _ in range(20):
            assert listener.recv(0.01) is None
        assert len(listener.gone()) == 4
    listener.close()


def test_a_full_directory_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen(address, limits=LIMITS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(LinkError, match="no room for 0 MiB"):
            dial(address)
    dial(address).close()  # the slot was given back
    listener.close()


def test_a_system_without_fallocate(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "posix_fallocate", missing)
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    link.send(b"x", [np.arange(20_000)])
    assert until(listener, b"x")
    link.close()
    listener.close()


def test_an_older_reservation_can_t_be_sent(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    older, newer = (link.reserve(name, [(np.uint8, (size,))]) for name, size in ((b"old", 1000), (b"new", 10)))
    with pytest.raises(RuntimeError, match="another one"):
        older.commit()
    newer.commit()
    assert until(listener, b"new")
    stale = link.reserve(b"stale", [])
    link.send(b"sent")
    with pytest.raises(RuntimeError):
        stale.commit()
    assert until(listener, b"sent")
    assert listener.recv(0) is None
    link.close()
    listener.close()


def test_there_must_be_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", "/nowhere")
    with pytest.raises(ConfigError, match="CUTSET_SHM_DIR"):
        listen("shm://x")


def test_without_locks_and_futexes(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a client in an enclave: the listener takes naps, and learns of a close but not of a death."""
    listener = listen(address, limits=LIMITS, ring_files=True)
    with monkeypatch.context() as patch:
        patch.setattr(segment, "in_enclave", lambda: True)
        link = dial(address)
    for _ in range(3):
        link.send(b"x", [np.arange(1000)])
        found = listener.recv(1)
        assert found is not None
        found[0].send(b"y")
        assert link.recv().header == b"y"
        found[1].release()
    link.close()
    assert listener.recv(0.2) is None
    assert listener.gone() == [found[0]]
    listener.close()


@pytest.mark.parametrize("made", [0, segment.CONTROL_BYTES])
def test_a_client_waits_while_the_listener_begins(address: str, monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    """Its file is there, but empty or without a word yet."""
    path = segment.control_path(address[6:])
    path.write_bytes(bytes(made))
    path.chmod(0o600)
    with pytest.raises(LinkClosed, match="nobody listens"):
        connect(address, timeouts=Timeouts(connect=0.05))
    starting = threading.Timer(0.1, lambda: started.append(listen(address, limits=LIMITS)))
    started: list[Listener] = []
    starting.start()
    link = dial(address)
    link.close()
    starting.join()
    started[0].close()


def test_frames_are_released_by_one_thread_while_another_one_receives(address: str) -> None:
    """Each step of a release may be followed by one of the other thread."""
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    for name in (b"a", b"b"):
        link.send(name, [np.arange(100)])
    first, second = (listener.recv(1) for _ in range(2))
    assert first is not None
    assert second is not None
    end = first[0]
    assert isinstance(end, shm.ShmLink)
    given = end.receiver

    class Slow:
        """Gives records back, and lets the other thread try to do so at the worst moment."""

        def release(self, at: int) -> None:
            if not racing:
                racing.append(threading.Thread(target=second[1].release))
                racing[0].start()
                racing[0].join(0.2)
            given.release(at)

        def __getattr__(self, name: str) -> object:
            return getattr(given, name)

    racing: list[threading.Thread] = []
    end.receiver = Slow()
    first[1].release()
    racing[0].join()
    end.receiver = given
    for _ in range(20):  # all of the ring is free again
        link.send(b"c", [np.zeros(100_000, np.uint8)])
        found = listener.recv(1)
        assert found is not None
        found[1].release()
    link.close()
    listener.close()


def test_a_link_is_closed_while_another_thread_looks_whether_the_other_side_lives(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    link.close()
    assert not link.alive()
    listener.close()


WITHOUT_LOCKS = """
import sys, time
from cutset.link import Limits, connect, segment
segment.Locks.take = lambda self, byte: None
if sys.argv[2] == "claim":
    segment.create = lambda *_: print("there", flush=True) or time.sleep(60)
link = connect(sys.argv[1], limits=Limits(ring=1 << 18))
link.send(b"hello")
print("there", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["link", "claim"])
def test_clients_without_locks_that_are_killed_leave_nothing(
    address: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SILENCE", 1.0)
    listener = listen(address, limits=LIMITS)
    clients = [
        subprocess.Popen([sys.executable, "-c", WITHOUT_LOCKS, address, what], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "there\n"
        for _ in range(30):  # they beat: longer than a silence nothing happens to them
            listener.recv(0.05)
        if what == "link":
            assert listener.gone() == []
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    end = time.monotonic() + 20
    links: list[Link] = []
    while len(links) < 4:
        assert time.monotonic() < end, "slots are lost"
        listener.recv(0.05)
        with contextlib.suppress(LinkClosed):
            links.append(dial(address))
    for link in links:
        link.close()
    listener.close()
    assert not list(segment.directory().glob("*.ring"))


def test_links_in_shared_memory_are_ring_links_and_no_others(address: str, tmp_path: Path) -> None:
    for where in (address, f"inproc://{tmp_path.name}", f"ipc://{tmp_path}/place"):
        listener = listen(where, timeouts=QUICK, limits=LIMITS)
        link = connect(where, timeouts=QUICK, limits=LIMITS)
        assert isinstance(link, RingLink) == isinstance(listener, RingListener) == where.startswith("shm")
        link.close()
        listener.close()


def test_what_native_code_takes_from_a_ring_link_can_be_put_back(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    rings = link.rings()
    assert rings is not None
    assert rings.sender.send([frame_bytes(b"to them")], 0.0) == 1
    got = listener.recv(1)
    assert got is not None
    assert got[1].header == b"to them"
    got[1].release()
    got[0].send(b"from them")
    record = rings.receiver.recv(1.0)
    assert record is not None
    link.put_back(record)
    assert link.rings() is None  # not before it was received
    assert link.recv(1).header == b"from them"
    assert link.rings() is not None
    link.close()
    assert link.rings() is None
    listener.close()


def frame_bytes(header: bytes) -> bytes:
    parts, _ = encode(header, [], LIMITS.frame)
    return b"".join(bytes(part) for part in parts)

"""Two real processes, and the death of either."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import LinkClosed, LinkError, LinkTimeout
from cutset.link import Limits, Link, Listener, Timeouts, connect, listen, segment
from cutset.link.keys import Keys, new_keys, save_keys

QUICK = Timeouts(connect=5, send=5, recv=5)
LIMITS = Limits(ring=1 << 20)
PARTY = str(Path(__file__).parent / "party.py")


@contextlib.contextmanager
def party(role: str, address: str, *files: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, PARTY, role, address, *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


class Pair:
    """An address, and the keys and files of both sides."""

    def __init__(self, kind: str, folder: Path) -> None:
        name = uuid.uuid4().hex[:12]
        self.kind = kind
        self.address = {"shm": f"shm://{name}", "ipc": f"ipc://{folder / name}", "tcp": "tcp://127.0.0.1:0"}[kind]
        self.keys: dict[str, Keys] = {}
        self.files: dict[str, tuple[Path, Path]] = {}
        for side in ("server", "client") if kind == "tcp" else ():
            self.keys[side] = new_keys()
            self.files[side] = save_keys(self.keys[side], side, folder)

    def paths(self, own: str, other: str) -> list[Path]:
        return [self.files[own][0], self.files[other][1]] if self.files else []

    def dial(self, address: str | None = None, **changes: object) -> Link:
        keys = self.keys["client"].expecting(self.keys["server"].public) if self.keys else None
        return connect(address or self.address, **{"keys": keys, "timeouts": QUICK, "limits": LIMITS, **changes})

    def listen(self) -> Listener:
        if not self.keys:
            return listen(self.address, timeouts=QUICK)
        return listen(self.address, keys=self.keys["server"], allow={self.keys["client"].public}, timeouts=QUICK)


@pytest.fixture(params=["shm", "ipc", "tcp"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(request.param, tmp_path)


def receive_all(link: Link) -> None:
    for _ in range(100):
        link.recv(timeout=20)


def fill(link: Link, timeout: float) -> None:
    for _ in range(100):
        link.send(b"x", [np.zeros(400_000, np.uint8)], timeout=timeout)


def test_a_listener_that_is_killed_and_comes_back(pair: Pair) -> None:
    with party("echo", pair.address, *pair.paths("server", "client")) as process:
        _, address = said(process)
        link = pair.dial(address)
        for size in (10, 400_000, 3_000_000):
            data = np.arange(size, dtype=np.int16)
            link.send(b"x", [data])
            assert (link.recv().arrays[0] == data).all()
        link.send(b"y", [np.zeros(2_000_000)])
        process.kill()
        with pytest.raises(LinkClosed):
            receive_all(link)
        with pytest.raises(LinkClosed):
            link.send(b"z")
        link.close()
    if pair.kind == "tcp":
        pair.address = address
    with party("echo", pair.address, *pair.paths("server", "client")) as process:
        assert said(process)[0] == "ready"
        again = pair.dial()
        again.send(b"again")
        assert again.recv().header == b"again"
        again.close()
        assert said(process) == ["gone"]


def test_waiting_to_send_ends_when_the_listener_is_killed(pair: Pair) -> None:
    with party("echo", pair.address, *pair.paths("server", "client")) as process:
        _, address = said(process)
        link = pair.dial(address)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LinkTimeout):
            fill(link, 0.2)
        process.kill()
        with pytest.raises(LinkClosed):
            fill(link, 20)
        link.close()


def test_a_client_that_is_killed_is_gone_and_the_others_stay(pair: Pair) -> None:
    listener = pair.listen()
    pair.address = listener.address
    with party("mute", pair.address, *pair.paths("client", "server")) as process:
        ends = []
        while not ends:
            if (found := listener.recv(0.2)) is not None:
                ends.append(found[0])
                assert (found[1].arrays[0] == np.arange(10)).all()
                found[1].release()
        other = pair.dial()
        other.send(b"here")
        end, frame = listener.recv(5) or (None, None)
        assert frame is not None
        frame.release()
        assert said(process) == ["ready"]
        process.kill()
        process.wait()
        gone: list[Link] = []
        deadline = time.monotonic() + 10
        while not gone and time.monotonic() < deadline:
            listener.recv(0.1)
            gone += listener.gone()
        assert gone == ends
        with pytest.raises(LinkClosed):
            ends[0].send(b"too late", [np.zeros(100)])
        other.send(b"still")
        found = listener.recv(5)
        assert found is not None
        assert (found[0], found[1].header) == (end, b"still")
        other.close()
    listener.close()


def test_a_client_that_is_killed_in_the_middle_of_a_frame(pair: Pair) -> None:
    listener = pair.listen()
    with party("client", listener.address, *pair.paths("client", "server")) as process:
        turns = 0
        while turns < 5:
            if (found := listener.recv(0.2)) is not None:
                found[1].release()
                turns += 1
                with contextlib.suppress(LinkTimeout):
                    found[0].send(b"go", timeout=5)
        process.kill()
        process.wait()
        gone: list[Link] = []
        deadline = time.monotonic() + 10
        while not gone and time.monotonic() < deadline:
            listener.recv(0.1)
            gone += listener.gone()
        assert len(gone) == 1
    listener.close()


def test_ctrl_c_ends_a_wait_at_once(pair: Pair) -> None:
    with party("echo", pair.address, *pair.paths("server", "client")) as process:
        assert said(process)[0] == "ready"
        process.send_signal(signal.SIGINT)
        process.wait(10)


def test_nothing_is_left_in_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))
    pair = Pair("shm", tmp_path)
    with party("echo", pair.address) as process:
        assert said(process)[0] == "ready"
        link = pair.dial()
        link.send(b"x")
        assert link.recv().header == b"x"
        control = segment.control_path(pair.address[6:])
        assert set(tmp_path.iterdir()) == {control, segment.socket_path(pair.address[6:])}
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        process.kill()
    unread = pair.address  # a control file whose listener is dead
    with pytest.raises(LinkClosed, match="nobody listens"):
        connect(unread, timeouts=Timeouts(connect=0.1))
    listener = listen(unread)
    with pytest.raises(LinkClosed, match="restarted"):
        link.recv()
    link.close()
    lost = pair.dial()  # never admitted
    listener.close()
    with pytest.raises(LinkClosed):
        lost.recv(1)
    assert list(tmp_path.iterdir()) == []


def test_a_socket_file_is_for_its_owner_and_stale_ones_are_taken_over(tmp_path: Path) -> None:
    pair = Pair("ipc", tmp_path)
    path = Path(pair.address[6:])
    with party("echo", pair.address) as process:
        assert said(process)[0] == "ready"
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LinkError, match="taken"):
            listen(pair.address)
        link = pair.dial()
        link.send(b"still served")
        assert link.recv().header == b"still served"
        link.close()
        process.kill()
        process.wait()
    assert path.exists()
    listen(pair.address).close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(LinkError, match="isn't a socket"):
        listen(pair.address)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == [path.name]


def test_a_socket_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"ipc://{tmp_path}/s"
    listener = listen(address)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(LinkError, match="another user"):
        connect(address)
    listener.close()


def test_frames_of_a_client_that_died_don_t_make_a_new_one(pair: Pair) -> None:
    listener = pair.listen()
    with party("mute", listener.address, *pair.paths("client", "server")) as process:
        assert said(process) == ["ready"]
        process.kill()
        process.wait()
        gone: list[Link] = []
        seen = []
        deadline = time.monotonic() + 10
        while not gone and time.monotonic() < deadline:
            gone += listener.gone()
            if (found := listener.recv(0.1)) is not None:
                seen.append(found[0])
                found[1].release()
            elif not seen:
                break  # the frame died with its client
        assert gone == seen
        assert listener.recv(0.3) is None
        assert listener.gone() == []
    listener.close()


def flood(link: Link) -> None:
    for _ in range(10_000):
        link.send(b"more", [np.zeros(1000)])


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_who_floods_a_listener_that_is_busy_and_goes_does_not_end_it(kind: str, tmp_path: Path) -> None:
    """With heartbeats libzmq aborted here: its queue full, the connection broken, and then something to send."""
    pair = Pair(kind, tmp_path)
    with party("late", pair.address, *pair.paths("server", "client")) as process:
        _, address = said(process)
        keys = pair.keys["client"].expecting(pair.keys["server"].public) if pair.keys else None
        for sender in range(2):
            link = connect(address, keys=keys, timeouts=Timeouts(connect=10, send=0.2), limits=LIMITS)
            with pytest.raises(LinkTimeout):  # all queues are full
                flood(link)
            if sender == 0:
                time.sleep(0.3)  # what was sent is there
            link.close()
        assert said(process)[:1] == ["took"]
        assert process.wait(10) == 0

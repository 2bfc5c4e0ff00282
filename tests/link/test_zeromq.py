"""What only ZeroMQ's links have: socket files and whose they are."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cutset.errors import LinkClosed, LinkError
from cutset.link import Timeouts, connect, listen, router
from cutset.link.channel import Channel
from cutset.link.keys import new_keys
from cutset.link.router import ZmqListener
from cutset.link.sockets import Awake

QUICK = Timeouts(connect=1, send=1, recv=1)
LATER = Awake(0.5, 0.5)
OTHER = """
import os, sys
from cutset.link import listen, router
os.setuid(65534)
listener = listen(sys.argv[1])
os.chmod(sys.argv[1].removeprefix("ipc://"), 0o666)
print("ready", flush=True)
while True:
    listener.recv(0.2)
"""


def test_a_place_where_no_socket_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path in ("file/x", "nowhere/x", "file"):
        with pytest.raises(LinkError):
            listen(f"ipc://{tmp_path / path}")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as somebody else")
def test_root_doesn_t_talk_with_another_user_s_listener(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"cutset-test-{os.getpid()}")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    address = f"ipc://{folder / 'theirs'}"
    process = subprocess.Popen([sys.executable, "-c", OTHER, address], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(LinkError, match="another user"):
            connect(address, timeouts=QUICK)
    finally:
        process.kill()
        process.communicate()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_link_that_nobody_closes_is_collected(tmp_path: Path) -> None:
    """In a cycle, the collector may come to ZeroMQ's context before its sockets, and wait for them for ever."""
    address = f"ipc://{tmp_path / 'x'}"
    with contextlib.closing(listen(address)) as listener:
        link = connect(address, timeouts=QUICK)
        link.send(b"hello")
        assert listener.recv(1) is not None
        forgotten: list[object] = [link]
        forgotten.append(forgotten)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del forgotten, link
            collecting = threading.Thread(target=gc.collect, daemon=True)
            collecting.start()
            collecting.join(10)
        assert not collecting.is_alive(), "the collector waits"
        assert any("never closed" in str(warning.message) for warning in told)
        deadline = time.monotonic() + 10
        while not listener.gone() and time.monotonic() < deadline:
            listener.recv(0.05)
        assert time.monotonic() < deadline, "the connection is still there"


def test_whose_socket_it_is_is_asked_of_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file could be another one by the time that the connection is made."""
    listener = listen(f"ipc://{tmp_path / 'x'}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        patch.setattr(os, "stat", lambda *_, **__: SimpleNamespace(st_uid=12345))
        with pytest.raises(LinkError, match="another user"):
            connect(listener.address, timeouts=QUICK)
    listener.close()


def test_links_may_end_in_another_thread_while_the_listener_looks(tmp_path: Path) -> None:
    class Ending(router.ClientEnd):
        """Ends at the worst moment, as another thread's `send` can: while the listener goes through all of them."""

        def __getattribute__(self, name: str) -> object:
            if name == "fd":
                self.listener.drop(self)
            return super().__getattribute__(name)

    listener = listen(f"ipc://{tmp_path / 'x'}")
    assert isinstance(listener, router.ZmqListener)
    for number in range(3):
        end = Ending(listener, bytes([number]), -1, "somebody", "", 0)
        listener._ends[end.route] = end
    listener._cut = {1 << 20: 0.0}  # so that it looks at all of them
    listener.check()
    assert len(listener.gone()) == 3
    listener.close()


@pytest.mark.parametrize("frames", [2, 40])
def test_who_goes_on_sending_on_a_link_that_is_over_is_cut(
    frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading costs others, in tcp decrypting too. Who had a call or two on their way has the time to read the end."""
    monkeypatch.setattr(router, "PATIENCE", 3600.0)
    with (
        contextlib.closing(listen(f"ipc://{tmp_path / 'place'}", timeouts=QUICK)) as listener,
        contextlib.closing(connect(listener.address, timeouts=QUICK)) as link,
    ):
        link.send(b"hello")
        got = listener.recv(5)
        assert got is not None
        got[0].close()
        sent = 0
        with contextlib.suppress(LinkClosed):
            while sent < frames:
                link.send(b"more")
                assert listener.recv(0.2) is None
                sent += 1
        assert sent == frames if frames <= 8 else sent < 20
        with pytest.raises(LinkClosed):
            link.recv(1)


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_connection_that_breaks_is_noticed_at_once(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits needn't look now and then: here that would be every 30 s."""
    server, client = new_keys(), new_keys()
    address = f"ipc://{tmp_path}/x" if scheme == "ipc" else "tcp://127.0.0.1:0"
    listener = listen(address, keys=server, allow=[client.public])
    link = connect(listener.address, keys=client.expecting(server.public), timeouts=QUICK)
    link.send(b"hello")
    got = listener.recv(5)
    assert got is not None
    monkeypatch.setattr("cutset.link.sockets.SLICE", 30.0)
    assert isinstance(listener, ZmqListener)
    [descriptor] = [end.fd for end in listener._ends.values()]

    def cut() -> None:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    breaker = threading.Timer(0.2, cut)
    breaker.start()
    started = time.monotonic()
    with pytest.raises(LinkClosed, match="broke off"):
        link.recv(60)
    assert time.monotonic() - started < 15
    breaker.join()
    link.close()
    monkeypatch.undo()
    listener.close()


def test_whoever_knows_what_comes_gets_bytes_awake_or_asleep(tmp_path: Path) -> None:
    listener = listen(f"ipc://{tmp_path / 'bytes'}", timeouts=QUICK)
    assert isinstance(listener, ZmqListener)
    link = connect(listener.address, timeouts=QUICK)
    link.send(b"first")
    assert listener.recv(1.0) is not None
    for delay, awake in ((0.0, None), (0.01, None), (0.01, Awake(0.0, 1.0)), (0.02, Awake(0.005, 1.0)), (0.0, LATER)):
        threading.Timer(delay, link.send, (b"header", [np.frombuffer(b"array", np.uint8)])).start()
        got = listener.recv_bytes(1.0, awake)
        while got is None:
            got = listener.recv_bytes(1.0, awake)
        found = listener.decoded(*got)
        assert found is not None
        assert (found[0], found[1].header, found[1].arrays[0].tobytes()) == (got[0], b"header", b"array")
    for awake in (None, LATER, Awake(0.0, 0.002)):
        assert listener.recv_bytes(0.01, awake) is None
    assert isinstance(link, Channel)
    link.send_frame(b"no frame" * 10, timeout=1.0)
    got = listener.recv_bytes(1.0)
    assert got is not None
    assert listener.decoded(*got) is None
    assert listener.gone() == [got[0]]
    link.close()
    listener.close()

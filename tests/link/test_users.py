"""Shared memory between users, and memory that the other side tries to cut short."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cutset.errors import ConfigError, LinkClosed, LinkError
from cutset.link import Limits, Timeouts, connect, listen, segment, shm_handshake
from cutset.link.shm import ShmLink
from cutset.link.users import user_id, user_name

AS_USER = str(Path(__file__).parent / "as_user.py")
LIMITS = Limits(ring=1 << 20)
SHORT = Timeouts(connect=2, send=5, recv=5)
NOBODY, SOMEBODY = 65534, 12345
PROMPT = ("generate", "story", "--prompt", "One day", "--max-tokens", "12", "--threads", "1")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")


@pytest.fixture(autouse=True)
def _shared_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Like /dev/shm: everybody may make files there, and remove their own."""
    folder = tempfile.mkdtemp(dir="/dev/shm")
    os.chmod(folder, 0o1777)
    monkeypatch.setenv("CUTSET_SHM_DIR", folder)
    yield
    shutil.rmtree(folder)


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex[:8]


@contextlib.contextmanager
def running(*words: object, until: str = "ready") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, AS_USER, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if until in line:
                break
        else:
            raise AssertionError("".join(said))
        yield process
    finally:
        process.kill()
        process.communicate()


def as_user(*words: object) -> str:
    command = [sys.executable, AS_USER, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@root
def test_an_accelerator_of_another_user_answers_and_can_t_read_the_client(name: str) -> None:
    with running(NOBODY, "echo", f"shm://{name}", os.geteuid()):
        with pytest.raises(LinkError, match=f"belongs to the user {user_name(NOBODY)}"):
            connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
        for address, any_user in ((f"shm://{NOBODY}@{name}", False), (f"shm://{name}", True)):
            link = connect(address, any_user=any_user, timeouts=SHORT, limits=LIMITS)
            assert isinstance(link, ShmLink)
            assert link.user == NOBODY
            for size in (10, 300_000):  # in place, and in pieces
                data = np.arange(size)
                link.send(b"x", [data])
                assert (link.recv().arrays[0] == data).all()
            link.send(str(os.getpid()).encode())
            assert link.recv().header == b"refused refused refused"
            link.close()
        with pytest.raises(LinkError, match=f"belongs to the user {user_name(NOBODY)}"):
            connect(f"shm://{SOMEBODY}@{name}", any_user=True, timeouts=SHORT, limits=LIMITS)


@root
def test_a_user_who_isn_t_allowed_is_refused(name: str) -> None:
    listener = listen(f"shm://{name}", limits=LIMITS)
    assert as_user(SOMEBODY, "reach", f"shm://0@{name}").startswith("LinkError: ")
    listener.close()
    listener = listen(f"shm://{name}", limits=LIMITS, users=[os.geteuid(), NOBODY])
    refused = as_user(SOMEBODY, "reach", f"shm://{name}")
    assert (
        refused
        == f"LinkError: shm://{name}: user {SOMEBODY} may not connect here: start the other side with --allow-user"
    )
    connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS).close()
    listener.close()


@root
def test_two_users_neither_of_whom_is_root(name: str) -> None:
    with running(NOBODY, "echo", f"shm://{name}", SOMEBODY):
        assert as_user(SOMEBODY, "reach", f"shm://{NOBODY}@{name}") == "hello"
        assert "may not connect here" in as_user(NOBODY, "reach", f"shm://{name}")


@root
def test_generate_through_an_accelerator_of_another_user(name: str) -> None:
    def generate(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cutset", *PROMPT, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    here = generate("--mode", "local")
    words = ("cutset", "accelerator", "story", "--listen", f"shm://{name}", "--threads", "1", "--allow-user")
    with running(NOBODY, *words, user_name(os.geteuid()), until="listening"):
        there = generate("--offload", f"shm://{name}")
        assert there.returncode == 0, there.stderr
        assert there.stdout == here.stdout
        assert "hides nothing" not in there.stderr
        named = generate("--offload", f"shm://{user_name(NOBODY)}@{name}", "--mode", "plain")
        assert named.stdout == here.stdout
        for mode in ("plain", "verified", "masked"):
            refused = generate("--offload", f"shm://{name}", "--mode", mode)
            assert refused.returncode == 2
            assert f"belongs to the user {user_name(NOBODY)}" in refused.stderr


def test_the_user_is_warned_when_both_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-m", "cutset"]
    options = ["--listen", f"shm://{name}", "--threads", "1"]
    process = subprocess.Popen([*words, "accelerator", "story", *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert any("listening" in line for line in process.stderr)
        for mode in ("masked+verified", "masked", "plain"):
            command = [*words, *PROMPT, "--offload", f"shm://{name}", "--mode", mode]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            warned = [line for line in done.stderr.splitlines() if "hides nothing" in line]
            assert len(warned) == (mode != "plain")
            assert all(line.startswith("cutset: warning: ") for line in warned)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("text", ["nobody-has-this-name", "4294967295", "-1", "", "a\0b", "\udc80"])
def test_who_isn_t_a_user(text: str) -> None:
    with pytest.raises(ConfigError, match="is no user of this machine"):
        user_id(text)


@pytest.mark.parametrize("address", ["shm://a@b@c", "shm://@x", "shm://x@", "inproc://a@b", "shm://a b@c"])
def test_addresses_that_can_t_be(address: str) -> None:
    with pytest.raises(ConfigError):
        connect(address)


def test_other_users_are_a_matter_of_shared_memory(tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:0", f"ipc://{tmp_path}/x", "inproc://users"):
        with pytest.raises(ConfigError, match="matters of shared memory"):
            listen(address, users=[1])
    with pytest.raises(ConfigError, match="allow no others"):
        listen("shm://files", users=[NOBODY], ring_files=True)
    with pytest.raises(ConfigError, match="names no user"):
        listen("shm://root@x")


def descriptors_of_memory() -> list[int]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "memfd:cutset" in os.readlink(f"/proc/self/fd/{entry}"):
                found.append(int(entry))
    return found


def test_nobody_can_cut_the_memory_short(name: str) -> None:
    """Neither side: reading beyond the end would end the other one by a signal."""
    before = set(descriptors_of_memory())
    listener = listen(f"shm://{name}", limits=LIMITS)
    link = connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
    link.send(b"x")
    assert listener.recv(1) is not None
    found = set(descriptors_of_memory()) - before
    assert len(found) >= 2  # the listener's memory and the client's
    for descriptor in found:
        for size in (0, 4096, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    for path in segment.directory().iterdir():  # nothing of a link depends on a file's bytes
        if path.is_file():
            os.truncate(path, 0)
    link.send(b"y", [np.arange(1000)])
    end = listener.recv(1)
    assert end is not None
    end[0].send(b"z")
    assert link.recv(1).header == b"z"
    link.close()
    listener.close()


def memory(size: int, seals: int | None, flags: int = 0) -> int:
    descriptor = os.memfd_create("liar", os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(descriptor, size)
    if seals is not None:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


SIZE = segment.ring_bytes(1 << 20, 1 << 20)
WHOLE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
OFFERS = {
    "no seals": lambda: memory(SIZE, None),
    "may shrink": lambda: memory(SIZE, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL),
    "may grow": lambda: memory(SIZE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL),
    "seals may come": lambda: memory(SIZE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW),
    "not to be written": lambda: memory(SIZE, WHOLE | fcntl.F_SEAL_WRITE),
    "too short": lambda: memory(SIZE - segment.PAGE, WHOLE),
    "empty": lambda: memory(0, WHOLE),
    "too long": lambda: memory(SIZE + segment.PAGE, WHOLE),
    "a file": lambda: os.open(tempfile.mkstemp(dir=segment.directory())[1], os.O_RDWR),
    "a pipe": lambda: os.pipe()[0],
    "a folder": lambda: os.open("/", os.O_RDONLY),
    "a socket": lambda: socket.socket().detach(),
}


@pytest.mark.parametrize("what", OFFERS)
def test_memory_that_could_end_the_listener_is_refused(name: str, what: str) -> None:
    listener = listen(f"shm://{name}", limits=LIMITS)
    descriptor = OFFERS[what]()
    with caller(name) as connection:
        offer = shm_handshake.Packet(shm_handshake.OFFER, 0, (1 << 20, 1 << 20), descriptor=descriptor)
        shm_handshake.send(connection, offer)
        with pytest.raises(LinkError, match=r"isn't sealed|wrong size|can't be mapped|handshake failed"):
            shm_handshake.receive(connection, shm_handshake.ACCEPTED)
    os.close(descriptor)
    connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS).close()
    listener.close()


@contextlib.contextmanager
def caller(name: str) -> Iterator[socket.socket]:
    """A client that was greeted, and may say what it likes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(5)
        connection.connect(str(segment.socket_path(name)))
        welcome = shm_handshake.receive(connection, shm_handshake.WELCOME)
        assert welcome is not None
        os.close(welcome.descriptor)
        yield connection


def test_huge_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of these may be missing when it is touched."""
    descriptor = memory(SIZE, WHOLE)
    real = os.fstatvfs

    class Huge:
        f_bsize = 2 << 20

    monkeypatch.setattr(os, "fstatvfs", lambda _: Huge)
    with pytest.raises(LinkError, match="isn't sealed"):
        segment.map_sealed(descriptor, SIZE)
    monkeypatch.setattr(os, "fstatvfs", real)
    segment.map_sealed(descriptor, SIZE).close()
    os.close(descriptor)


def test_nonsense_in_the_handshake_costs_its_sender_alone(name: str) -> None:
    listener = listen(f"shm://{name}", limits=LIMITS)
    good = memory(SIZE, WHOLE)
    head = shm_handshake.HEAD
    said = [
        b"",
        b"x",
        b"\xff" * head.size,
        bytes(4096),
        head.pack(shm_handshake.MAGIC, shm_handshake.OFFER, 0, 1 << 20, 1 << 20),  # without memory
        head.pack(shm_handshake.MAGIC, shm_handshake.ACCEPTED, 0, 0, 0),
        head.pack(shm_handshake.MAGIC, shm_handshake.REFUSED, 0, 0, 0) + "\x1b[31m\u202e".encode(),
        head.pack(b"cutsetH9", shm_handshake.OFFER, 0, 1 << 20, 1 << 20),
    ]
    for text in said:
        with caller(name) as connection:
            connection.send(text or b"\0")
            with contextlib.suppress(LinkError, ConnectionError):
                assert shm_handshake.receive(connection, shm_handshake.ACCEPTED) is None
    for sizes in ((0, 0), (1 << 63, 1 << 63), ((1 << 64) - 4096, 8192), (100, 100), (1 << 40, 1 << 20)):
        with caller(name) as connection:
            shm_handshake.send(connection, shm_handshake.Packet(shm_handshake.OFFER, 0, sizes, descriptor=good))
            with pytest.raises(LinkError, match="a size that isn't allowed"):
                shm_handshake.receive(connection, shm_handshake.ACCEPTED)
    with caller(name) as connection:  # many descriptors where one is due
        offer = head.pack(shm_handshake.MAGIC, shm_handshake.OFFER, 0, 1 << 20, 1 << 20)
        socket.send_fds(connection, [offer], [good] * 50)
        with pytest.raises(LinkError, match="isn't a handshake"):
            shm_handshake.receive(connection, shm_handshake.ACCEPTED)
    os.close(good)
    # Many in the middle of a handshake keep nobody out.
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(caller(name))
        link = connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
        link.send(b"here")
        found = listener.recv(2)
        assert found is not None
        assert found[1].header == b"here"
        link.close()
    listener.close()


def test_descriptors_that_were_refused_are_closed(name: str) -> None:
    listener = listen(f"shm://{name}", limits=LIMITS)
    good = memory(SIZE, None)

    def turn() -> None:
        with caller(name) as connection:
            shm_handshake.send(
                connection, shm_handshake.Packet(shm_handshake.OFFER, 0, (1 << 20, 1 << 20), descriptor=good)
            )
            with pytest.raises(LinkError):
                shm_handshake.receive(connection, shm_handshake.ACCEPTED)

    turn()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        turn()
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before
    os.close(good)
    listener.close()


@pytest.mark.parametrize("what", ["no seals", "may shrink", "too short", "a file"])
def test_a_listener_s_memory_that_could_end_the_client_is_refused(name: str, what: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(segment.socket_path(name)))
        listening.listen()

        def lie() -> None:
            connection, _ = listening.accept()
            descriptor = OFFERS[what]()
            with connection:
                shm_handshake.send(
                    connection, shm_handshake.Packet(shm_handshake.WELCOME, 0, (1, 0), descriptor=descriptor)
                )
            os.close(descriptor)

        thread = threading.Thread(target=lie)
        thread.start()
        with pytest.raises(LinkError, match=r"isn't sealed|wrong size"):
            connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
        thread.join()


def test_a_listener_that_says_nothing_is_given_up(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(segment.socket_path(name)))
        listening.listen()
        with pytest.raises(LinkClosed, match="doesn't answer"):
            connect(f"shm://{name}", timeouts=Timeouts(connect=0.3))


def test_a_client_that_is_killed_frees_its_slot(name: str) -> None:
    """Whatever it can or can't do with locks: the connection ends with it."""
    listener = listen(f"shm://{name}", limits=Limits(ring=1 << 20, clients=1))
    child = os.fork()
    if child == 0:
        connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not listener.gone():
        listener.recv(0.05)
    connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS).close()
    listener.close()


def test_clients_that_were_killed_just_now_count_for_nothing(name: str) -> None:
    """Their user comes back at once, before the listener has looked who lives."""
    listener = listen(f"shm://{name}", limits=Limits(ring=1 << 20, clients=32, each=2))
    kept = connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
    for _ in range(10):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(LinkError):
                connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
                os.kill(os.getpid(), 9)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 9
    one = connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
    with pytest.raises(LinkClosed, match="as many clients as it may, 2"):
        connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
    for link in (kept, one, listener):
        link.close()


def test_a_path_that_is_longer_than_a_socket_s(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("CUTSET_SHM_DIR", str(deep))
    listener = listen(f"shm://{name}", limits=LIMITS)
    connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS).close()
    listener.close()
    assert list(deep.iterdir()) == []


def test_a_full_memory_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen(f"shm://{name}", limits=LIMITS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(LinkError, match="no room for"):
            connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS)
    connect(f"shm://{name}", timeouts=SHORT, limits=LIMITS).close()
    listener.close()
    assert mmap.PAGESIZE == segment.PAGE

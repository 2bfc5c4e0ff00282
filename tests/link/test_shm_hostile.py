"""Shared memory in which a liar writes: odd files, garbage in rings and control words, pieces without end."""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.errors import FrameError, LinkClosed, LinkError, LinkTimeout
from cutset.link import Limits, Timeouts, connect, listen, segment, shm
from cutset.link import shm_listener as listener_module
from link.shm_dialling import LIMITS, dial, until


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.fixture
def address() -> str:
    return f"shm://{uuid.uuid4().hex[:8]}"


def test_a_ring_that_is_larger_than_allowed_is_refused(address: str) -> None:
    listener = listen(address, limits=Limits(max_ring=1 << 16))
    with pytest.raises(LinkError, match="a size that isn't allowed"):
        dial(address)
    listener.close()


@pytest.mark.parametrize("what", ["a link", "open to others", "another size", "a directory"])
def test_odd_files_are_refused(address: str, tmp_path: Path, what: str) -> None:
    path = segment.control_path(address[6:])
    if what == "a link":
        (tmp_path / "precious").write_bytes(b"x")
        path.symlink_to(tmp_path / "precious")
    elif what == "a directory":
        path.mkdir()
    else:
        path.write_bytes(b"x" * (10 if what == "another size" else segment.CONTROL_BYTES))
        path.chmod(0o600 if what == "another size" else 0o666)
    with pytest.raises(LinkError):
        connect(address, timeouts=Timeouts(connect=0.1))
    if what == "another size":
        listen(address).close()
    else:
        with pytest.raises(LinkError):
            listen(address)
    if what == "a link":
        assert (tmp_path / "precious").read_bytes() == b"x"


def test_garbage_in_the_rings_is_an_error_or_a_closed_link(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    rng = random.Random(1)
    good = dial(address)
    for turn in range(60):
        bad = dial(address)
        bad.send(bytes([turn]), [np.arange(100)])
        end = until(listener, bytes([turn]))
        end.send(b"reply", [np.arange(50)])
        bad.send(b"more", [np.arange(50)])
        memory = bad._memory
        spots = [
            0,
            64,
            256,
            segment.PAGE + LIMITS.ring,
            segment.PAGE + LIMITS.ring + 64,
            segment.PAGE + LIMITS.ring + 256,
        ]
        for _ in range(1 + turn % 3):
            at = rng.choice(spots) + 8 * rng.randrange(8)
            memory[at : at + 8] = rng.choice([rng.randbytes(8), bytes(8), b"\xff" * 8, b"\x40" + bytes(7)])
        for action in ("receive", "reply", "send"):
            with contextlib.suppress(LinkClosed, LinkTimeout, FrameError):
                if action == "receive":
                    bad.recv(0)
                else:
                    (bad if action == "send" else end).send(b"x", timeout=0)
        listener.recv(0)
        bad.close()
        good.send(b"fine")
        until(listener, b"fine")
    listener.close()


def test_garbage_in_the_control_memory_is_an_error_or_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client can write there: a newcomer is let in whatever stands in it."""
    monkeypatch.setattr(listener_module, "LOOK", 0.0)
    listener = listen(address, limits=LIMITS)
    assert isinstance(listener, listener_module.ShmListener)
    rng, control = random.Random(3), listener._control
    for _ in range(100):
        for at in (0, 8, 16, 64, 128, 256, 260, 320):
            control[at : at + 8] = rng.choice([rng.randbytes(8), bytes(8), b"\xff" * 8])
        assert listener.recv(0.001) is None
        listener.gone()
    control[:8] = segment.MAGIC.to_bytes(8, "little")
    link = dial(address)
    control[segment.JOINS : segment.JOINS + 4] = bytes(4)
    link.send(b"fine")
    until(listener, b"fine")
    link.close()
    listener.close()


def test_garbage_in_the_control_file_is_an_error_or_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "LOOK", 0.0)
    monkeypatch.setattr(segment, "in_enclave", lambda: True)
    listener = listen(address, limits=LIMITS, ring_files=True)
    rng = random.Random(2)
    path = segment.control_path(address[6:])
    for _ in range(100):
        with path.open("r+b") as file:
            for _ in range(4):
                file.seek(segment.FIRST_SLOT + rng.randrange(4) * segment.SLOT + 8 * rng.randrange(5))
                file.write(rng.choice([rng.randbytes(8), bytes(8), b"\x02" + bytes(7), b"\xff" * 8]))
            file.seek(segment.JOINS)
            file.write(rng.randbytes(4))
        assert listener.recv(0.001) is None
        listener.gone()
    with path.open("r+b") as file:
        file.seek(segment.FIRST_SLOT)
        file.write(bytes(segment.SLOT * 4))
    link = dial(address)
    link.send(b"fine")
    assert (listener.recv(1) or (None, None))[1] is not None
    link.close()
    listener.close()


class Pieces:
    """A ring in which there is always the beginning of a large frame, however often one is taken out."""

    def __init__(self, slot: int | None = None) -> None:
        self.slot, self.until = slot, time.monotonic() + 5

    def recv(self, _: float) -> Any:
        assert time.monotonic() < self.until, "it receives for ever"
        record = (shm.FIRST, 0, 8, 1 << 20, 64)
        return record if self.slot is None else (self.slot, record)

    def release(self, *_: int) -> None:
        pass

    close = remove = release


def test_pieces_without_end_are_a_timeout(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    link.receiver = Pieces()
    with pytest.raises(LinkTimeout):
        link.recv(0.05)
    link.close()
    listener.close()


def test_a_listener_returns_in_time_whatever_pieces_come(address: str) -> None:
    listener = listen(address, limits=LIMITS)
    link = dial(address)
    link.send(b"here")
    end = until(listener, b"here")
    assert isinstance(end, shm.ShmLink)
    assert isinstance(listener, listener_module.ShmListener)
    end.receiver, listener._poller = Pieces(), Pieces(slot=0)
    assert listener.recv(0.05) is None
    listener.close()

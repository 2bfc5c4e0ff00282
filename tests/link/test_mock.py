"""What a receiver makes of each fault: the frame, an error, or a timeout, and never something else."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from cutset.errors import FrameError, LinkClosed, LinkTimeout
from cutset.link import Listener, Timeouts, connect, listen
from link.mock import MockLink

QUICK = Timeouts(connect=1, send=0.2, recv=0.2)


@pytest.fixture
def listener() -> Listener:
    return listen(f"inproc://{uuid.uuid4().hex[:8]}", timeouts=QUICK)


def dial(listener: Listener, *faults: str, seed: int = 0) -> MockLink:
    return MockLink(connect(listener.address, timeouts=QUICK), faults, seed)


def headers(listener: Listener) -> list[bytes]:
    found = []
    while (pair := listener.recv(0.05)) is not None:
        found.append(pair[1].header)
    return found


def test_a_dropped_frame_is_a_timeout(listener: Listener) -> None:
    link = dial(listener, "", "drop", "")
    for name in (b"a", b"b", b"c"):
        link.send(name)
    assert headers(listener) == [b"a", b"c"]
    with pytest.raises(LinkTimeout):
        link.recv(0.05)


def test_a_delayed_frame_comes(listener: Listener) -> None:
    link = dial(listener, "delay")
    link.send(b"a", [np.arange(3)])
    assert headers(listener) == [b"a"]


def test_a_duplicated_frame_comes_twice(listener: Listener) -> None:
    """Links in use don't do that; what carries masks must still notice it by its own numbers."""
    link = dial(listener, "duplicate")
    link.send(b"a")
    assert headers(listener) == [b"a", b"a"]


@pytest.mark.parametrize("seed", range(8))
def test_a_truncated_frame_ends_the_link(listener: Listener, seed: int) -> None:
    link = dial(listener, "truncate", seed=seed)
    link.send(b"a", [np.arange(30)])
    assert headers(listener) == []
    assert len(listener.gone()) == 1
    with pytest.raises(LinkClosed):
        link.send(b"b")


@pytest.mark.parametrize("seed", range(40))
def test_a_corrupted_frame_is_a_frame_of_the_same_size_or_ends_the_link(listener: Listener, seed: int) -> None:
    link = dial(listener, "corrupt", seed=seed)
    link.send(b"abc", [np.arange(8, dtype=np.int16)])
    found = listener.recv(0.01)
    if found is None:
        assert len(listener.gone()) == 1
    else:
        assert sum(array.nbytes for array in found[1].arrays) <= 16 + 64
        assert len(found[1].header) <= 64


def test_a_client_sees_a_damaged_reply_as_an_error(listener: Listener) -> None:
    link = dial(listener, "")
    link.send(b"a")
    end = listener.recv(1)
    assert end is not None
    MockLink(end[0], ["truncate"]).send(b"reply", [np.arange(100)])
    with pytest.raises(FrameError):
        link.recv()

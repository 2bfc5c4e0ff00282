"""Links in shared memory as these tests make them: short waits, small rings."""

from __future__ import annotations

from cutset.link import Limits, Link, Listener, Timeouts, connect, shm

QUICK = Timeouts(connect=1, send=2, recv=2)
LIMITS = Limits(ring=1 << 18, clients=4)


def dial(address: str) -> shm.ShmLink:
    link = connect(address, timeouts=QUICK, limits=LIMITS)
    assert isinstance(link, shm.ShmLink)
    return link


def until(listener: Listener, header: bytes) -> Link:
    """The client whose frame has this header; others are passed over."""
    while True:
        found = listener.recv(1)
        assert found is not None
        found[1].release()
        if found[1].header == header:
            return found[0]

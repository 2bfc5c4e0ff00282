"""Links: two-way channels between parties, over which frames go. docs/protocol.md describes all of it.

`connect` and `listen` take an address: `inproc://NAME`, `shm://NAME`, `ipc://PATH` or `tcp://HOST:PORT`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cutset.link.addresses import Address, parse_address
from cutset.link.frames import Frame
from cutset.link.interface import Link, Listener, Reservation
from cutset.link.limits import Limits, Timeouts

if TYPE_CHECKING:
    from cutset.link.keys import Keys

__all__ = [
    "Address",
    "Frame",
    "Limits",
    "Link",
    "Listener",
    "Reservation",
    "Timeouts",
    "connect",
    "listen",
    "parse_address",
]

DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_LIMITS = Limits()


def connect(
    address: str, *, keys: Keys | None = None, timeouts: Timeouts = DEFAULT_TIMEOUTS, limits: Limits = DEFAULT_LIMITS
) -> Link:
    """A link to the listener at `address`; waits up to `timeouts.connect` for one to be there.

    tcp needs `keys`: the client's own pair with the server's public key (`Keys.expecting`). Raises LinkClosed when
    nobody answers, LinkError when the other side refuses, ConfigError for a bad address or missing keys.
    """
    where = parse_address(address)
    if where.scheme == "inproc":
        from cutset.link import inproc

        return inproc.connect(address, timeouts, limits)
    if where.scheme == "shm":
        from cutset.link import shm_client as shm

        return shm.connect(where, timeouts, limits)
    from cutset.link import dealer

    return dealer.connect(where, keys, timeouts, limits)


def listen(
    address: str,
    *,
    keys: Keys | None = None,
    allow: Collection[bytes] | None = None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    limits: Limits = DEFAULT_LIMITS,
) -> Listener:
    """Listens at `address`. tcp needs `keys`, the server's own pair, and `allow`, the public keys that may connect.

    Raises LinkError when the address is taken, ConfigError for a bad address or missing keys.
    """
    where = parse_address(address)
    if where.scheme == "inproc":
        from cutset.link import inproc

        return inproc.listen(address, timeouts, limits)
    if where.scheme == "shm":
        from cutset.link import shm_listener as shm

        return shm.listen(where, timeouts, limits)
    from cutset.link import router

    return router.listen(where, keys, allow, timeouts, limits)

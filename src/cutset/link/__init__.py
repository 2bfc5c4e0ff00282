"""Links: two-way channels between parties, over which frames go. docs/protocol.md describes all of it.

`connect` and `listen` take an address: `inproc://NAME`, `shm://NAME`, `ipc://PATH` or `tcp://HOST:PORT`; `connect` also
`shm://USER@NAME`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cutset.errors import ConfigError
from cutset.link.addresses import Address, parse_address
from cutset.link.frames import Frame
from cutset.link.interface import Link, Listener, Record, Reservation, RingLink, RingListener, Rings
from cutset.link.limits import Limits, Timeouts

if TYPE_CHECKING:
    from cutset.link.keys import Keys

__all__ = [
    "Address",
    "Frame",
    "Limits",
    "Link",
    "Listener",
    "Record",
    "Reservation",
    "RingLink",
    "RingListener",
    "Rings",
    "Timeouts",
    "connect",
    "listen",
    "parse_address",
]

DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_LIMITS = Limits()


def connect(
    address: str,
    *,
    keys: Keys | None = None,
    any_user: bool = False,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    limits: Limits = DEFAULT_LIMITS,
) -> Link:
    """A link to the listener at `address`; waits up to `timeouts.connect` for one to be there.

    tcp needs `keys`: the client's own pair with the server's public key (`Keys.expecting`). In shared memory the other
    side must run as this process's user, as root, or as the one whom the address names (shm://USER@NAME), unless it may
    be `any_user`. Raises LinkClosed when nobody answers or the other side refuses, LinkError for a listener of somebody
    else, ConfigError for a bad address or missing keys.
    """
    where = parse_address(address)
    if where.scheme == "inproc":
        from cutset.link import inproc

        return inproc.connect(address, timeouts, limits)
    if where.scheme == "shm":
        from cutset.link import shm_client as shm

        return shm.connect(where, timeouts, limits, any_user)
    from cutset.link import dealer

    return dealer.connect(where, keys, timeouts, limits)


def listen(
    address: str,
    *,
    keys: Keys | None = None,
    allow: Collection[bytes] | None = None,
    users: Collection[int] = (),
    ring_files: bool = False,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    limits: Limits = DEFAULT_LIMITS,
) -> Listener:
    """Listens at `address`. tcp needs `keys`, the server's own pair, and `allow`, the public keys that may connect.

    In shared memory `users` may connect, by their ids; where nobody is named, this process's own user alone. With
    `ring_files` clients in an enclave connect, and no others: these can't be handed memory.

    Raises LinkError when the address is taken, ConfigError for a bad address or missing keys.
    """
    where = parse_address(address)
    if where.scheme != "shm" and (users or ring_files):
        raise ConfigError(f"{where}: other users and ring files are matters of shared memory: listen at shm://NAME")
    if where.scheme == "inproc":
        from cutset.link import inproc

        return inproc.listen(address, timeouts, limits)
    if where.scheme == "shm":
        from cutset.link import shm_listener as shm

        return shm.listen(where, timeouts, limits, users, ring_files)
    from cutset.link import router

    return router.listen(where, keys, allow, timeouts, limits)

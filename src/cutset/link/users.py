"""Users of this machine: by name or number, and as the system says who is at the other end of a socket."""

from __future__ import annotations

import os
import re
import socket
import struct
from dataclasses import dataclass

from cutset.errors import ConfigError

__all__ = ["USER", "Credentials", "credentials", "user_id", "user_name"]

USER = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
MOST = (1 << 32) - 2  # 2^32 - 1 stands for "no user"
PEER = struct.Struct("iII")  # process, user and group


@dataclass(frozen=True, slots=True)
class Credentials:
    """Ids of a process and of the user it runs as."""

    process: int
    user: int


def credentials(connection: socket.socket) -> Credentials:
    """Who opened, or listened at, the other end of a Unix socket. Raises OSError."""
    process, user, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    return Credentials(process, user)


def user_id(text: str) -> int:
    """The id that a name or a number means. Raises ConfigError for a user who isn't there."""
    import pwd

    if re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= MOST:
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):  # a ValueError: a zero byte, or what isn't text
        raise ConfigError(f"{text!r} is no user of this machine: give a name or the number of one") from None


def user_name(user: int) -> str:
    """The user's name, or its number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def own() -> int:
    """The user id that this process runs as."""
    return os.geteuid()

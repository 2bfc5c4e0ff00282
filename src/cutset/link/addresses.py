"""Addresses of links: `inproc://NAME`, `shm://NAME`, `shm://USER@NAME`, `ipc://PATH`, `tcp://HOST:PORT`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cutset.config import did_you_mean
from cutset.errors import ConfigError
from cutset.link.users import USER

__all__ = ["HOST_NAME", "NAME", "SCHEMES", "Address", "parse_address"]

SCHEMES = ("inproc", "shm", "ipc", "tcp")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OF_USER = re.compile(rf"({USER})@(.*)")
# The name of a host, by labels as IDNA has them: of others Python raises a UnicodeError wherever they are looked up.
HOST_NAME = r"(?=[A-Za-z0-9._-]{1,253}(?![A-Za-z0-9._-]))[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
HOST = re.compile(rf"{HOST_NAME}|\[[0-9A-Fa-f:.%a-z]{{2,60}}\]|\*")
MAX_PATH = 100  # a Unix socket's path has 108 bytes, with its end


@dataclass(frozen=True, slots=True)
class Address:
    """`place` is the name, the path or HOST:PORT; `user` the one who must listen there, by name or number, "" where the
    address doesn't say."""

    scheme: str
    place: str
    user: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.user}{'@' if self.user else ''}{self.place}"


def parse_address(text: str) -> Address:
    """Raises ConfigError for what isn't an address."""
    scheme, found, place = text.partition("://")
    if not found:
        raise ConfigError(f"{text!r} is not an address: write shm://NAME, ipc://PATH or tcp://HOST:PORT")
    if scheme not in SCHEMES:
        raise ConfigError(f"{text!r}: {scheme!r} is not a kind of link{did_you_mean(scheme, SCHEMES)}")
    user = ""
    if scheme == "shm" and (named := OF_USER.fullmatch(place)):
        user, place = named.groups()
    if scheme in ("inproc", "shm") and not NAME.fullmatch(place):
        raise ConfigError(
            f"{text!r}: a name is up to 64 letters, digits, '.', '_' or '-', and starts with none of these"
        )
    if scheme == "ipc" and (not place or place[0] == "@" or "\0" in place or not _fits(place)):
        raise ConfigError(f"{text!r}: the path of a socket file has 1 to {MAX_PATH} bytes of UTF-8")
    if scheme == "tcp":
        host, _, port = place.rpartition(":")
        if not HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ConfigError(f"{text!r}: write tcp://HOST:PORT, with a port of up to 65535")
    return Address(scheme, place, user)


def _fits(path: str) -> bool:
    try:
        return len(path.encode()) <= MAX_PATH
    except UnicodeEncodeError:  # bytes of a command line that aren't text
        return False

"""The key pair of a party that is started as a child of this process and listens on tcp: made for this one start."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from cutset.link.addresses import parse_address
from cutset.link.keys import new_keys, save_keys

__all__ = ["LISTENING", "PartyKeys", "tcp_address"]

LISTENING = r"listening on (tcp://\S+?)[,:] "  # what a party says once it has read its keys
NAME = "party"  # the pair's name in its directory


def tcp_address(host: str, port: int = 0) -> str:
    """The address of a port at a node. Raises ConfigError for what is no host."""
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return str(parse_address(f"tcp://{host}:{port}"))


class PartyKeys:
    """Writes the pair, and the public keys of those who may connect, into `folder`, a new directory (0700). `words` are
    the flags by which the party listens at the `host` and finds them; `secret` is the pair's file. Raises
    ConfigError."""

    def __init__(self, folder: Path, allowed: Iterable[bytes], host: str = "127.0.0.1") -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        pair = new_keys()
        self.public = pair.public
        self.secret, self._public_file = save_keys(pair, NAME, folder)
        allow = folder / "allowed"
        allow.write_text("".join(f"{key.hex()}\n" for key in allowed))
        self.words = ["--listen", tcp_address(host), "--key", str(self.secret), "--allow", str(allow)]

    def forget(self) -> None:
        """The party has read its pair: the files are taken away, and only the party has it."""
        for path in (self.secret, self._public_file):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """The party has ended: nothing stays."""
        shutil.rmtree(self.folder, ignore_errors=True)

"""CURVE key pairs: who may talk over tcp. A key is 32 bytes, written in hexadecimal.

NAME.key holds a pair and is for its owner's eyes only; NAME.pub holds the public key and may go anywhere. A list of
those that may connect is a file with a public key in each line, or a directory of .pub files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.config import read_bounded
from cutset.errors import ConfigError, LinkError
from cutset.link.addresses import parse_address

__all__ = [
    "Keys",
    "dialling_keys",
    "key_allowed",
    "listening_keys",
    "load_allowed",
    "load_keys",
    "load_public",
    "new_keys",
    "read_allowed",
    "read_key_file",
    "read_pair",
    "save_keys",
]

MAX_BYTES = 1 << 20
MAX_FILES = 4096
HEX = re.compile(r"[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIRST_LINE = "# A Cutset key pair: keep it to yourself. The public half may go anywhere."


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair, 32 bytes each, and for a client the public key of the server that it expects."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes | None = None

    def expecting(self, server: bytes) -> Keys:
        """The same pair, for a client of the server with this public key."""
        return replace(self, server=server)


def key_allowed(key: bytes | None, allowed: Collection[bytes] | None) -> bool:
    """Whether whoever has this key, proven by the link, may do something. `allowed`: None where links have no keys, and
    the system says who may connect. Nobody without a key is on a list of keys."""
    return allowed is None or (key is not None and key in allowed)


def dialling_keys(address: str, keys: Keys | None, server: bytes | None) -> Keys | None:
    """What `connect` needs at this address: this side's pair with the key of whoever listens. None where links have no
    keys. Raises ConfigError for what is missing."""
    if parse_address(address).scheme != "tcp":
        return None
    if keys is None or server is None:
        raise ConfigError(f"{address} needs --key (your own pair) and the other side's public key; see `cutset keys`")
    return keys.expecting(server)


def listening_keys(
    address: str, key: str | None, allow: str | None, whose: str
) -> tuple[Keys | None, Set[bytes] | None]:
    """What `listen` needs at this address, from files: this side's pair, and the public keys of those who may connect,
    which are read again when they change. Raises ConfigError for what is missing, or can't be read."""
    from cutset.link.allowed_keys import AllowedKeys

    if address.startswith("tcp://") and not (key and allow):
        raise ConfigError(
            f"tcp needs --key (this side's secret key) and --allow (the {whose}' public keys); see `cutset keys`"
        )
    return None if key is None else load_keys(key), None if allow is None else AllowedKeys(allow)


def new_keys() -> Keys:
    """A fresh pair from the system's randomness."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    secret = X25519PrivateKey.generate()
    return Keys(secret.public_key().public_bytes_raw(), secret.private_bytes_raw())


def save_keys(keys: Keys, name: str, directory: Path, first_line: str = FIRST_LINE) -> tuple[Path, Path]:
    """Writes NAME.key (for the owner alone) and NAME.pub; returns both paths. Raises ConfigError when one is there."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a key's name is up to 64 letters, digits, '.', '_' or '-'")
    texts = {
        directory / f"{name}.key": (0o600, f"{first_line}\npublic {keys.public.hex()}\nsecret {keys.secret.hex()}\n"),
        directory / f"{name}.pub": (0o644, f"{keys.public.hex()} {name}\n"),
    }
    secret, public = texts
    for path in texts:
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already: a key is never overwritten; choose another name")
    made: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, (mode, text) in texts.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            made.append(path)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
    except BaseException as error:  # both files or none: half a pair is of no use, and in the way of the next
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename or made[-1]} can't be written: {error.strerror}") from None
        raise
    return secret, public


def load_keys(path: str | os.PathLike[str]) -> Keys:
    """The pair in a .key file. Raises ConfigError, also when anyone but its owner can read it."""
    keys = Keys(*read_pair(path, "`cutset keys new NAME`"))
    if _public_of(keys.secret) != keys.public:
        raise ConfigError(f"{os.fspath(path)}: its two halves don't belong together; make a new pair")
    return keys


def read_pair(path: str | os.PathLike[str], how: str) -> tuple[bytes, bytes]:
    """The public and the secret half in a file that only its owner can read; `how` such a file is made. Raises
    ConfigError."""
    words = read_key_file(path, how)
    return bytes.fromhex(words["public"]), bytes.fromhex(words["secret"])


def read_key_file(path: str | os.PathLike[str], how: str) -> dict[str, str]:
    """All that such a file says, a name and a word on each line; `public` and `secret` are among them. Raises
    ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)} can't be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{os.fspath(path)} isn't a file")
        if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{os.fspath(path)} can be read by others: run `chmod 600` on it, or make a new key")
        text = file.read(4096).decode("ascii", "replace")
    words = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) == 2 and line[0] != "#")
    if not all(HEX.fullmatch(words.get(name, "")) for name in ("public", "secret")):
        raise ConfigError(f"{os.fspath(path)} holds no key pair: make one with {how}")
    return words


def load_public(path: str | os.PathLike[str]) -> bytes:
    """The public key of a .pub file, of a .key file, or spelled as 64 hexadecimal digits."""
    text = os.fspath(path)
    if HEX.fullmatch(text):
        return bytes.fromhex(text)
    if text.endswith(".key"):
        return load_keys(path).public
    found = _listed(Path(path))
    if len(found) != 1:
        raise ConfigError(f"{text} holds {len(found)} public keys, where one is needed")
    return found[0]


def load_allowed(path: str | os.PathLike[str]) -> frozenset[bytes]:
    """The public keys in a file, one a line, or in all .pub files of a directory. Raises ConfigError for none."""
    keys = read_allowed(Path(path))
    if not keys:
        raise ConfigError(f"{os.fspath(path)} holds no public key, so nobody could connect: put a .pub file there")
    return keys


def read_allowed(place: Path) -> frozenset[bytes]:
    """The same, where there may be none."""
    files = sorted(place.glob("*.pub")) if place.is_dir() else [place]
    if len(files) > MAX_FILES:
        raise ConfigError(f"{place} has more than {MAX_FILES} public keys")
    return frozenset(key for file in files for key in _listed(file))


def _listed(path: Path) -> list[bytes]:
    keys = []
    for number, line in enumerate(read_bounded(path, MAX_BYTES).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "secret" or not HEX.fullmatch(words[0]):
            raise ConfigError(f"{path}, line {number}: not a public key, which is 64 hexadecimal digits and a name")
        keys.append(bytes.fromhex(words[0]))
    return keys


def _public_of(secret: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    except ValueError as error:
        raise LinkError(f"a secret key can't be used: {error}") from None

"""A log of receipts that can only grow: a file of digests, signed heads, and proofs that a receipt is in it and that a
later head holds all of an earlier one (RFC 9162's trees). docs/receipts.md has the formats."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.errors import ConfigError
from cutset.files import write_atomically
from cutset.reading import read_bytes
from cutset.trust.canonical import encode
from cutset.trust.merkle import (
    consistency_proof,
    hash_entry,
    inclusion_proof,
    is_consistent,
    is_included,
    log_root,
)
from cutset.trust.signing_key import SigningKey
from cutset.trust.verify_receipt import InvalidReceipt, decode, signed_by

__all__ = ["LogHead", "TransparencyLog", "check_proof", "read_head"]

MAGIC = b"cutset log 1\n\0\0\0"  # behind it the log's own 16 bytes, then entries
ENTRY = 32
MOST_ENTRIES = 1 << 22
MOST_PROOF = 64 << 10  # bytes of a proof, or of a head
HEAD, PROOF = "cutset log head 1", "cutset log proof 1"
DOMAIN = b"cutset log head 1\0"


@dataclass(frozen=True, slots=True)
class LogHead:
    """What a log was at a time (milliseconds since 1970), signed. `log`: 16 bytes that tell it from others."""

    log: bytes
    size: int
    root: bytes
    time: int
    key: bytes
    signature: bytes = b""

    def _said(self) -> bytes:
        said = {"type": HEAD, "log": self.log, "size": self.size, "root": self.root, "time": self.time, "key": self.key}
        return encode(said)

    def signed(self, key: SigningKey) -> LogHead:
        """The same, signed by its key."""
        return LogHead(self.log, self.size, self.root, self.time, self.key, key.sign(DOMAIN + self._said()))

    def encoded(self) -> bytes:
        """As it stands in files."""
        return encode({"head": self._said(), "signature": self.signature})

    @classmethod
    def of(cls, data: bytes, key: bytes) -> LogHead:
        """A head that this key signed. Raises InvalidReceipt."""
        outer = _fields(decode(data), "head", "signature")
        if not signed_by(key, outer["signature"], DOMAIN + outer["head"]):
            raise InvalidReceipt("the head wasn't signed by this key")
        said = _fields(decode(outer["head"]), "type", "log", "size", "root", "time", "key")
        if said["type"] != HEAD or said["key"] != key or not 0 <= said["size"] <= MOST_ENTRIES:
            raise InvalidReceipt("it is no head of a log, or another key's")
        return cls(said["log"], said["size"], said["root"], said["time"], key, outer["signature"])


# The types of fields by their names, everywhere in heads and proofs; hashes have 32 bytes.
FIELDS: dict[str, tuple[type, int]] = {
    "type": (str, 0),
    "log": (bytes, 16),
    "size": (int, 0),
    "root": (bytes, 32),
    "time": (int, 0),
    "key": (bytes, 32),
    "signature": (bytes, 64),
    "head": (bytes, 0),
    "entry": (bytes, 32),
    "index": (int, 0),
    "path": (list, 32),
    "since": (int, 0),
    "growth": (list, 32),
}


def _fields(value: Any, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise InvalidReceipt(f"it must have the fields {', '.join(names)}")
    for name in names:
        kind, size = FIELDS[name]
        parts = value[name] if kind is list else [value[name]]
        wanted = bytes if kind is list else kind
        right = isinstance(parts, list) and all(type(part) is wanted for part in parts)
        if not right or (size and any(len(part) != size for part in parts)):
            raise InvalidReceipt(f"its {name!r} is none")
    return value


class TransparencyLog:
    """The log in a file, whose head lies beside it as FILE.head. Appending is one process's at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def head_path(self) -> Path:
        """Where the last head is."""
        return self.path.with_name(f"{self.path.name}.head")

    def append(self, entries: list[bytes], key: SigningKey) -> tuple[list[int], LogHead]:
        """Adds entries of 32 bytes; one that is there isn't added again. Their places, and the new head. Raises
        ConfigError where the log isn't any more what its last head says, or can't be written: then it is as it was."""
        with self._opened(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
            if not os.fstat(descriptor).st_size:
                self._begin(descriptor, key)
            name, known = self._read(descriptor)
            self._check(name, known, key)
            places = {entry: index for index, entry in enumerate(known)}
            added = [entry for entry in dict.fromkeys(entries) if entry not in places]
            if len(known) + len(added) > MOST_ENTRIES:
                raise ConfigError(f"{self.path} is full: it has {len(known)} entries; begin another log")
            _extend(descriptor, ENTRY * (1 + len(known)), b"".join(added))
            known += added
            places |= {entry: len(known) - len(added) + at for at, entry in enumerate(added)}
            head = self._sign(name, known, key)
        return [places[entry] for entry in entries], head

    def prove(self, entry: bytes, key: bytes, since: LogHead | None = None) -> bytes:
        """A proof that an entry is in the log as its last head says, and with `since` that the log has only grown since
        that head. Raises ConfigError where it isn't, or hasn't."""
        with self._opened(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
            name, known = self._read(descriptor)
            head = read_head(self.head_path, key)
        hashes = [hash_entry(one) for one in known[: head.size]]
        if head.log != name or len(hashes) < head.size or log_root(hashes) != head.root:
            raise ConfigError(f"{self.path} isn't any more what {self.head_path} says: entries were changed")
        if entry not in known[: head.size]:
            raise ConfigError(f"the receipt isn't in {self.path}: append it first")
        before = 0 if since is None else since.size
        if since is not None and (since.log != name or before > head.size or log_root(hashes[:before]) != since.root):
            raise ConfigError(f"{self.path} doesn't hold what that head says: it is another log, or was changed")
        index = known.index(entry)
        proof = {
            "type": PROOF,
            "entry": entry,
            "index": index,
            "path": inclusion_proof(hashes, index),
            "head": head.encoded(),
            "since": before,
            "growth": consistency_proof(hashes, before),
        }
        return encode(proof)

    def _begin(self, descriptor: int, key: SigningKey) -> None:
        """A log without entries. Its head comes before the first: whoever finds entries and none can't trust them."""
        if self.head_path.exists():
            raise ConfigError(f"{self.path} is empty, and {self.head_path} says that it wasn't: entries were removed")
        name = os.urandom(16)
        _extend(descriptor, 0, MAGIC + name)
        self._sign(name, [], key)

    def _sign(self, name: bytes, known: list[bytes], key: SigningKey) -> LogHead:
        root = log_root([hash_entry(entry) for entry in known])
        head = LogHead(name, len(known), root, time.time_ns() // 1_000_000, key.public).signed(key)
        write_atomically(self.head_path, head.encoded())
        return head

    def _check(self, name: bytes, known: list[bytes], key: SigningKey) -> None:
        """Nothing is added to what was changed."""
        if not self.head_path.exists():
            if known:
                raise ConfigError(f"{self.head_path} is gone, so nothing shows that {self.path} is what it was")
            return
        head = read_head(self.head_path, key.public)
        hashes = [hash_entry(one) for one in known[: head.size]]
        if head.log != name or len(hashes) < head.size or log_root(hashes) != head.root:
            raise ConfigError(f"{self.path} isn't any more what {self.head_path} says: entries were changed")

    def _read(self, descriptor: int) -> tuple[bytes, list[bytes]]:
        """The log's name and its entries, without one whose writing was broken off: no head says that it is there."""
        size = os.fstat(descriptor).st_size // ENTRY * ENTRY
        if not ENTRY <= size <= ENTRY * (MOST_ENTRIES + 1):
            raise ConfigError(f"{self.path} is no log, or was cut off")
        data = os.pread(descriptor, size, 0)
        if data[: len(MAGIC)] != MAGIC or len(data) != size:
            raise ConfigError(f"{self.path} is no log of receipts")
        return data[len(MAGIC) : ENTRY], [data[at : at + ENTRY] for at in range(ENTRY, size, ENTRY)]

    @contextmanager
    def _opened(self, flags: int, lock: int) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"{self.path} can't be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, lock)
            yield descriptor
        except OSError as error:
            raise ConfigError(f"{self.path} can't be written: {error.strerror}") from None
        finally:
            os.close(descriptor)


def _extend(descriptor: int, at: int, data: bytes) -> None:
    """Has a file end with these bytes from `at` on, on disk; with none of them where that fails. Raises OSError."""
    end = at
    try:
        os.ftruncate(descriptor, at)
        while data:
            written = os.pwrite(descriptor, data, end)
            data, end = data[written:], end + written
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, at)
        raise


def read_head(path: Path, key: bytes) -> LogHead:
    """The head in a file. Raises ConfigError for one that this key didn't sign."""
    try:
        return LogHead.of(read_bytes(path, MOST_PROOF, "head of a log"), key)
    except InvalidReceipt as error:
        raise ConfigError(f"{path}: {error}") from None


def check_proof(data: bytes, entry: bytes, key: bytes, since: LogHead | None = None) -> tuple[int, LogHead]:
    """The place of an entry, and the head of the log, which this key signed, that a proof shows it in; with `since`
    that log has only grown since that head. Raises InvalidReceipt."""
    said = _fields(decode(data), "type", "entry", "index", "path", "head", "since", "growth")
    head = LogHead.of(said["head"], key)
    if said["type"] != PROOF or said["entry"] != entry:
        raise InvalidReceipt("the proof is of another receipt")
    if not is_included(hash_entry(entry), said["index"], head.size, said["path"], head.root):
        raise InvalidReceipt("the proof doesn't show that the receipt is in the log")
    if since is not None:
        grown = is_consistent(since.size, since.root, head.size, head.root, said["growth"])
        if since.log != head.log or said["since"] != since.size or not grown:
            raise InvalidReceipt("the proof doesn't show that the log has only grown since that head")
    elif said["growth"] and not said["since"]:
        raise InvalidReceipt("the proof has more than it needs")
    return said["index"], head

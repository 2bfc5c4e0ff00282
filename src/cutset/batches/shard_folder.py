"""The directory of a run that isn't finished: what the run is of, and the results that are there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import msgspec

from cutset.batches.folder_lock import FolderLock
from cutset.errors import ConfigError
from cutset.files import appearing, name_full_disk
from cutset.reading import MALFORMED

__all__ = ["Record", "ShardFolder", "StoredRecord", "sync_folder"]

log = logging.getLogger(__name__)
VERSION = 1
MANIFEST, LOCK = "manifest.json", "lock"
MOST_MANIFEST = 1 << 20  # bytes
SHARD = re.compile(r"([0-9]{8})-([0-9a-f]{32})\.shard")
HEAD = re.compile(rb"([0-9A-Za-z._-]{1,100}) ([+-]) ")


class Record(NamedTuple):
    """One result. `key` says of which item, `ok` whether it is one or an error; `body` is JSON, without a line end."""

    key: str
    ok: bool
    body: bytes


class StoredRecord(NamedTuple):
    """Where a result lies: `length` bytes of a shard from `offset` on."""

    key: str
    ok: bool
    shard: str
    offset: int
    length: int


class ShardFolder:
    """A directory (0700) that one process at a time writes to.

        manifest.json         what the run is of, which must be the same when it goes on
        lock                  held by whoever writes; a process that dies lets go of it
        NUMBER-DIGEST.shard   results, a line each: KEY + or -, JSON

    A shard is written beside, synced and renamed, so at any moment it is there as a whole or not at all; its name has
    the digest of its bytes, and one that is damaged counts as missing.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Makes the directory, or goes on with it. Raises ConfigError where another process writes there, and where
        the run that is there is of something else: it says of what."""
        self.path = path
        self._lock: FolderLock | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FolderLock(path / LOCK, f"another process works on {path}: wait for it, or end it")
            self._sweep()
            before = self._read_manifest()
            self.fresh = before is None
            self.manifest: dict[str, Any] = {"version": VERSION, **manifest} if before is None else before
            if before is None:
                self._write_manifest()
            else:
                self.require(manifest)
            self._next = 1 + max((int(found[1]) for found in map(SHARD.fullmatch, self._names()) if found), default=0)
        except OSError as error:
            self.close()
            raise ConfigError(f"{path} can't be used: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def require(self, facts: Mapping[str, Any]) -> None:
        """Notes what results depend on, or holds it against what was noted. Raises ConfigError where it differs."""
        if differs := self.difference(facts):
            raise ConfigError(
                f"the run in {self.path} has {differs}: give the same as before, or remove that directory to begin anew"
            )
        if not facts.keys() <= self.manifest.keys():
            self.manifest |= facts
            self._write_manifest()

    def difference(self, facts: Mapping[str, Any]) -> str:
        """What was noted otherwise, as `weights A, not B`; "" for nothing."""
        for name, value in facts.items():
            if (was := self.manifest.get(name, value)) != value:
                return f"{name} {_shown(was)}, not {_shown(value)}"
        return ""

    def commit(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Writes results as one shard, which is on disk when this returns. Raises OSError, and has written nothing."""
        where, parts, offset = list[StoredRecord](), list[bytes](), 0
        for key, ok, body in records:
            head = f"{key} {'+' if ok else '-'} ".encode()
            where.append(StoredRecord(key, ok, "", offset + len(head), len(body)))
            parts += (head, body, b"\n")
            offset += len(head) + len(body) + 1
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        name = f"{self._next:08d}-{digest.hexdigest()[:32]}.shard"
        with appearing(self.path / name, 0o600) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)
        self._next += 1
        return [one._replace(shard=name) for one in where]

    def records(self) -> Iterator[StoredRecord]:
        """What was written, the oldest first. A shard whose bytes aren't those of its digest is removed."""
        for name in sorted(self._names()):
            found = SHARD.fullmatch(name)
            if found is None:
                continue
            if (records := _read_shard(self.path / name, found[2])) is None:
                log.warning("%s is damaged: what was in it is done again", self.path / name)
                (self.path / name).unlink()
                continue
            yield from records

    def read(self, stored: StoredRecord) -> bytes:
        """The body of a record. Raises OSError."""
        with (self.path / stored.shard).open("rb") as file:
            file.seek(stored.offset)
            return file.read(stored.length)

    @contextlib.contextmanager
    def output(self, path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
        """A new file that stands at `path`, on disk, once the block ends well. It is written in this directory, where
        what a killed process leaves of it is swept. Raises OSError."""
        target = Path(os.path.realpath(path))
        temporary = self.path / f".{secrets.token_hex(6)}.tmp"

        def opener(name: str, flags: int) -> int:
            return os.open(name, flags, mode)

        try:
            with open(temporary, "xb", opener=opener) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException as error:
            name_full_disk(error, path)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(target.parent)

    @property
    def empty(self) -> bool:
        """Nothing has been committed, now or by an earlier run."""
        return not any(map(SHARD.fullmatch, self._names()))

    def remove(self) -> None:
        """The run is finished and its output written: nothing is left of the directory, at once or after a crash."""
        going = self.path.with_name(f".{self.path.name[:100]}.{secrets.token_hex(6)}.done")
        os.rename(self.path, going)
        self.close()
        shutil.rmtree(going, ignore_errors=True)

    def close(self) -> None:
        """Lets others write. A second call does nothing."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _names(self) -> list[str]:
        return os.listdir(self.path)

    def _sweep(self) -> None:
        """Removes what a killed process left half written, here, and beside it after the end of a run."""
        for name in self._names():
            if name.startswith(".") and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()
        for one in self.path.parent.glob(f".{_escaped(self.path.name[:100])}.*.done"):
            shutil.rmtree(one, ignore_errors=True)

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            with (self.path / MANIFEST).open("rb") as file:
                data = file.read(MOST_MANIFEST + 1)
        except FileNotFoundError:
            return None
        try:
            found = msgspec.json.decode(data, type=dict[str, Any])
        except MALFORMED:
            found = {}
        if found.get("version") != VERSION or len(data) > MOST_MANIFEST:
            raise ConfigError(f"{self.path / MANIFEST} is none of this version's: remove {self.path} to begin anew")
        return found

    def _write_manifest(self) -> None:
        with appearing(self.path / MANIFEST, 0o600) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self.manifest), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path)
        sync_folder(self.path.parent)


def sync_folder(path: Path) -> None:
    """What was renamed in a directory is there after a power cut too."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_shard(path: Path, digest: str) -> list[StoredRecord] | None:
    """None for one that is damaged."""
    found, offset, seen = list[StoredRecord](), 0, hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            seen.update(line)
            head = HEAD.match(line)
            if head is None or not line.endswith(b"\n"):
                return None
            length = len(line) - head.end() - 1
            found.append(StoredRecord(head[1].decode(), head[2] == b"+", path.name, offset + head.end(), length))
            offset += len(line)
    return found if seen.hexdigest()[:32] == digest else None


def _escaped(name: str) -> str:
    """As a pattern of glob's that only this name matches."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:197] + "..."

"""Files that clients keep at the server: each client's apart, bounded, for the server's user alone."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from cutset.batches.shard_folder import sync_folder
from cutset.files import appearing
from cutset.reading import MALFORMED
from cutset.serve.api_errors import ApiError

__all__ = ["FileStore", "Receiving", "StoreLimits", "StoredFile", "read_record", "save_record"]

MOST_RECORD = 1 << 20  # bytes of a record on disk
OWN = re.compile(r"(?P<half>\.)?(?P<name>file-[0-9a-f]{24})\.(data|json)(\.[0-9a-f]+\.tmp)?")


class StoreLimits(msgspec.Struct, frozen=True):
    """What one client may keep. `space`: bytes of its files and of the answers of its batches."""

    file_bytes: int = 200 << 20
    space: int = 2 << 30
    files: int = 1000
    batches: int = 1000
    lines: int = 50_000  # of a batch's input


class StoredFile(msgspec.Struct):
    """A file; `owner` is a name from which its key can't be found, None where no keys are asked for."""

    id: str
    owner: str | None
    filename: str
    purpose: str
    nbytes: int
    created: float

    def shown(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.nbytes,
            "created_at": int(self.created),
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class FileStore:
    """Keeps files as ID.data, each with a record ID.json that is written after it: without one it counts as missing."""

    def __init__(self, folder: Path, limits: StoreLimits) -> None:
        """Finds what is there. Raises OSError."""
        self.folder, self.limits = folder, limits
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files: dict[str, StoredFile] = {}
        self._coming: dict[str | None, int] = {}  # bytes of uploads, by owner
        self.used_beside: Callable[[str | None], int] = lambda owner: 0  # bytes that an owner has elsewhere
        found = [one for path in folder.glob("file-*.json") if (one := read_record(path, StoredFile)) is not None]
        for one in sorted(found, key=lambda file: file.created):
            with suppress(OSError):
                if self.path(one.id).stat().st_size == one.nbytes:
                    self._files[one.id] = one
        for path in folder.iterdir():
            own = OWN.fullmatch(path.name)  # nothing else that may be here is touched
            if own is not None and (own["half"] or own["name"] not in self._files):
                path.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Where the bytes of a file are."""
        return self.folder / f"{name}.data"

    def of(self, owner: str | None, purpose: str | None = None) -> list[StoredFile]:
        """A client's files, the oldest first."""
        return [one for one in self._files.values() if one.owner == owner and purpose in (None, one.purpose)]

    def get(self, owner: str | None, name: str, param: str | None = None) -> StoredFile:
        """Raises ApiError 404 for a file that this client has none of."""
        found = self._files.get(name)
        if found is None or found.owner != owner:
            raise ApiError(400 if param else 404, f"there is no file {name[:80]!r}", param=param, code="file_not_found")
        return found

    def used(self, owner: str | None) -> int:
        """Bytes that a client takes."""
        return sum(one.nbytes for one in self.of(owner)) + self._coming.get(owner, 0) + self.used_beside(owner)

    @asynccontextmanager
    async def receiving(self, owner: str | None) -> AsyncIterator[Receiving]:
        """A place for a file that comes; nothing is left of it unless it is kept. Raises ApiError for one too many."""
        if len(self.of(owner)) >= self.limits.files:
            raise ApiError(
                400, f"there are {self.limits.files} files, the most that are kept: delete some", code="limit"
            )
        name = f"file-{secrets.token_hex(12)}"
        self._coming.setdefault(owner, 0)
        place = Receiving(self, owner)
        try:
            with appearing(self.path(name), 0o600) as file:
                place.file = file
                yield place
                if place.filename is None:
                    raise NotKept
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        except NotKept:
            return
        finally:
            self._coming[owner] -= place.nbytes
        place.kept = await self.keep(name, owner, place.filename or "", "batch", place.nbytes)

    async def keep(self, name: str, owner: str | None, filename: str, purpose: str, nbytes: int) -> StoredFile:
        """Takes in a file whose bytes are at their place. Raises OSError."""
        file = StoredFile(name, owner, filename, purpose, nbytes, time.time())
        await asyncio.to_thread(save_record, self.folder / f"{name}.json", file)
        self._files[name] = file
        return file

    def delete(self, owner: str | None, name: str) -> None:
        """Raises ApiError 404 as `get` does."""
        self.get(owner, name)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        self.path(name).unlink(missing_ok=True)
        del self._files[name]


class NotKept(Exception):
    """Nobody wants a file that was coming."""


class Receiving:
    """A file that comes, piece by piece. Set `filename` to have it kept; `kept` is it then."""

    file: IO[bytes]

    def __init__(self, store: FileStore, owner: str | None) -> None:
        self._store, self._owner = store, owner
        self.nbytes = 0
        self.filename: str | None = None
        self.kept: StoredFile | None = None

    def write(self, data: bytes) -> None:
        """Raises ApiError 413 where it is more than this client may keep."""
        store, limits = self._store, self._store.limits
        if self.nbytes + len(data) > limits.file_bytes:
            raise ApiError(413, f"the file is larger than {limits.file_bytes} bytes, the most that is kept")
        if store.used(self._owner) + len(data) > limits.space:
            text = f"your files and batches have more than {limits.space} bytes, the most that are kept: delete files"
            raise ApiError(413, text, code="storage_limit_exceeded")
        self.file.write(data)
        self.nbytes += len(data)
        store._coming[self._owner] += len(data)


def save_record(path: Path, record: msgspec.Struct) -> None:
    """Writes a record, for the server's user alone; it is on disk when this returns. Raises OSError."""
    with appearing(path, 0o600) as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read_record(path: Path, kind: type[Any]) -> Any:
    """A record, None where it is damaged, or another one's."""
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MOST_RECORD), type=kind)
    except (*MALFORMED, OSError):
        return None
    return found if found.id == path.stem else None

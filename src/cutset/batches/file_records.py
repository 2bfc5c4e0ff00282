"""What has come of files of which each is an item: by their digests, so that one which changed is done again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cutset.batches.shard_folder import Record, ShardFolder
from cutset.reading import MALFORMED

__all__ = ["FileRecord", "FileRecords", "as_written", "begin_record", "digest_of", "unread_record"]

CHUNK = 1 << 20
LONGEST = 200  # bytes of a file's name in that of its output: most systems have 255 for a whole name


class FileRecord(msgspec.Struct, omit_defaults=True):
    """A file that is done: the `output` that was written, or the `error`."""

    file: str
    sha256: str
    nbytes: int
    changed: int  # nanoseconds since 1970
    output: str = ""
    items: int = 0
    error: str = ""


class FileRecords:
    """Records of a run's files. `add` returns when the record is on disk; a second one of a file takes the place of the
    first where the file has changed, and is dropped where it hasn't."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder = folder
        self.late = 0  # records that came again
        self._records: dict[str, FileRecord] = {}
        for stored in folder.records():
            with contextlib.suppress(*MALFORMED):  # it is done again
                record = msgspec.json.decode(folder.read(stored), type=FileRecord)
                if "/" not in record.output:
                    self._take(record)

    def find(self, path: Path) -> FileRecord | None:
        """The record of a file as it is now, or None. Raises OSError."""
        known, stat = self._records.get(_written(path)), path.stat()
        if known is None or known.nbytes != stat.st_size:
            return None
        if known.changed == stat.st_mtime_ns or known.sha256 == digest_of(path):
            return known
        return None

    def names(self, paths: Sequence[Path]) -> dict[Path, str]:
        """What the outputs of a run's files are called: as before, or by their own names, with a number where another
        file has that. It depends on the files and their order alone, not on which is done first, or fails."""
        found: dict[Path, str] = {}
        taken = {one.output for one in self._records.values()}
        for path in paths:
            known = self._records.get(_written(path))
            if known is not None and known.output:
                found[path] = known.output
                continue
            own = _written(path.name).encode()[:LONGEST].decode(errors="ignore")
            names = (f"{own}{f'-{number}' if number else ''}.jsonl" for number in range(len(taken) + 1))
            found[path] = next(name for name in names if name not in taken)
            taken.add(found[path])
        return found

    def add(self, record: FileRecord) -> bool:
        """False for one that was there. Raises OSError."""
        if not self._take(record):
            return False
        self.folder.commit([Record(record.sha256, not record.error, msgspec.json.encode(as_written(record)))])
        return True

    def _take(self, record: FileRecord) -> bool:
        known = self._records.get(_written(record.file))
        if known is not None and known.sha256 == record.sha256:
            self.late += 1
            return False
        self._records[_written(record.file)] = record
        return True


def as_written(record: FileRecord) -> FileRecord:
    """A record as JSON can have it: what isn't UTF-8 in a name has its bytes escaped."""
    texts = {name: _written(getattr(record, name)) for name in ("file", "output", "error")}
    return msgspec.structs.replace(record, **texts)


def _written(text: Path | str) -> str:
    return str(text).encode(errors="backslashreplace").decode()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def begin_record(path: Path) -> FileRecord:
    """A record with what identifies a file. Raises OSError."""
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
    return FileRecord(str(path), digest_of(path), stat.st_size, stat.st_mtime_ns)


def unread_record(path: Path, error: OSError) -> FileRecord:
    """The record of a file that couldn't be read: without a digest, so it isn't one to keep."""
    return FileRecord(str(path), "", 0, 0, error=f"it can't be read: {error.strerror}")

"""The results of an input file's lines: each line's once, whoever computed it and how often."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cutset.batches.shard_folder import Record, ShardFolder, StoredRecord

__all__ = ["LineResults"]

SHARD_BYTES, SHARD_LINES = 8 << 20, 4096  # after so many a shard is written
SOONEST_S, LATEST_S, SHARE = 1.0, 60.0, 0.01  # or after so long: a crash loses 1 % of the time, within these bounds
MOST_OPEN = 64  # shards


class LineResults:
    """Takes results by the numbers of their lines and keeps the first of each; 17 bytes of memory a line.

    `add` from one thread; `commit` from any, also meanwhile.
    """

    def __init__(self, folder: ShardFolder, lines: int) -> None:
        self.folder = folder
        self.late = 0  # results that came for lines that had one
        self.done = self.failed = 0  # lines with a result, and those of them whose result is an error
        self._shards: list[str] = []
        self._shard = np.full(lines, -1, np.int32)  # of each line: which shard, and where in it
        self._offset = np.zeros(lines, np.int64)
        self._length = np.zeros(lines, np.int32)
        self._ok = np.zeros(lines, np.bool_)
        self._pending: dict[int, Record] = {}
        self._writing: dict[int, Record] = {}
        self.pending_bytes = 0
        self._lock, self._swapping = threading.Lock(), threading.Lock()
        self._began = self._committed = time.monotonic()
        for stored in folder.records():
            self._note(stored)

    def has(self, line: int) -> bool:
        """There is a result of this line."""
        return self._shard[line] >= 0 or line in self._pending or line in self._writing

    def add(self, line: int, ok: bool, body: bytes) -> bool:
        """Takes a result, JSON without a line end, to be written with the next shard. False if there was one."""
        if self.has(line):
            self.late += 1
            return False
        with self._swapping:
            if not self._pending:
                self._committed = time.monotonic()
            self._pending[line] = Record(str(line), ok, body)
            self.pending_bytes += len(body)
        self.done += 1
        self.failed += not ok
        return True

    @property
    def wait_s(self) -> float | None:
        """Seconds until a shard should be written, 0 for now; None while there is nothing to write."""
        if not self._pending:
            return None
        if self.pending_bytes >= SHARD_BYTES or len(self._pending) >= SHARD_LINES:
            return 0.0
        now = time.monotonic()
        every = min(max(SOONEST_S, SHARE * (now - self._began)), LATEST_S)
        return max(0.0, self._committed + every - now)

    def commit(self) -> None:
        """Writes what was taken since the last time; it is on disk when this returns. Raises OSError."""
        with self._lock:
            with self._swapping:
                self._writing, self._pending = self._pending, {}
            try:
                stored = self.folder.commit(list(self._writing.values())) if self._writing else []
            except BaseException:
                with self._swapping:
                    self._pending = self._writing | self._pending
                raise
            for one in stored:
                self._note(one, count=False)
            with self._swapping:
                self.pending_bytes -= sum(len(one.body) for one in self._writing.values())
                self._writing = {}

    def assemble(self, path: Path, *, ok: bool | None = None, mode: int = 0o666) -> int:
        """Writes all results, or those that are `ok` or not, in the order of their lines, a line each; the file appears
        as a whole. How many there are. Raises OSError."""
        count = 0
        with self.folder.output(path, mode) as file, self._open_shards() as read:
            for line in self._lines(ok):
                file.write(read(int(line)))
                file.write(b"\n")
                count += 1
        return count

    def count(self, *, ok: bool) -> int:
        """How many committed results are `ok`, or aren't."""
        return len(self._lines(ok))

    def nbytes(self) -> int:
        """Of all results."""
        return int(self._length.sum(dtype=np.int64)) + self.pending_bytes

    def _lines(self, ok: bool | None) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        there = self._shard >= 0
        return np.flatnonzero(there if ok is None else there & (self._ok == ok))

    def _note(self, one: StoredRecord, *, count: bool = True) -> None:
        line = int(one.key) if one.key.isdecimal() else -1
        if not 0 <= line < len(self._shard) or self._shard[line] >= 0:
            self.late += 1
            return
        if not self._shards or self._shards[-1] != one.shard:
            self._shards.append(one.shard)
        self._offset[line], self._length[line], self._ok[line] = one.offset, one.length, one.ok
        self._shard[line] = len(self._shards) - 1  # last: from here on it is there
        if count:
            self.done += 1
            self.failed += not one.ok

    @contextmanager
    def _open_shards(self) -> Iterator[Callable[[int], bytes]]:
        files: OrderedDict[int, int] = OrderedDict()

        def read(line: int) -> bytes:
            shard = int(self._shard[line])
            if shard not in files:
                if len(files) >= MOST_OPEN:
                    os.close(files.popitem(last=False)[1])
                files[shard] = os.open(self.folder.path / self._shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            files.move_to_end(shard)
            wanted, parts, offset = int(self._length[line]), list[bytes](), int(self._offset[line])
            while wanted:
                parts.append(os.pread(files[shard], wanted, offset))
                if not parts[-1]:
                    raise OSError(f"{self._shards[shard]} has become shorter")
                wanted, offset = wanted - len(parts[-1]), offset + len(parts[-1])
            return b"".join(parts)

        try:
            yield read
        finally:
            for file in files.values():
                os.close(file)

"""Blocks of the KV cache on disk: a directory of files by digest, which several processes may share.

A file is named by all that its bytes depend on: the tokens from the beginning to its end (their chain of digests, with
salt and adapter), and what `context` has the digest of (model, build, instruction set, dtypes, …). It says that again
inside, with a digest of everything; one that is damaged is a miss, and removed. Files are put in place whole, by a
thread of the store; the one used longest ago goes first when the directory is full.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import stat
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.files import appearing
from cutset.models.run.executor import KVCache

__all__ = ["PrefixStore", "StoredBlocks"]

log = logging.getLogger(__name__)

MAGIC = b"CUTSETKV"
HEAD = struct.Struct("<8sIIQ32s32s")  # magic, version, bytes of tokens, bytes of the block, key, digest of all the rest
VERSION = 1
SUFFIX = ".kv"
MOST_WAITING = 512 << 20  # bytes that wait to be written; what comes beyond isn't kept
STALE_S = 3600.0  # a temporary file that is older was left by a process that died
QUIET_S = 60.0  # between two warnings that nothing can be written
READERS = 2  # threads: most of the time goes by in hashing and in the kernel's copies, which need no interpreter

Pieces = Sequence[NDArray[np.uint8]]


class PrefixStore:
    """Reads in callers' threads, a block at a time; writes in its own."""

    def __init__(self, directory: Path, limit: int, context: bytes, waiting: int = 0) -> None:
        """`limit` in bytes; `context`: a digest of what a block's bytes depend on besides the tokens; `waiting`: bytes
        that may wait to be written, 0 for MOST_WAITING.

        Raises ConfigError for a directory that can't be had, belongs to somebody else or may be written by others.
        """
        self.directory, self.limit, self._most_waiting = directory, limit, waiting
        self.read_bytes = self.written_bytes = self.damaged = self.dropped = 0
        self._context = context
        _claim(directory)
        self._known: set[bytes] = set()  # keys of files that this process has seen there
        self._jobs: queue.SimpleQueue[tuple[bytes, bytes, list[bytes]] | None] = queue.SimpleQueue()
        self._waiting, self._lock = 0, threading.Lock()
        self._used, self._unseen = 0, limit  # bytes of all files; bytes written since they were counted
        self._warned = -QUIET_S
        self._thread = threading.Thread(target=self._write_all, name="cutset-prefix-store", daemon=True)
        self._thread.start()
        self._readers = ThreadPoolExecutor(READERS, "cutset-prefix-reader")  # which starts none before they have work

    def read_all(self, wanted: Sequence[tuple[bytes, bytes, Pieces]]) -> list[bool]:
        """The same as `read` of each, several at once."""
        if len(wanted) < 2:
            return [self.read(*one) for one in wanted]
        return list(self._readers.map(lambda one: self.read(*one), wanted))

    def read(self, digest: bytes, tokens: bytes, pieces: Pieces) -> bool:
        """Fills `pieces` with the block of these tokens. False where it isn't there; then they hold anything."""
        key = self._key(digest)
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        with open(descriptor, "rb", buffering=0) as file:
            try:
                wrong = _read(file, key, tokens, pieces)
            except OSError as error:
                wrong = f"it can't be read: {error.strerror}"
            if not wrong:
                with suppress(OSError):
                    os.utime(file.fileno())  # the time of use
                with self._lock:
                    self._known.add(key)
                    self.read_bytes += sum(piece.nbytes for piece in pieces)
                return True
        with self._lock:
            self.damaged += 1
            self._known.discard(key)
        log.warning("%s is removed from the prefix cache: %s", path, wrong)
        with suppress(OSError):
            path.unlink()
        return False

    def write(self, digest: bytes, tokens: bytes, pieces: Pieces) -> None:
        """Keeps a block: takes a copy, which is written later. Does nothing for one that is known to be there."""
        key = self._key(digest)
        if key in self._known:
            return
        size = sum(piece.nbytes for piece in pieces)
        with self._lock:
            if self._waiting and self._waiting + size > (self._most_waiting or MOST_WAITING):
                self.dropped += 1
                return
            self._waiting += size
        self._known.add(key)
        self._jobs.put((key, tokens, [piece.tobytes() for piece in pieces]))

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread when all has been written, or waits for that at most `timeout` seconds. Twice is fine."""
        self._jobs.put(None)
        self._readers.shutdown()
        self._thread.join(timeout)

    def _key(self, digest: bytes) -> bytes:
        return hashlib.sha256(self._context + digest).digest()

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.directory / name[:2] / (name + SUFFIX)

    def _write_all(self) -> None:
        while (job := self._jobs.get()) is not None:
            key, tokens, pieces = job
            try:
                self._write(key, tokens, pieces)
            except OSError as error:
                self._known.discard(key)
                self.dropped += 1
                if time.monotonic() - self._warned >= QUIET_S:
                    self._warned = time.monotonic()
                    log.warning("the prefix cache in %s can't be written: %s", self.directory, error.strerror)
            finally:
                with self._lock:
                    self._waiting -= sum(map(len, pieces))

    def _write(self, key: bytes, tokens: bytes, pieces: list[bytes]) -> None:
        path = self._path(key)
        with suppress(FileNotFoundError):
            os.utime(path)  # another process was first; one that is damaged is found when it is read
            return
        head, digest = _head(key, tokens, sum(map(len, pieces)))
        for piece in pieces:
            digest.update(piece)
        size = HEAD.size + len(tokens) + sum(map(len, pieces))
        if size > self.limit:
            raise OSError(0, f"a block of {size} bytes is larger than all of it")
        # Other processes write too: they are noticed before they can add much.
        if self._used + size > self.limit or self._unseen + size > self.limit // 16:
            self._trim(size)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with appearing(path, 0o600) as file:
            file.write(head + digest.digest() + tokens)
            for piece in pieces:
                file.write(piece)
        self._used += size
        self._unseen += size
        self.written_bytes += size

    def _trim(self, room: int) -> None:
        """Counts what is there, and removes what was used longest ago until `room` bytes fit."""
        found: list[tuple[int, int, str]] = []  # time of use, size, path
        now = time.time()
        for folder in os.scandir(self.directory):
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder.path):
                with suppress(OSError):  # another process has removed it
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(".tmp") and now - status.st_mtime > STALE_S:
                        os.unlink(entry.path)
                    elif entry.name.endswith((SUFFIX, ".tmp")):
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
        self._used, self._unseen = sum(size for _, size, _ in found), 0
        if self._used + room <= self.limit:
            return
        least = self.limit - self.limit // 16 - room  # some room more, or each write would count all files
        for _, size, path in sorted(found):
            if self._used <= max(0, least):
                return
            with suppress(FileNotFoundError):
                os.unlink(path)
            if path.endswith(SUFFIX):
                self._known.discard(bytes.fromhex(os.path.basename(path).removesuffix(SUFFIX)))
            self._used -= size


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """The blocks of a cache, by number, and where they are kept."""

    store: PrefixStore
    cache: KVCache
    context: bytes = b""  # what bytes depend on beside the store's own context

    def read(self, wanted: Sequence[tuple[int, bytes, bytes]]) -> list[int]:
        """Fills blocks that nobody else reads, each given by number, digest and tokens. The bytes of each; 0 where
        there is none in the store: then it holds anything."""
        pieces = [self.cache.block(block) for block, _, _ in wanted]
        asked = [(self._digest(one[1]), one[2], its) for one, its in zip(wanted, pieces, strict=True)]
        found = self.store.read_all(asked)
        return [sum(piece.nbytes for piece in its) if one else 0 for one, its in zip(found, pieces, strict=True)]

    def write(self, block: int, digest: bytes, tokens: bytes) -> None:
        """Keeps a block that has been computed."""
        self.store.write(self._digest(digest), tokens, self.cache.block(block))

    def _digest(self, digest: bytes) -> bytes:
        return hashlib.sha256(self.context + digest).digest() if self.context else digest


def _claim(directory: Path) -> None:
    """Makes the directory, or makes sure that nobody else reads or writes there."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise ConfigError(f"prefix_cache: {directory} belongs to another user, who could change what is computed")
        if status.st_mode & 0o022:
            raise ConfigError(f"prefix_cache: others may write in {directory}: chmod 700 it, or name another")
        if status.st_mode & 0o077:
            if any(len(name) != 2 for name in os.listdir(directory)):  # it is used for other things
                raise ConfigError(f"prefix_cache: others may look into {directory}: chmod 700 it, or name another")
            directory.chmod(0o700)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"prefix_cache: {directory} can't be written")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"prefix_cache: {directory} can't be used: {reason}") from None


def _head(key: bytes, tokens: bytes, size: int) -> tuple[bytes, hashlib._Hash]:
    """A file's head up to its digest, and the digest so far: of that, and of the tokens."""
    head = HEAD.pack(MAGIC, VERSION, len(tokens), size, key, b"")[:-32]
    return head, hashlib.sha256(head + tokens)


def _read(file: FileIO, key: bytes, tokens: bytes, pieces: Pieces) -> str:
    """Fills `pieces` from an open file; what is wrong with it, or nothing."""
    head, digest = _head(key, tokens, sum(piece.nbytes for piece in pieces))
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return "it isn't a file of this user"
    if status.st_size != HEAD.size + len(tokens) + sum(piece.nbytes for piece in pieces):
        return f"it has {status.st_size} bytes, not those of a block"
    start = file.read(HEAD.size + len(tokens))
    if start[: len(head)] != head or start[HEAD.size :] != tokens:
        return "it is another block's, or damaged"
    for piece in pieces:
        whole = view = piece.data.cast("B")
        while len(view):
            count = file.readinto(view)
            if not count:
                return "it is cut short"
            view = view[count:]
        digest.update(whole)
    return "" if digest.digest() == start[len(head) : HEAD.size] else "its digest doesn't match"

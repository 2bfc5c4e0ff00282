"""Weights by digest: those in memory, in the cache on disk, in a weight file, or sent by the coordinator."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutset.cluster.stage import WeightFile
from cutset.cluster.values import Array, Bytes, as_bytes, digest_begun, digest_of, empty, shaped
from cutset.errors import CheckpointError, FrameError
from cutset.partition.node import Value

__all__ = ["WeightStore", "save_weight"]


@dataclass(slots=True)
class _Coming:
    """A weight that isn't whole yet."""

    digest: str
    data: Bytes
    found: hashlib._Hash  # of what is there
    there: int = 0  # bytes


class WeightStore:
    """One thread at a time. The cache is a directory of files whose names are digests; it may be shared.

    Its files are mapped, not read, so that workers on one machine share their memory. Each is hashed before its first
    use, and again when the file has changed. `open_file` opens a weight file, when it is first needed.
    """

    def __init__(self, cache: Path | None = None, open_file: Callable[[], WeightFile] | None = None) -> None:
        self.cache = cache
        self._open = open_file
        self._file: WeightFile | None = None
        self._held: dict[str, Array] = {}
        self._checked: dict[str, tuple[int, int, int]] = {}  # what a file was when its digest was right
        self._coming: _Coming | None = None
        if cache is not None:
            try:
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise CheckpointError(f"the cache {cache} can't be made: {error.strerror}") from None

    def find(self, name: str, value: Value, digest: str) -> Array | None:
        """The weight `name` with this digest, or None where it isn't here."""
        if not value.nbytes:
            return empty(value)
        if digest in self._held:
            return self._held[digest]
        weight = self._cached(value, digest)
        if weight is None:
            weight = self._in_file(name, value)
            if weight is not None and digest_of(weight, value) != digest:
                weight = None
        if weight is not None:
            self._held[digest] = weight
        return weight

    def holds(self, name: str, value: Value, digest: str) -> bool:
        """Whether `find` is likely to find it: a file's digest is compared only when it is used."""
        if digest in self._held:
            return True
        if self.cache is not None:
            with contextlib.suppress(OSError):
                if (self.cache / digest).stat().st_size == value.nbytes:
                    return True
        return self._in_file(name, value) is not None

    def keep(self, digests: Collection[str]) -> None:
        """Forgets, in memory, every other weight."""
        self._held = {digest: weight for digest, weight in self._held.items() if digest in digests}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return sum(weight.nbytes for weight in self._held.values())

    def add(self, value: Value, digest: str, offset: int, data: Bytes) -> bool:
        """Takes bytes of a weight that was asked for; True with its last ones. Raises FrameError if they aren't it."""
        if offset == 0:
            self._coming = _Coming(digest, as_bytes(empty(value)), digest_begun(value))
        coming = self._coming
        if coming is None or coming.digest != digest or coming.there != offset or offset + data.size > coming.data.size:
            self._coming = None
            raise FrameError(f"bytes of the weight {value.name} came out of order")
        coming.data[offset : offset + data.size] = data
        coming.found.update(data.data)  # with all of it at the end, what comes next would pile up meanwhile
        coming.there += data.size
        if coming.there < value.nbytes:
            return False
        self._coming = None
        weight = shaped(coming.data, value)
        if coming.found.hexdigest() != digest:
            raise FrameError(f"the weight {value.name} that came has another digest than was said")
        self._held[digest] = weight
        if self.cache is not None:
            save_weight(self.cache, digest, weight)
        return True

    def _cached(self, value: Value, digest: str) -> Array | None:
        if self.cache is None:
            return None
        path = self.cache / digest
        try:
            status = path.stat()
            if status.st_size != value.nbytes or not value.nbytes:
                return None
            # Copy on write: nobody writes to weights, but some want memory that could be written to.
            weight = shaped(np.memmap(path, np.uint8, mode="c"), value)
        except (OSError, ValueError):
            return None
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._checked.get(digest) != mark:
            if digest_of(weight, value) != digest:
                with contextlib.suppress(OSError):  # damaged: it will be sent and written anew
                    path.unlink()
                return None
            self._checked[digest] = mark
        return weight

    def _in_file(self, name: str, value: Value) -> Array | None:
        """The weight of that name and shape in the weight file, whatever its digest."""
        if self._file is None and self._open is not None:
            self._file = self._open()
        return None if self._file is None else self._file(name, value)


def save_weight(cache: Path, digest: str, weight: Array) -> None:
    """Puts a weight into a cache, whole or not at all. A disk that is full is no error: it is sent again next time."""
    path, temporary = cache / digest, cache / f".{digest[:16]}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(as_bytes(weight).data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()

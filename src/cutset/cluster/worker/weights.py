"""Weights by digest: those in memory, in the cache on disk, in a weight file, or sent by the coordinator."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.digest import tensor_digest
from cutset.errors import CheckpointError, CutsetError, FrameError
from cutset.partition.node import Value

__all__ = ["WeightStore", "save_weight"]

Bytes = NDArray[np.uint8]


class WeightStore:
    """One thread at a time. The cache is a directory of files whose names are digests; it may be shared.

    A file's tensors are mapped, not read, so that workers on one machine share its memory. Each is hashed before its
    first use, and again when the file has changed.
    """

    def __init__(self, cache: Path | None = None, file: Path | None = None) -> None:
        self.cache = cache
        self._file = file
        self._named: Any = None  # the tensors of `file` by name, once it was opened
        self._held: dict[str, Tensor] = {}
        self._checked: dict[str, tuple[int, int, int]] = {}  # what a file was when its digest was right
        self._coming: tuple[str, Value, Bytes, int] | None = None  # digest, value, bytes, how many are there
        if cache is not None:
            try:
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise CheckpointError(f"the cache {cache} can't be made: {error.strerror}") from None

    def find(self, name: str, value: Value, digest: str) -> Tensor | None:
        """The weight `name` with this digest, or None where it isn't here."""
        if not value.nbytes:
            return torch.empty(value.shape, dtype=getattr(torch, value.dtype))
        if digest in self._held:
            return self._held[digest]
        tensor = self._cached(value, digest)
        if tensor is None and self._file is not None:
            tensor = self._from_file(name, value, digest)
        if tensor is not None:
            self._held[digest] = tensor
        return tensor

    def holds(self, name: str, value: Value, digest: str) -> bool:
        """Whether `find` is likely to find it: a file's digest is compared only when it is used."""
        if digest in self._held:
            return True
        if self.cache is not None:
            with contextlib.suppress(OSError):
                if (self.cache / digest).stat().st_size == value.nbytes:
                    return True
        named = self._names() if self._file is not None else {}
        return name in named and tuple(named[name].shape) == value.shape

    def keep(self, digests: Collection[str]) -> None:
        """Forgets, in memory, every other weight."""
        self._held = {digest: tensor for digest, tensor in self._held.items() if digest in digests}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in memory."""
        return sum(tensor.nbytes for tensor in self._held.values())

    def add(self, value: Value, digest: str, offset: int, data: Bytes) -> bool:
        """Takes bytes of a weight that was asked for; True with its last ones. Raises FrameError if they aren't it."""
        if offset == 0:
            self._coming = (digest, value, torch.empty(value.nbytes, dtype=torch.uint8).numpy(), 0)  # aligned
        coming = self._coming
        if coming is None or coming[0] != digest or coming[3] != offset or offset + data.size > coming[2].size:
            self._coming = None
            raise FrameError(f"bytes of the weight {value.name} came out of order")
        coming[2][offset : offset + data.size] = data
        self._coming = (digest, value, coming[2], offset + data.size)
        if offset + data.size < value.nbytes:
            return False
        self._coming = None
        tensor = _shaped(coming[2], value)
        if tensor_digest(tensor) != digest:
            raise FrameError(f"the weight {value.name} that came has another digest than was said")
        self._held[digest] = tensor
        if self.cache is not None:
            save_weight(self.cache, digest, tensor)
        return True

    def _cached(self, value: Value, digest: str) -> Tensor | None:
        if self.cache is None:
            return None
        path = self.cache / digest
        try:
            status = path.stat()
            if status.st_size != value.nbytes or not value.nbytes:
                return None
            # Copy on write: nobody writes to weights, and torch wants memory that could be written to.
            tensor = _shaped(np.memmap(path, np.uint8, mode="c"), value)
        except (OSError, ValueError):
            return None
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._checked.get(digest) != mark:
            if tensor_digest(tensor) != digest:
                with contextlib.suppress(OSError):  # damaged: it will be sent and written anew
                    path.unlink()
                return None
            self._checked[digest] = mark
        return tensor

    def _from_file(self, name: str, value: Value, digest: str) -> Tensor | None:
        tensor = self._names().get(name)
        if tensor is None or tuple(tensor.shape) != value.shape:
            return None
        tensor = tensor.to(getattr(torch, value.dtype))
        return tensor if tensor_digest(tensor) == digest else None

    def _names(self) -> Any:
        """The tensors of the weight file by name."""
        from cutset.video.zoo.weights import open_weights

        assert self._file is not None
        if self._named is None:
            self._named = open_weights(self._file)
        return self._named


def save_weight(cache: Path, digest: str, tensor: Tensor) -> None:
    """Puts a weight into a cache, whole or not at all. A disk that is full is no error: it is sent again next time."""
    path, temporary = cache / digest, cache / f".{digest[:16]}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _shaped(data: Bytes, value: Value) -> Tensor:
    """The tensor whose bytes in row-major order these are."""
    if data.size != value.nbytes or math.prod(value.shape) == 0:
        raise CutsetError(f"the weight {value.name} is empty or has the wrong size")
    return torch.from_numpy(data).view(getattr(torch, value.dtype)).view(value.shape)

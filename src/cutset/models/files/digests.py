"""The digests of an integer checkpoint: SHA-256 of every tensor's bytes, in `digests.json` beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CheckpointError
from cutset.models.families import read_json
from cutset.models.files.checkpoint import Tensor
from cutset.models.files.verified import observe, remember, remembered

__all__ = ["DIGESTS", "digest", "verify_digests"]

DIGESTS = "digests.json"


def verify_digests(directory: Path, tensors: Mapping[str, Tensor], threads: int, *, always: bool = False) -> None:
    """Compares every tensor with `digests.json`, unless the same files passed before (see models.files.verified)
    and `always` is false. Raises CheckpointError for the first that differs."""
    files = {tensor.file for tensor in tensors.values()} | {directory / DIGESTS}
    try:
        seen = observe(sorted(files))
    except OSError as error:
        raise CheckpointError(f"{error.filename} can't be read: {error.strerror}") from None
    if not always and remembered(directory, seen):
        return
    wanted = read_json(directory / DIGESTS)
    if set(wanted) != set(tensors):
        raise CheckpointError(f"{directory / 'digests.json'} doesn't name the tensors of this checkpoint")
    with ThreadPoolExecutor(max(1, threads)) as pool:  # hashing leaves the interpreter free
        names = list(tensors)
        for name, found in zip(names, pool.map(lambda name: digest(tensors[name].raw), names), strict=True):
            if found != wanted[name]:
                raise CheckpointError(f"{tensors[name].file}: the digest of {name} doesn't match: the file was changed")
    for tensor in tensors.values():
        tensor.forget()  # what isn't used needn't stay in memory
    remember(directory, seen)


def digest(value: NDArray[Any]) -> str:
    """Of an array's bytes in row-major order, in hexadecimal."""
    array = np.ascontiguousarray(value)
    return hashlib.sha256(array.data.cast("B") if array.size else b"").hexdigest()

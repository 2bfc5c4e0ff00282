"""Writes checkpoints in safetensors, one tensor at a time, and whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ModelError
from cutset.files import appearing
from cutset.models.files.checkpoint import DTYPES

__all__ = ["new_directory", "write_safetensors"]


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[None]:
    """A directory for a checkpoint, made now or empty so far; unless the block ends well, nothing stays in it.

    Raises ModelError for one that holds something: what lay there, an index of other weights say, would be read with
    what is written.
    """
    there = path.exists()
    if there and (not path.is_dir() or any(path.iterdir())):
        raise ModelError(f"{path} is not an empty directory; name a new one")
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:  # Ctrl-C too: no half of a checkpoint stays
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not there:
            path.rmdir()
        raise


def write_safetensors(
    path: Path,
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Iterable[tuple[str, NDArray[Any]]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes `tensors` (name, array) in the order of `layout`, which maps each name to its dtype and shape.

    Dtypes are the format's (`F32`, `BF16` as uint16, `I8`, …). Only one tensor need be in memory at a time. The file
    appears under its name when it is complete.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in layout.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)  # tensors start at a cache line
    names = iter(layout)
    with appearing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in tensors:
            dtype, shape = layout[name]
            if name != next(names) or array.shape != shape or array.dtype != np.dtype(DTYPES[dtype]):
                raise ValueError(f"{name} {array.dtype}{array.shape} isn't what the layout says")
            file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        if file.tell() != 8 + len(text) + at:
            raise ValueError("fewer tensors than the layout says")

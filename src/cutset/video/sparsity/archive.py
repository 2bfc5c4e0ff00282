"""Files of named arrays and a header (npz without pickle), read with bounds: nothing in them is trusted."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from cutset.errors import ConfigError
from cutset.files import appearing
from cutset.models.files.npy import read_header

__all__ = ["read_archive", "write_archive"]

Array = np.ndarray[Any, Any]

MOST_BYTES = 4 << 30  # of all arrays
MOST_ARRAYS = 500_000
HEADER = "header"


def write_archive(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes `header` (JSON) and `arrays` to `path`, whole or not at all. Raises ConfigError where it can't."""
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    try:
        with appearing(path) as file:
            rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
            np.savez_compressed(file, allow_pickle=False, **{HEADER: text}, **rows)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from None


def read_archive(path: Path, kind: str, what: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header, whose `format` must be `kind`, and the arrays. Raises ConfigError for what is no such file."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if len(members) > MOST_ARRAYS or sum(member.file_size for member in members) > MOST_BYTES:
                raise ValueError("it is too large")
            arrays = {member.filename.removesuffix(".npy"): _array(file, member) for member in members}
        header = json.loads(arrays.pop(HEADER).tobytes())
        if not isinstance(header, dict) or header.get("format") != kind:
            raise ValueError(f"its format is not {kind}")
    except OSError as error:
        raise ConfigError(f"can't read {what}: {error}") from None
    except KeyError:
        raise ConfigError(f"{str(path)!r} is not {what}: it has no header") from None
    except (
        EOFError,
        NotImplementedError,
        RecursionError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise ConfigError(f"{str(path)!r} is not {what}: {e}") from None
    return header, arrays


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with file.open(member) as stream:
        shape, dtype = _shape(stream)
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > member.file_size:  # before anything is allocated
            raise ValueError(f"{member.filename[:40]} is cut off")
        data = stream.read(nbytes + 1)
        if len(data) != nbytes:
            raise ValueError(f"{member.filename[:40]} has another length than it says")
    return np.frombuffer(data, dtype).reshape(shape)


def _shape(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, fortran, dtype = read_header(stream)
    if fortran and len(shape) > 1:
        raise ValueError("an array is in column order")
    if dtype.kind not in "iuf":
        raise ValueError(f"an array is of {dtype} {shape}")
    return shape, dtype

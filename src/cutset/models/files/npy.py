"""The header of an array in numpy's .npy format, checked before numpy sees it: numbers alone, sizes that can be."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_npy", "read_header"]

MAGIC = b"\x93NUMPY"
MOST_HEADER = 4096  # bytes; numpy's own have 118
MOST_DIMENSIONS = 32
MOST_SIZE = 1 << 40
KINDS = {kind + size for kind, sizes in {"b": "1", "i": "1248", "u": "1248", "f": "248"}.items() for size in sizes}


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in column order, and the dtype: real numbers or booleans. Raises ValueError."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != MAGIC or start[6] not in (1, 2, 3) or start[7] != 0:
        raise ValueError("it doesn't begin as an array of numpy does")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(length) if length <= MOST_HEADER else b""
    if not text or len(text) != length:
        raise ValueError(f"its header of {length} bytes is cut off, or longer than {MOST_HEADER}")
    try:
        header = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin-1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("its header is malformed") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header doesn't say dtype, order and shape")
    kind, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    if not isinstance(kind, str) or kind[:1] not in ("<", ">", "|", "=") or kind[1:] not in KINDS:
        shown = repr(kind)[:40] if isinstance(kind, str) else f"a {type(kind).__name__}"
        raise ValueError(f"its dtype is {shown}; known are booleans, integers and floats of up to 8 bytes")
    sizes = shape if isinstance(shape, tuple) and len(shape) <= MOST_DIMENSIONS else (-1,)
    if not isinstance(fortran, bool) or not all(type(n) is int and 0 <= n <= MOST_SIZE for n in sizes):
        raise ValueError("its shape or order makes no sense")
    if math.prod(n or 1 for n in sizes) > MOST_SIZE:
        raise ValueError(f"it has more than {MOST_SIZE} elements")
    return sizes, fortran, np.dtype(kind)


def map_npy(path: Path) -> NDArray[Any]:
    """The array in a file, mapped for reading. Raises OSError, and ValueError for what isn't one."""
    with path.open("rb") as file:
        shape, fortran, dtype = read_header(file)
        offset, size = file.tell(), file.seek(0, 2)
        if size - offset != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it has {size - offset} bytes of data, and its header speaks of another number")
        order: Any = "F" if fortran else "C"
        if not math.prod(shape):
            return np.empty(shape, dtype, order)
        return np.memmap(file, dtype, "r", offset, shape, order)

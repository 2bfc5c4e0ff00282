"""Values and weights as parties keep and send them: numpy arrays, whatever computes with them.

An array has the shape of its value and the dtype that payloads give it. numpy has no bfloat16, and truth values may be
packed by others: both are kept as their bits.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.partition.node import ALIGNMENT, Value

__all__ = [
    "DTYPES",
    "Array",
    "Bytes",
    "as_bytes",
    "as_kept",
    "copied",
    "digest_begun",
    "digest_of",
    "empty",
    "readable",
    "shaped",
]

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

# The dtypes of values, and those of the arrays that hold them.
DTYPES = {"bool": "u1", "bfloat16": "<u2", "uint8": "u1", "int8": "i1", "int16": "<i2", "int32": "<i4"} | {
    "int64": "<i8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}
AS_BITS = ("bool", "bfloat16")


def empty(value: Value) -> Array:
    """Memory for a value, not written to yet. Results may depend on the alignment, so it is always that of a stage."""
    data = np.empty(value.nbytes + ALIGNMENT, np.uint8)
    start = -data.ctypes.data % ALIGNMENT
    return shaped(data[start : start + value.nbytes], value)


def shaped(data: Bytes, value: Value) -> Array:
    """The value whose bytes in row-major order these are, not copied."""
    return data.view(DTYPES[value.dtype]).reshape(value.shape)


def as_bytes(array: Array) -> Bytes:
    """The bytes of an array in row-major order; not copied where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def as_kept(array: Array, value: Value) -> Array:
    """The array, which may be of the value's own dtype, as payloads carry it; not copied."""
    return array.view(DTYPES[value.dtype]) if array.dtype.name == value.dtype in AS_BITS else array


def copied(array: Array, value: Value) -> Array:
    """A copy of what a decoder holds or a source gives."""
    found = empty(value)
    np.copyto(found, as_kept(array, value))
    return found


def readable(array: Array, value: Value) -> Array:
    """The array for whoever reads it: of the value's own dtype, but bfloat16, which numpy hasn't, as float32."""
    if value.dtype == "bfloat16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.view(np.bool_) if value.dtype == "bool" else array


def digest_of(array: Array, value: Value) -> str:
    """SHA-256 of a weight: its dtype, its shape and its bytes in row-major order."""
    digest = digest_begun(value)
    digest.update(as_bytes(array).data)
    return digest.hexdigest()


def digest_begun(value: Value) -> hashlib._Hash:
    """That of a weight whose bytes are still to come."""
    return hashlib.sha256(f"torch.{value.dtype} {value.shape}\n".encode())  # as caches on disk name them

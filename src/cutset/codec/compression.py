"""Lossless compression of a payload's arrays: zstd where the library is installed, else zlib.

What is to be decompressed comes from the other side: it is copied first, and nothing larger than expected is made.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cutset.errors import DeviceError, FrameError

__all__ = ["Compressor", "available", "compress", "decompress"]

Compressor = Literal["zlib", "zstd"]
Bytes = NDArray[np.uint8]
LEVEL = 1  # more costs several times the seconds for a few per cent of the bytes


def available() -> Sequence[Compressor]:
    """What this machine can compress and decompress with, the better one first. zlib is always there."""
    return ("zstd", "zlib") if find_spec("zstandard") is not None else ("zlib",)


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise DeviceError(
            "a payload is compressed with zstd, which isn't installed here: pip install 'cutset[stream]'"
        ) from None
    return zstandard


def compress(name: Compressor, data: Bytes) -> Bytes:
    """Contiguous bytes, compressed."""
    if name == "zlib":
        packed = zlib.compress(data.data, LEVEL)
    else:
        packed = _zstandard().ZstdCompressor(level=LEVEL, write_content_size=True).compress(data.data)
    return np.frombuffer(packed, np.uint8)


def decompress(name: Compressor, data: Bytes, size: int) -> Bytes:
    """Exactly `size` bytes. Raises FrameError for data that isn't that, DeviceError without the library."""
    source = data.tobytes()  # a private copy: data may lie in memory that the other side still writes to
    plain = _from_zlib(source, size) if name == "zlib" else _from_zstd(source, size)
    if plain is None or len(plain) != size:
        raise FrameError(f"compressed data isn't of {size} bytes")
    return np.frombuffer(plain, np.uint8)


def _from_zlib(source: bytes, size: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(source, size + 1)
    except zlib.error as error:
        raise FrameError(f"compressed data can't be read: {error}") from None
    return plain if stream.eof and not stream.unused_data else None


def _from_zstd(source: bytes, size: int) -> bytes | None:
    library = _zstandard()
    try:
        # The library allocates what the data says of its size, so that is compared before.
        if library.get_frame_parameters(source).content_size != size:
            return None
        if not size:  # the library wouldn't look further
            reader = library.ZstdDecompressor().decompressobj()
            return None if reader.decompress(source) or not reader.eof or reader.unused_data else b""
        plain: bytes = library.ZstdDecompressor().decompress(source, max_output_size=size, allow_extra_data=False)
    except library.ZstdError as error:
        raise FrameError(f"compressed data can't be read: {error}") from None
    return plain

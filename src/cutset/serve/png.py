"""Pictures as PNG: what a browser shows without a decoder of ours."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["data_url", "png"]


def png(rgb: NDArray[np.uint8]) -> bytes:
    """An 8-bit picture (height, width, 3) as a PNG file (ISO/IEC 15948), hardly compressed."""
    height, width = rgb.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each begins with its filter: none
    rows[:, 1:] = rgb.reshape(height, 3 * width)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def data_url(pixels: NDArray[Any], widest: int = 320) -> str:
    """A picture (1, 3, height, width) of uint8 as a data URL, thinned out to at most `widest` pixels."""
    step = max(1, -(-max(pixels.shape[2:]) // widest))
    rgb = np.ascontiguousarray(pixels[0, :, ::step, ::step].transpose(1, 2, 0))
    return "data:image/png;base64," + base64.b64encode(png(rgb)).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

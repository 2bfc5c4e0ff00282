"""Which way up a picture is to be shown, as EXIF's number.

1: as it is; 2: mirrored left to right; 3: turned by 180°; 4: mirrored top to bottom; 5: transposed; 6: turned right by
90°; 7: transposed along the other diagonal; 8: turned left by 90°.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UPRIGHT", "exif_orientation", "frame_orientation", "turn", "turned_size"]

UPRIGHT = 1
TAG = 0x0112  # of EXIF's orientation
# The signs of a display matrix's a, b, c, d: a pixel at (x, y) is shown at (a·x + c·y, b·x + d·y).
MATRICES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
ANGLES = {90: 8, 180: 3, -180: 3, -90: 6}  # degrees counter-clockwise


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Rows and columns of a picture of that size after it was turned; and before, for a size after."""
    return (size[1], size[0]) if orientation >= 5 else size


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A picture (1, 3, rows, columns) as it is to be seen, C-contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(2, 3)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, :, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def frame_orientation(frame: Any, data: bytes) -> int:
    """What a decoded frame says of itself, or the file `data` that it is from.

    Angles between quarter turns become the nearest one.
    """
    try:
        matrix = next((bytes(one) for one in frame.side_data if one.type.name == "DISPLAYMATRIX"), b"")
    except ValueError:  # side data that PyAV doesn't know: EXIF is one kind
        return exif_orientation(data) or ANGLES.get(90 * round(frame.rotation / 90), UPRIGHT)
    if len(matrix) < 36:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        b = c = 0
    else:
        a = d = 0
    return MATRICES.get((_sign(a), _sign(b), _sign(c), _sign(d)), UPRIGHT)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def exif_orientation(data: bytes) -> int | None:
    """The orientation that the EXIF of a JPEG, PNG or WebP file gives, or None where it gives none."""
    for kind, block in _blocks(data):
        if kind in (b"eXIf", b"EXIF") or (kind == b"\xe1" and block.startswith(b"Exif\0\0")):
            return _tiff_orientation(block.removeprefix(b"Exif\0\0"))
    return None


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and content of a file's segments or chunks before its pixels; of WebP, all."""
    if data[:2] == b"\xff\xd8":
        at = 2
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            if data[at + 1] == 0xFF:  # a fill byte
                at += 1
                continue
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            yield data[at + 1 : at + 2], data[at + 4 : at + 2 + size]
            at += 2 + max(size, 2)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at + 8 <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            at += 12 + size
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        at = 12
        while at + 8 <= len(data):
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            yield data[at : at + 4], data[at + 8 : at + 8 + size]
            at += 8 + size + size % 2


def _tiff_orientation(block: bytes) -> int | None:
    """From the first directory of a TIFF header."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        if order is None:
            return None
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for i in range(count):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * i)
            if tag == TAG:
                return int(value) if kind == 3 and number == 1 and 1 <= value <= 8 else None
    except struct.error:  # it is cut off
        pass
    return None

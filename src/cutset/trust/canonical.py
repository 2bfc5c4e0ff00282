"""Values as canonical CBOR (RFC 8949, 4.2.1): what is signed has one encoding. `verify_receipt.decode` reads it."""

from __future__ import annotations

import math
import struct
from typing import Any

__all__ = ["encode"]

SMALL = 256  # numbers and lengths below it have their heads ready

LIMITS = ((24, 0), (1 << 8, 1), (1 << 16, 2), (1 << 32, 4), (1 << 64, 8))  # below this, so many bytes behind the head

# Of every major type and count below SMALL: whole numbers from 0 on are the first ones.
HEADS = [
    bytes([major << 5 | count]) if count < LIMITS[0][0] else bytes([major << 5 | LIMITS[0][0], count])
    for major in range(6)
    for count in range(SMALL)
]


def encode(value: Any) -> bytes:
    """None, bools, whole numbers of 64 bits and a sign, floats, texts, bytes, lists, tuples, and maps by texts.

    A float has as few bytes as its value needs, and a whole number never becomes one. Raises ValueError for anything
    else, as NaN and infinities.
    """
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def _write(value: Any, parts: list[bytes]) -> None:
    kind = type(value)
    if kind is bytes:  # receipts are made of leaves: an index, a salt and what is said
        parts += (_head(2, len(value)), value)
    elif kind is list:
        parts.append(_head(4, len(value)))
        for one in value:
            _write(one, parts)
    elif kind is int and 0 <= value < SMALL:
        parts.append(HEADS[value])
    elif value is None or isinstance(value, bool):
        parts.append({False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value])
    elif isinstance(value, int):
        parts.append(_head(1, -1 - value) if value < 0 else _head(0, value))
    elif isinstance(value, bytes):
        parts += (_head(2, len(value)), value)
    elif isinstance(value, str):
        data = value.encode()  # a lone surrogate is a ValueError too
        parts += (_head(3, len(data)), data)
    elif isinstance(value, float):
        parts.append(_float(value))
    elif isinstance(value, list | tuple):
        parts.append(_head(4, len(value)))
        for one in value:
            _write(one, parts)
    elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
        parts.append(_head(5, len(value)))
        for key, one in sorted((encode(name), one) for name, one in value.items()):
            parts.append(key)
            _write(one, parts)
    else:
        raise ValueError(f"{type(value).__name__} can't be part of what is signed")


def _head(major: int, count: int) -> bytes:
    if count < SMALL:
        return HEADS[major * SMALL + count]
    for number, (limit, size) in enumerate(LIMITS):
        if count < limit:
            return bytes([major << 5 | 23 + number]) + count.to_bytes(size) if size else bytes([major << 5 | count])
    raise ValueError("a whole number needs more than 64 bits")


def _float(value: float) -> bytes:
    if not math.isfinite(value):
        raise ValueError(f"{value} can't be part of what is signed")
    for head, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            data = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, data)[0] == value:
            return head + data
    return b"\xfb" + struct.pack(">d", value)

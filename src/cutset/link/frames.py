"""Frames: a small header and raw arrays. docs/protocol.md is the specification.

    b"CUT" version | u32 length of the head | head | zeros to 64 | array 0 | zeros to 64 | array 1 | …

The head is MessagePack: [body, [[code, [dimension, …]], …]]. Everything is little-endian. `encode` gives the pieces
of a frame without copying an array; `decode` gives arrays that lie in the buffer it was given.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from cutset.errors import FrameError

__all__ = ["ALIGN", "MAX_ARRAYS", "MAX_DIMS", "MAX_HEADER", "VERSION", "Frame", "Layout", "decode", "encode", "plan"]

VERSION = 1
ALIGN = 64  # bytes; where arrays begin, counted from the frame's own beginning
MAX_HEADER = 64 << 10
MAX_HEAD = MAX_HEADER + (8 << 10)
MAX_ARRAYS = 16
MAX_DIMS = 8
MAX_DIM = 1 << 40

# The code of a dtype is its place here; a new one goes to the end.
NAMES = ("bool", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
DTYPES = tuple(np.dtype(name) for name in NAMES)
CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
SIZES = tuple(dtype.itemsize for dtype in DTYPES)
BOOL = CODES[np.dtype(bool)]

PRELUDE = struct.Struct("<3sBI")
ZEROS = bytes(ALIGN)
BIG_ENDIAN_HOST = sys.byteorder == "big"

Part = bytes | np.ndarray[Any, Any]
Layout = Sequence[tuple[Any, tuple[int, ...]]]  # dtype and shape of each array

_Dim = Annotated[int, msgspec.Meta(ge=0, le=MAX_DIM)]
_Shape = Annotated[tuple[_Dim, ...], msgspec.Meta(max_length=MAX_DIMS)]
_Code = Annotated[int, msgspec.Meta(ge=0, lt=len(DTYPES))]
_Head = tuple[
    Annotated[bytes, msgspec.Meta(max_length=MAX_HEADER)],
    Annotated[tuple[tuple[_Code, _Shape], ...], msgspec.Meta(max_length=MAX_ARRAYS)],
]
_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


class Frame:
    """What was received. `header` is the sender's own message, a private copy; `arrays` are read-only.

    With shared memory the arrays may lie in the ring: they are valid until `release()`, and the other side can still
    change them. Whoever must be safe from that reads each byte once, or copies.
    """

    __slots__ = ("_release", "arrays", "header")

    def __init__(
        self, header: bytes, arrays: tuple[np.ndarray[Any, Any], ...], release: Callable[[], None] | None = None
    ) -> None:
        self.header = header
        self.arrays = arrays
        self._release = release

    def release(self) -> None:
        """Gives the room back. The arrays must not be read after that. A second call does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in self.arrays)
        return f"Frame({len(self.header)} bytes of header; {shapes or 'no arrays'})"


def encode(header: bytes, arrays: Sequence[ArrayLike], limit: int) -> tuple[list[Part], int]:
    """The pieces of a frame, to be sent one after another, and their bytes in all.

    Arrays that lie in memory as they are sent are not copied. Raises FrameError for a dtype that can't be sent, and
    for a header or frame that is too large (`limit`: bytes of the whole frame).
    """
    if len(arrays) > MAX_ARRAYS:
        raise FrameError(f"a frame has at most {MAX_ARRAYS} arrays, not {len(arrays)}")
    described, size = [], 0
    parts: list[Part] = [b""]  # the front's place; it ends at a multiple of ALIGN, so it can be written last
    for array in arrays:
        if type(array) is not np.ndarray:
            array = _plain(array)
        code = CODES.get(array.dtype)
        if code is None or not array.flags.c_contiguous:
            array = _plain(array)
            code = CODES[array.dtype]
        shape = array.shape
        if len(shape) > MAX_DIMS:
            raise FrameError(f"an array in a frame has at most {MAX_DIMS} dimensions, not {len(shape)}")
        described.append((code, shape))
        if gap := -size % ALIGN:
            parts.append(ZEROS[:gap])
        parts.append(array)
        size += gap + array.nbytes
    parts[0] = front = _front(header, described)
    total = len(front) + size
    if total > limit:
        raise FrameError(f"a frame of {total} bytes is larger than the limit of {limit}; see Limits.frame")
    return parts, total


def plan(
    header: bytes, layout: Layout, limit: int
) -> tuple[bytes, list[tuple[np.dtype[Any], tuple[int, ...], int]], int]:
    """How a frame will lie in memory: its front, (dtype, shape, offset) of each array, and its bytes in all."""
    if len(layout) > MAX_ARRAYS:
        raise FrameError(f"a frame has at most {MAX_ARRAYS} arrays, not {len(layout)}")
    described = []
    for dtype, shape in layout:
        code = CODES.get(np.dtype(dtype))
        if code is None:
            raise FrameError(f"an array of dtype {np.dtype(dtype)} can't be reserved")
        if len(shape) > MAX_DIMS or any(not 0 <= size <= MAX_DIM for size in shape):
            raise FrameError(f"an array in a frame has at most {MAX_DIMS} dimensions, each from 0: not {shape}")
        described.append((code, tuple(int(size) for size in shape)))
    front = _front(header, described)
    total, places = len(front), []
    for code, shape in described:
        total += -total % ALIGN
        places.append((DTYPES[code], shape, total))
        total += math.prod(shape) * SIZES[code]
    if total > limit:
        raise FrameError(f"a frame of {total} bytes is larger than the limit of {limit}; see Limits.frame")
    return front, places, total


def decode(buffer: memoryview, start: int, length: int, limit: int, release: Callable[[], None] | None = None) -> Frame:
    """The frame in buffer[start : start + length]; `start` is a multiple of `ALIGN` where arrays shall be aligned.

    The head is copied before it is read, and read once: the buffer may be memory that an attacker writes to. Arrays
    that aren't aligned, and booleans, are copied. Raises FrameError for anything but exactly one frame.
    """
    if not PRELUDE.size <= length <= limit:
        reason = f"{length} bytes are not a frame, which has {PRELUDE.size} to {limit}"
        raise FrameError(reason, too_large=length > limit)
    magic, version, size = PRELUDE.unpack_from(buffer, start)
    if magic != b"CUT":
        raise FrameError("what came doesn't begin like a frame: the other side isn't Cutset, or something was damaged")
    if version != VERSION:
        raise FrameError(f"the other side sends frames of version {version}, this is {VERSION}: install the same one")
    at = PRELUDE.size + size
    if size > MAX_HEAD or at > length:
        raise FrameError(f"a head of {size} bytes in a frame of {length}, where {MAX_HEAD} is the limit")
    try:
        header, described = _decode_head(bytes(buffer[start + PRELUDE.size : start + at]))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"the head of a frame can't be read: {error}") from None
    arrays = []
    at += -at % ALIGN
    for code, shape in described:
        at += -at % ALIGN
        nbytes = math.prod(shape) * SIZES[code]
        if at + nbytes > length:
            raise FrameError(f"an array of {nbytes} bytes at {at} goes beyond a frame of {length}")
        if not nbytes and math.prod(size or 1 for size in shape) > limit:
            raise FrameError(f"an array of shape {shape} is larger than the limit of {limit}")
        array: np.ndarray[Any, Any] = np.ndarray(shape, DTYPES[code], buffer, start + at)
        if code == BOOL:  # a boolean that is neither 0 nor 1 would surprise numpy
            array = np.ndarray(shape, np.uint8, buffer, start + at) != 0
            array = np.asarray(array)
            array.flags.writeable = False
        elif not array.flags.aligned:
            array = array.copy()
            array.flags.writeable = False
        arrays.append(array)
        at += nbytes
    if at != length:
        raise FrameError(f"a frame of {length} bytes whose parts end at {at}")
    return Frame(header, tuple(arrays), release)


def _front(header: bytes, described: list[tuple[int, tuple[int, ...]]]) -> bytes:
    if len(header) > MAX_HEADER:
        raise FrameError(f"a header of {len(header)} bytes is larger than the limit of {MAX_HEADER}")
    head = _encode_head((header, described))
    return PRELUDE.pack(b"CUT", VERSION, len(head)) + head + ZEROS[: -(PRELUDE.size + len(head)) % ALIGN]


def _plain(value: ArrayLike) -> np.ndarray[Any, Any]:
    """A C-contiguous array of a dtype that can be sent, with the same values."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise FrameError(f"what can't be made an array can't be sent: {error}") from None
    if array.dtype.name == "bfloat16":  # of ml_dtypes; the job's header says that it is one
        array = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
    elif array.dtype.byteorder == ">" or (BIG_ENDIAN_HOST and array.dtype.byteorder == "="):
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype not in CODES:
        raise FrameError(
            f"an array of dtype {array.dtype} can't be sent: only booleans, integers, and floating-point and complex "
            "numbers of up to 64 bits a part"
        )
    array = array.astype(DTYPES[CODES[array.dtype]], order="C", copy=False)
    return array if array.flags.c_contiguous else array.copy()

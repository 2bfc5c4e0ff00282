"""The frames of a product as native code writes and reads them, against the one parser for all frames."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.errors import FrameError
from cutset.kernels.native import extension
from cutset.link.frames import Frame, decode, plan
from cutset.offload.messages import Counters, Message, Multiply, Product, encode
from cutset.offload.messages import decode as decode_message

native = extension()
LIMIT = 1 << 30
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFFFF, 0x100000000, 2**62]
SIZES = [1, 127, 128, 255, 256, 65535, 65536, 1 << 20]


def whole(message: Message, dtype: str, shape: tuple[int, ...], fill: int = 7) -> bytes:
    """A frame with one array."""
    front, [(kind, _, _)], total = plan(encode(message), [(np.dtype(dtype), shape)], LIMIT)
    return front + np.full(shape, fill, kind).tobytes() if total else b""


@pytest.mark.parametrize("masked", [False, True])
def test_fronts_are_what_the_link_writes(masked: bool) -> None:
    for edge in EDGES:
        for size in SIZES:
            message = Multiply(edge, EDGES[-1 - EDGES.index(edge)])
            layout = [(np.dtype(np.uint32 if masked else np.int16), (size, SIZES[-1 - SIZES.index(size)]))]
            front, _, _ = plan(encode(message), layout, 1 << 34)
            assert native.front_of_multiply(message.call, message.matrix, masked, *layout[0][1]) == front
            answer = Product(edge, edge * 0.37, message.matrix)
            layout = [(np.dtype(np.uint32 if masked else np.int32), layout[0][1])]
            front, _, _ = plan(encode(answer), layout, 1 << 34)
            assert native.front_of_answer(answer.call, answer.seconds, answer.shared, masked, *layout[0][1]) == front


FRAMES = [
    whole(Multiply(5, 3), "<u4", (2, 5)),
    whole(Multiply(2**40, 300), "<i2", (1, 200)),
    whole(Product(77, 0.25, 4), "<u4", (3, 300)),
    whole(Product(2**33, 1e-6, 70000), "<i4", (1, 7)),
]


def read_by_the_link(data: bytes) -> tuple[Message, Frame] | None:
    try:
        frame = decode(memoryview(data), 0, len(data), LIMIT)
        return decode_message(frame.header), frame
    except FrameError:
        return None


def agrees(data: bytes) -> bool:
    """Whether native code reads a frame; if so, the link must read the same in it."""
    found = native.read_frame(data)
    if found is None:
        return False
    read = read_by_the_link(data)
    assert read is not None
    message, frame = read
    kind, *fields, at = found
    [array] = frame.arrays
    if kind == "multiply":
        assert isinstance(message, Multiply)
        call, matrix, masked, *shape = fields
        assert (message.call, message.matrix) == (call, matrix)
        assert array.dtype == (np.uint32 if masked else np.int16)
    else:
        assert isinstance(message, Product)
        call, seconds, shared, masked, *shape = fields
        assert (message.call, message.seconds, message.shared) == (call, seconds, shared)
        assert array.dtype == (np.uint32 if masked else np.int32)
    assert array.shape == tuple(shape)
    assert len(data) - at == array.nbytes
    return True


def test_what_is_read_is_what_the_link_reads() -> None:
    for frame in FRAMES:
        assert agrees(frame)
        for cut in range(len(frame)):
            assert not agrees(frame[:cut])
        assert not agrees(frame + b"\0")


def test_every_changed_byte_is_read_the_same_or_not_at_all() -> None:
    rng = np.random.default_rng(1)
    read = 0
    for frame in FRAMES:
        for at in range(72):
            for value in (0, 1, 0x7F, 0x80, 0x93, 0xC4, 0xCB, 0xCF, 0xD0, 0xFF, int(rng.integers(256))):
                read += agrees(frame[:at] + bytes([value]) + frame[at + 1 :])
        for _ in range(300):
            changed = bytearray(frame)
            for at in rng.integers(0, 80, 3):
                changed[at] = int(rng.integers(256))
            read += agrees(bytes(changed))
    assert read > 20  # numbers, and the padding


@pytest.mark.parametrize(
    "frame",
    [
        whole(Product(1, float("nan"), 1), "<i4", (1, 7)),
        whole(Product(1, -0.5, 1), "<i4", (1, 7)),
        whole(Product(1, 0.5, 1), "<f4", (1, 7)),
        whole(Product(1, 0.5, 1), "<i4", (7,)),
        whole(Product(1, 0.5, 1), "<i4", (0, 7)),
        whole(Multiply(1, 1), "<i4", (1, 7)),
        whole(Multiply(1, 1), "<i2", (1, 1, 7)),
        whole(Counters(1, {"calls": 1.0}), "<i4", (1, 7)),
    ],
)
def test_everything_else_is_left_to_the_link(frame: bytes) -> None:
    assert native.read_frame(frame) is None

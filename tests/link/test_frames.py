"""Frames: what is refused, and that nothing which isn't a frame gets through."""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import FrameError
from cutset.link.channel import joined
from cutset.link.frames import CODES, DTYPES, Frame, decode, encode, plan

LIMIT = 1 << 20


def packed(header: bytes = b"", arrays: tuple = ()) -> bytes:
    return joined(encode(header, arrays, LIMIT)[0])


def unpacked(data: bytes, limit: int = LIMIT) -> Frame:
    return decode(memoryview(data).toreadonly(), 0, len(data), limit)


def forged(head: object, tail: bytes = b"", magic: bytes = b"CUT\x01") -> bytes:
    body = msgspec.msgpack.encode(head)
    front = magic + struct.pack("<I", len(body)) + body
    return front + bytes(-len(front) % 64) + tail


def test_the_bytes_of_a_frame_are_those_of_the_specification() -> None:
    data = packed(b"ab", (np.array([1, 2], "<u2"), np.array([[3]], "i1")))
    head = b"\x92\xc4\x02ab\x92\x92\x06\x91\x02\x92\x01\x92\x01\x01"
    front = b"CUT\x01" + struct.pack("<I", len(head)) + head
    assert data == front + bytes(64 - len(front)) + b"\x01\x00\x02\x00" + bytes(60) + b"\x03"


def test_encoding_doesn_t_copy() -> None:
    array = np.arange(1000)
    parts, total = encode(b"", [array], LIMIT)
    assert parts[-1] is array
    assert total == 64 + array.nbytes


def test_decoding_doesn_t_copy() -> None:
    data = packed(b"", (np.arange(1000),))
    at = np.frombuffer(data, np.uint8).ctypes.data
    assert unpacked(data).arrays[0].ctypes.data == at + 64


@pytest.mark.parametrize("dtype", [*DTYPES, "longlong", "ulonglong", "intc"])
def test_every_dtype_comes_back(dtype: object) -> None:
    array = np.array([[1, 0], [1, 1]], dtype)
    got = unpacked(packed(b"", (array,))).arrays[0]
    assert got.dtype == array.dtype
    assert (got == array).all()


def test_bfloat16_comes_as_its_bits() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    got = unpacked(packed(b"", (array,))).arrays[0]
    assert got.dtype == np.uint16
    assert (got == array.view(np.uint16)).all()


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), np.array([b"a"]), np.zeros(2, "M8[s]"), np.zeros(2, "i4,f4"), object()]
)
def test_what_isn_t_numbers_is_refused(value: object) -> None:
    with pytest.raises(FrameError, match="can't be sent"):
        packed(b"", (value,))


def test_long_doubles_are_refused() -> None:
    if np.dtype("longdouble").itemsize > 8:
        with pytest.raises(FrameError, match="can't be sent"):
            packed(b"", (np.zeros(1, "longdouble"),))


def test_a_plan_is_what_is_encoded() -> None:
    arrays = (np.zeros((3, 5), np.uint32), np.zeros((0, 2), np.int8), np.zeros((), np.float64), np.zeros(7, bool))
    front, places, total = plan(b"xyz", [(a.dtype, a.shape) for a in arrays], LIMIT)
    data = packed(b"xyz", arrays)
    assert len(data) == total
    assert data.startswith(front)
    assert [(d, s) for d, s, _ in places] == [(a.dtype, a.shape) for a in arrays]


I4 = CODES[np.dtype("<i4")]
REFUSED = {
    "empty": b"",
    "short": b"CUT\x01\0\0",
    "another program": forged([b"", []], magic=b"HTTP"),
    "another version": forged([b"", []], magic=b"CUT\x02"),
    "head beyond the frame": b"CUT\x01" + struct.pack("<I", 1000) + bytes(56),
    "head of 4 GiB": b"CUT\x01" + b"\xff\xff\xff\xff" + bytes(56),
    "not a pair": forged([b""]),
    "a map": forged({"a": 1}),
    "text for bytes": forged(["", []]),
    "header too long": forged([bytes(65537), []]),
    "17 arrays": forged([b"", [[I4, [0]]] * 17]),
    "9 dimensions": forged([b"", [[I4, [1] * 9]]], bytes(4)),
    "unknown code": forged([b"", [[len(DTYPES), [1]]]], bytes(16)),
    "negative code": forged([b"", [[-1, [1]]]], bytes(16)),
    "negative dimension": forged([b"", [[I4, [-1]]]]),
    "huge dimension": forged([b"", [[I4, [1 << 62]]]]),
    "product that wraps": forged([b"", [[I4, [1 << 32, 1 << 32]]]]),
    "huge beside zero": forged([b"", [[I4, [0, 1 << 39, 1 << 39]]]]),
    "float dimension": forged([b"", [[I4, [1.0]]]], bytes(4)),
    "array beyond the frame": forged([b"", [[I4, [2]]]], bytes(7)),
    "more than was announced": forged([b"", [[I4, [2]]]], bytes(9)),
    "no padding": forged([b"", []])[:-1],
    "trailing": forged([b"", []], bytes(64)),
    "deep nesting": b"CUT\x01" + struct.pack("<I", 60000) + b"\x91" * 60000 + bytes(56),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_receiver_refuses(name: str) -> None:
    with pytest.raises(FrameError):
        unpacked(REFUSED[name])


def test_a_frame_over_the_limit_is_refused() -> None:
    data = packed(b"", (np.zeros(2000, np.uint8),))
    with pytest.raises(FrameError):
        unpacked(data, 1024)
    with pytest.raises(FrameError):
        encode(b"", [np.zeros(2000, np.uint8)], 1024)


def test_booleans_are_zero_or_one() -> None:
    got = unpacked(forged([b"", [[0, [4]]]], b"\x00\x01\x02\xff")).arrays[0]
    assert got.view(np.uint8).tolist() == [0, 1, 1, 1]
    assert not got.flags.writeable


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_an_error(data: bytes) -> None:
    for candidate in (data, b"CUT\x01" + data, b"CUT\x01" + struct.pack("<I", len(data)) + data):
        try:
            unpacked(candidate)
        except FrameError:
            continue


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_frame_is_a_frame_or_an_error(data: st.DataObject) -> None:
    whole = bytearray(packed(b"header", (np.arange(6, dtype=np.int16).reshape(2, 3), np.ones(3), np.zeros(5, bool))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 63))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for candidate in (bytes(whole), bytes(whole[:cut])):
        try:
            frame = unpacked(candidate)
        except FrameError:
            continue
        assert sum(array.nbytes for array in frame.arrays) <= len(candidate)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200),
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=8)).filter(
            lambda pair: int(np.prod(pair[1])) < 2000
        ),
        max_size=16,
    ),
)
def test_what_is_encoded_is_decoded(header: bytes, kinds: list) -> None:
    rng = np.random.default_rng(1)
    arrays = tuple(rng.integers(0, 2, shape).astype(dtype) for dtype, shape in kinds)
    frame = unpacked(packed(header, arrays), 1 << 20)
    assert frame.header == header
    for got, sent in zip(frame.arrays, arrays, strict=True):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        assert (got == sent).all()

"""What isn't exactly a message is a FrameError, never anything else."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import FrameError
from cutset.offload import messages as m
from link.hellos import hello, welcome

SAMPLES: list[m.Message] = [
    hello(m.PROTOCOL, evidence=b"e"),
    welcome(m.PROTOCOL, b"about", model="ab" * 32),
    m.Multiply(7, 3),
    m.Product(7, 0.25, 3),
    m.MakePads(7, [(3, 4, b"s" * 32)]),
    m.SelfTest(7),
    m.AskCounters(7),
    m.Counters(7, {"calls": 3.0}),
    m.Refused("no", 7),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_messages_survive_the_wire(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\xc0",
        msgspec.msgpack.encode(["multiply", 1]),
        msgspec.msgpack.encode(["multiply", 1, 2, 3]),
        msgspec.msgpack.encode(["multiply", -1, 2]),
        msgspec.msgpack.encode(["refused", "\x1b[2J", 1]),
        msgspec.msgpack.encode(["refused", "two\nlines", 1]),
        msgspec.msgpack.encode(["refused", "ends\n", 1]),
        msgspec.msgpack.encode(["refused", "\x9b31m", 1]),
        msgspec.msgpack.encode(["counters", 1, {"\x1b": 1.0}]),
        msgspec.msgpack.encode(["welcome", "offload", 2, "\x1b]0;title\x07", "", bytes(16), b"", b""]),
        msgspec.msgpack.encode(["multiply", 1, True]),
        msgspec.msgpack.encode(["multiply", 1, 2.5]),
        msgspec.msgpack.encode(["product", 1, -1.0, 3]),
        msgspec.msgpack.encode(["unheard of", 1]),
        msgspec.msgpack.encode({"type": "multiply", "call": 1, "matrix": 2}),
        msgspec.msgpack.encode(["refused", "x" * 1001, 1]),
        msgspec.msgpack.encode(["pads", 1, [[1, 1, b"s"]] * 9]),
        b"\x93\xa8multiply\x01\x02\x00",
        b"\x91" * 10_000,
    ],
)
def test_what_is_no_message_is_a_frame_error(wrong: bytes) -> None:
    with pytest.raises(FrameError, match="isn't one of the offload's"):
        m.decode(wrong)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.sampled_from(SAMPLES).map(m.encode)), st.data())
def test_noise_is_a_message_or_a_frame_error(noise: bytes, data: st.DataObject) -> None:
    if noise:
        at = data.draw(st.integers(0, len(noise) - 1))
        noise = noise[:at] + bytes([data.draw(st.integers(0, 255))]) + noise[at + 1 :]
    with contextlib.suppress(FrameError):
        m.encode(m.decode(noise))

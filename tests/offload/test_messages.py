"""What isn't exactly a message is a FrameError, never anything else."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import FrameError
from cutset.offload import messages as m

SAMPLES: list[m.Message] = [
    m.Hello(1, "cutset 1"),
    m.Welcome(1, "cutset 1", "ab" * 32, 9, "cpu", 2, 4096, True),
    m.Multiply(7, 3),
    m.Product(7, 0.25, 3),
    m.MakePads(7, [(3, 4, b"s" * 32)]),
    m.SelfTest(7),
    m.AskCounters(7),
    m.Counters(7, {"calls": 3.0}),
    m.Refused(7, "no"),
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
        msgspec.msgpack.encode(["refused", 1, "\x1b[2J"]),
        msgspec.msgpack.encode(["refused", 1, "two\nlines"]),
        msgspec.msgpack.encode(["refused", 1, "ends\n"]),
        msgspec.msgpack.encode(["refused", 1, "\x9b31m"]),
        msgspec.msgpack.encode(["counters", 1, {"\x1b": 1.0}]),
        msgspec.msgpack.encode(["welcome", 1, "\x1b]0;title\x07", "", 1, "cpu", 1, 1, True]),
        msgspec.msgpack.encode(["multiply", 1, True]),
        msgspec.msgpack.encode(["multiply", 1, 2.5]),
        msgspec.msgpack.encode(["product", 1, -1.0, 3]),
        msgspec.msgpack.encode(["unheard of", 1]),
        msgspec.msgpack.encode({"type": "multiply", "call": 1, "matrix": 2}),
        msgspec.msgpack.encode(["refused", 1, "x" * 501]),
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

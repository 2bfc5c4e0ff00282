"""One value has one encoding: RFC 8949's own examples, and every other way to write them refused."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cutset.trust.canonical import encode
from cutset.trust.verify_receipt import MOST_DEPTH, InvalidReceipt, decode

# RFC 8949, appendix A, as far as such values are signed.
EXAMPLES: list[tuple[Any, str]] = [
    (0, "00"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (0.0, "f90000"),
    (-0.0, "f98000"),
    (1.0, "f93c00"),
    (1.1, "fb3ff199999999999a"),
    (1.5, "f93e00"),
    (65504.0, "f97bff"),
    (100000.0, "fa47c35000"),
    (3.4028234663852886e38, "fa7f7fffff"),
    (1.0e300, "fb7e37e43c8800759c"),
    (5.960464477539063e-8, "f90001"),
    (-4.1, "fbc010666666666666"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\1\2\3\4", "4401020304"),
    ("", "60"),
    ("IETF", "6449455446"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
]
WRONG = {
    "1817": "a longer number",
    "190018": "a longer number",
    "1a0000ffff": "a longer number",
    "1b00000000ffffffff": "a longer number",
    "3817": "a longer negative number",
    "5801ff": "a longer length of bytes",
    "7801" + "61": "a longer length of a text",
    "980101": "a longer length of a list",
    "b8016161" + "01": "a longer length of a map",
    "5f4101ff": "indefinite bytes",
    "7f6161ff": "an indefinite text",
    "9f01ff": "an indefinite list",
    "bf616101ff": "an indefinite map",
    "1c": "a reserved length",
    "ff": "a break",
    "c000": "a tag",
    "f7": "undefined",
    "f0": "another simple value",
    "f820": "a simple value of two bytes",
    "f97e00": "not a number",
    "f97c00": "infinity",
    "fa7fc00000": "not a number",
    "fa3fc00000": "a float that half as many bytes hold",
    "fb3ff8000000000000": "a float that a quarter of the bytes holds",
    "fb40f86a0000000000": "a float that half the bytes hold",
    "61ff": "no UTF-8",
    "63eda080": "a surrogate",
    "62c080": "a longer UTF-8",
    "a2616201616101": "keys out of their order",
    "a2616101616102": "a key that comes twice",
    "a1" + "01" + "01": "a number as a key",
    "a1" + "4161" + "01": "bytes as a key",
    "a26261610061" + "6200": "a longer key before a shorter one",
    "0000": "bytes behind the end",
    "": "nothing",
    "18": "an end in the middle",
    "42" + "01": "an end in the middle",
    "8201": "an end in the middle",
    "a16161": "an end in the middle",
    "5b7fffffffffffffff": "a length that nothing has",
    "9b7fffffffffffffff": "a length that nothing has",
    "bb7fffffffffffffff": "a length that nothing has",
    "81" * 7 + "00": "too deep",
}


@pytest.mark.parametrize(("value", "data"), EXAMPLES, ids=lambda one: str(one)[:20])
def test_the_examples_of_the_standard(value: Any, data: str) -> None:
    assert encode(value).hex() == data
    found = decode(bytes.fromhex(data))
    assert (type(found), found) == (type(value), value)
    if isinstance(value, float):
        assert math.copysign(1, found) == math.copysign(1, value)


@pytest.mark.parametrize("data", WRONG, ids=lambda data: f"{WRONG[data]} {data[:12]}")
def test_every_other_encoding_is_refused(data: str) -> None:
    with pytest.raises(InvalidReceipt):
        decode(bytes.fromhex(data))


def test_keys_come_by_their_bytes() -> None:
    assert encode({"aa": 1, "b": 2, "a": 3}) == bytes.fromhex("a3" + "616103" + "616202" + "62616101")


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, math.nan, math.inf, {1: 2}, {2}, "\ud800", 1j])
def test_what_has_no_encoding(value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(width=16, allow_nan=False, allow_infinity=False)
    | st.binary(max_size=40)
    | st.text(max_size=30)
)


nested = st.recursive(
    scalars, lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=3), one), max_leaves=6
)


@given(nested)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written(value: Any) -> None:
    assume(_depth(value) <= MOST_DEPTH)
    assert repr(decode(encode(value))) == repr(_sorted(value))


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value, key=encode)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def test_whatever_is_accepted_is_written_the_same_again() -> None:
    """Random bytes, and valid ones with some changed: no two of those accepted stand for one value."""
    draw, accepted = random.Random(7), 0
    seeds = [bytes.fromhex(data) for _, data in EXAMPLES]
    for _ in range(6000):
        data = bytearray(draw.choice(seeds) if draw.random() < 0.8 else draw.randbytes(draw.randrange(1, 12)))
        for _ in range(draw.randrange(3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            found = decode(bytes(data))
        except InvalidReceipt:
            continue
        accepted += 1
        assert encode(found) == bytes(data)
    assert accepted > 1000


def test_every_half_float_is_its_own_shortest() -> None:
    for bits in range(0, 1 << 16, 7):
        value = struct.unpack(">e", bits.to_bytes(2))[0]
        if math.isfinite(value):
            assert encode(value) == b"\xf9" + bits.to_bytes(2)

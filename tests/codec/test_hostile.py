"""Damaged and hostile payloads are refused and harm nothing."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.payloads import FREE, same, sent, stream
from cutset.codec import Budget, Encoder, Verdict, available
from cutset.codec.compression import compress, decompress
from cutset.codec.payload import DTYPES, Payload, decode, encode
from cutset.errors import FrameError


def test_a_damaged_delta_costs_a_key():
    encoder, decoder, tensors, payloads = stream(3, compressor=None)
    decoder.decode(*payloads[0])
    payload, (mask, values) = payloads[1]
    wrong = mask.copy()
    wrong[0] ^= 1
    with pytest.raises(FrameError, match="doesn't name"):
        decoder.decode(payload, (wrong, values))
    assert same(decoder.tensor, tensors[0])
    assert decoder.decode(*payloads[2]).verdict is Verdict.NEED_KEY
    key = Encoder(encoder.spec, epoch=1, costs=FREE.copy(), compressor=None, bandwidth=1e6)
    payload, (mask, values) = sent(key.encode(np.where(tensors[0] > 0, tensors[0], 0), 0))
    wrong = np.ones_like(mask)
    with pytest.raises(FrameError, match="doesn't name"):
        decoder.decode(payload, (wrong, values))
    assert decoder.tensor is None  # half a key is no tensor
    assert decoder.decode(payload, (mask, values)).verdict is Verdict.APPLIED


NUMBERS = st.sampled_from([0, 1, 2, 299, 300, 301, 2**30, 2**62])
FIELDS = {
    "kind": st.sampled_from(["key", "delta"]),
    "source": NUMBERS,
    "edge": st.sampled_from(["conv1", "", "conv2"]),
    "sequence": NUMBERS,
    "base": st.none() | NUMBERS,
    "key": NUMBERS,
    "dtype": st.sampled_from(DTYPES),
    "shape": st.sampled_from([(5, 60), (60, 5), (300,), (301,), (), (0,), (1 << 30, 1 << 30)]),
    "encoding": st.sampled_from(["dense", "bits"]),
    "wire": st.sampled_from(DTYPES),
    "count": NUMBERS | st.integers(0, 310),
    "values": st.sampled_from(["plain", "change"]),
    "compression": st.lists(st.sampled_from(["none", "nested", "zlib", *available()]), min_size=0, max_size=3).map(
        tuple
    ),
}
KEEP = ("kind", "sequence", "base", "key")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_payload_harms(data):
    """A right payload with some fields and bytes changed: applied as it says, refused, or a key is needed."""
    budget = data.draw(st.sampled_from([Budget(), Budget(half=True), Budget(0.1)]))
    compressor = data.draw(st.sampled_from([None, *available()]))
    _, decoder, _, payloads = stream(3, budget=budget, compressor=compressor)
    for payload in payloads[: data.draw(st.integers(0, 2))]:
        decoder.decode(*payload)
    payload, arrays = data.draw(st.sampled_from(payloads))
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2))
    values = {name: getattr(payload, name) for name in Payload.__struct_fields__}
    values.update({name: data.draw(FIELDS[name], label=name) for name in names})
    arrays = [array.copy() for array in arrays]
    for _ in range(data.draw(st.integers(0, 2))):
        which = data.draw(st.integers(0, len(arrays) - 1))
        array = arrays[which]
        change = data.draw(st.sampled_from(["flip", "cut", "more", "drop", "type", "empty", "twice"]))
        if change == "flip" and array.size:
            array[data.draw(st.integers(0, array.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "cut":
            arrays[which] = array[: data.draw(st.integers(0, array.size))]
        elif change == "more":
            arrays[which] = np.concatenate([array, np.zeros(data.draw(st.integers(1, 2000)), np.uint8)])
        elif change == "drop" and len(arrays) > 1:
            del arrays[which]
        elif change == "type":
            arrays[which] = array.astype(data.draw(st.sampled_from([np.int8, np.float32, np.uint16])))
            break
        elif change == "empty":
            arrays[which] = np.zeros((0, 4), np.uint8)
            break
        else:
            arrays.append(array)
    before = None if decoder.tensor is None else decoder.tensor.tobytes()
    try:
        hostile = decode(encode(Payload(**values)))
        verdict = decoder.decode(hostile, arrays).verdict
    except FrameError:
        return
    if verdict is not Verdict.APPLIED:
        assert (None if decoder.tensor is None else decoder.tensor.tobytes()) == before
    else:
        assert decoder.tensor.shape == (5, 60)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_headers_are_read_with_care(header):
    with pytest.raises(FrameError):
        decode(header)


@pytest.mark.parametrize("name", available())
def test_compressed_data_is_bounded(name):
    """A bomb is refused before it is unpacked; so is what is too short, too long, or has something after it."""
    data = np.zeros(100_000, np.uint8)
    packed = compress(name, data)
    assert np.array_equal(decompress(name, packed, data.size), data)
    assert decompress(name, compress(name, data[:0]), 0).size == 0
    for size in (0, 1, 99_999, 100_001, 1 << 40):
        with pytest.raises(FrameError):
            decompress(name, packed, size)
    for wrong in (packed[:-1], packed[1:], np.concatenate([packed, packed]), packed[:0], data):
        with pytest.raises(FrameError):
            decompress(name, wrong, data.size)
    with pytest.raises(FrameError):
        decompress(name, np.concatenate([compress(name, data[:0]), data[:3]]), 0)


def test_zstd_that_lies_about_its_size():
    zstandard = pytest.importorskip("zstandard")
    unknown = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    packed = np.frombuffer(unknown.compress(bytes(5000)) + unknown.flush(), np.uint8)
    with pytest.raises(FrameError):
        decompress("zstd", packed, 5000)
    honest = bytearray(compress("zstd", np.zeros(70_000, np.uint8)).tobytes())
    for place in range(4, 12):
        lying = honest.copy()
        lying[place] ^= 0xFF
        with contextlib.suppress(FrameError):
            assert decompress("zstd", np.frombuffer(bytes(lying), np.uint8), 70_000).size == 70_000

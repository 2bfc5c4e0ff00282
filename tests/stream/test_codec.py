"""Encoder and decoder: exact to the bit for ever, within the budget where there is one, and never sure of the other."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import ConfigError, FrameError
from cutset.stream.delta import Budget, Channel, Costs, Decoder, Encoder, OutputBudget, Verdict, available
from cutset.stream.delta.compression import compress, decompress
from cutset.stream.delta.payload import DTYPES, KeyRequest, Payload, decode, encode

FREE = Costs()  # nothing costs anything: whatever is smaller is taken


def pair(tensor, **options):
    channel = Channel.of(0, "conv1", tensor)
    return Encoder(channel, costs=FREE.copy(), **{"bandwidth": 1e6, **options}), Decoder(channel)


def sent(encoded):
    """What arrives: the header through bytes, arrays that can't be written."""
    arrays = tuple(np.frombuffer(array.tobytes(), np.uint8) for array in encoded.arrays)
    return decode(encode(encoded.payload)), arrays


def same(a, b):
    return a is not None and a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def video(rng, tensor, share):
    """The next tensor: other bits at a share of the positions."""
    fresh = tensor.copy()
    flat = fresh.reshape(-1).view(f"u{fresh.itemsize}")
    places = rng.random(flat.size) < share
    flat[places] = rng.integers(0, 2 ** (8 * fresh.itemsize) - 1, int(places.sum()), flat.dtype)
    return fresh


# A chain of payloads


def test_a_thousand_deltas_give_the_dense_tensor():
    """Bit for bit, whatever form each payload takes; one in fifty is lost, and costs one request."""
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((8, 31, 29), np.float32)
    encoder, decoder = pair(tensor)
    forms, requests, lost, shown = set(), 0, 0, 0
    for sequence in range(1000):
        share = rng.choice([0.0, 0.001, 0.1, 0.5, 1.0], p=[0.1, 0.3, 0.4, 0.1, 0.1])
        tensor = video(rng, tensor, share)
        if rng.random() < 0.3:
            tensor[rng.random(tensor.shape) < 0.6] = 0
        encoder.bandwidth = rng.choice([math.inf, 1e6])
        encoded = encoder.encode(tensor, sequence * 3)
        payload, arrays = sent(encoded)
        forms.add((payload.kind, payload.encoding, payload.compression))
        if rng.random() < 0.02:
            lost += 1
            continue
        verdict = decoder.decode(payload, arrays)
        if verdict is Verdict.NEED_KEY:
            requests += 1
            assert encoder.request(decode(encode(decoder.key_request())))
        else:
            assert verdict is Verdict.APPLIED
            assert same(decoder.tensor, tensor)
            shown += 1
    assert shown + requests + lost == 1000
    assert 0 < requests <= lost
    assert {(kind, encoding) for kind, encoding, _ in forms} == {("key", "dense"), ("key", "bits"), ("delta", "bits")}
    assert any(set(compression) > {"none"} for *_, compression in forms)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    rng = np.random.default_rng(1)
    tensor = np.zeros((3, 37), dtype)
    encoder, decoder = pair(tensor)
    for sequence in range(8):
        tensor = video(rng, tensor, 0.2)
        encoded = encoder.encode(tensor, sequence)
        assert decoder.decode(*sent(encoded)) is Verdict.APPLIED
        assert same(decoder.tensor, tensor)
        assert not decoder.tensor.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (1, 1, 1, 1, 1, 1, 1, 2)])
def test_odd_shapes(shape):
    tensor = np.full(shape, 2.5, np.float32)
    encoder, decoder = pair(tensor)
    for sequence in range(3):
        assert decoder.decode(*sent(encoder.encode(tensor, sequence))) is Verdict.APPLIED
        assert same(decoder.tensor, tensor)
        tensor = tensor + np.float32(sequence)


def test_a_tensor_that_lies_otherwise():
    tensor = np.arange(24, dtype=np.float32).reshape(4, 6).T
    encoder, decoder = pair(tensor)
    for sequence in range(2):
        decoder.decode(*sent(encoder.encode(tensor, sequence)))
        assert np.array_equal(decoder.tensor, tensor)


def test_an_encoded_payload_outlives_the_next():
    """The arrays of a payload that waits to be sent don't change when the next picture is encoded."""
    rng = np.random.default_rng(2)
    tensor = rng.standard_normal(500).astype(np.float32)
    for deltas in (True, False):
        encoder, decoder = pair(tensor, deltas=deltas, compressor=None)
        waiting, truth = [], []
        for sequence in range(6):
            share = 0.0 if sequence == 2 else 1.0 if sequence == 4 else 0.1
            flat = tensor.view(np.uint32)
            flat[rng.random(500) < share] ^= 1  # in place, as a worker would
            truth.append(tensor.copy())
            waiting.append(encoder.encode(tensor, sequence))
        kinds = [encoded.payload.kind for encoded in waiting]
        assert kinds == (["key", "delta", "delta", "delta", "key", "delta"] if deltas else ["key"] * 6)
        for encoded, right in zip(waiting, truth, strict=True):
            decoder.decode(encoded.payload, encoded.arrays)
            assert same(decoder.tensor, right)


def test_bytes_of_a_delta():
    """At most (changed + 1/32) of dense, uncompressed; bytes for pictures of bytes."""
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.uint8):
        tensor = rng.integers(1, 255, (16, 50, 40)).astype(dtype)
        encoder, _ = pair(tensor, compressor=None)
        encoder.encode(tensor, 0)
        for sequence, share in enumerate((0.0, 0.01, 0.1, 0.4, 0.8), 1):
            before, tensor = tensor, video(rng, tensor, share)
            encoded = encoder.encode(tensor, sequence)
            changed = np.mean(before.view(f"u{before.itemsize}") != tensor.view(f"u{tensor.itemsize}"))
            assert encoded.changed == pytest.approx(changed)
            assert encoded.payload.kind == "delta"
            assert encoded.nbytes / tensor.nbytes <= changed + 1 / (8 * tensor.itemsize) + 1e-3
        tensor = video(rng, tensor, 1.0)
        encoded = encoder.encode(tensor, 9)
        assert (encoded.payload.kind, encoded.payload.encoding) == ("key", "dense")
        assert encoded.nbytes == tensor.nbytes


# Choosing


def test_the_choice_follows_the_measured_costs():
    rng = np.random.default_rng(4)
    tensor = np.repeat(rng.standard_normal((4, 100, 10), np.float32), 10, axis=2)
    dear = Costs({"zlib": 1e-3, "bits": 1e-9}, {"zlib": 1e-3, "bits": 1e-9, "dense": 1e-10})
    cheap = Costs({"zlib": 1e-9, "bits": 1e-9}, {"zlib": 1e-9, "bits": 1e-9, "dense": 1e-10})
    channel = Channel.of(0, "x", tensor)
    for costs, bandwidth, expected in ((dear, 1e6, "none"), (cheap, math.inf, "none"), (cheap, 1e6, "zlib")):
        encoder = Encoder(channel, costs=costs.copy(), bandwidth=bandwidth, compressor="zlib")
        assert encoder.encode(tensor, 0).payload.compression == (expected,)
    half_zero = np.where(tensor > 0, tensor, 0)
    slow = Costs({"bits": 1.0}, {"bits": 1.0, "dense": 0})
    for costs, expected in ((slow, "dense"), (cheap, "bits")):
        encoder = Encoder(channel, costs=costs.copy(), bandwidth=1e6, compressor=None)
        assert encoder.encode(half_zero, 0).payload.encoding == expected


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4", "<f8"])
def test_changes_of_values_compress_better(dtype):
    """Values that move a little: their changes go over a slow link, and the tensor is exact all the same."""
    rng = np.random.default_rng(9)
    tensor = rng.integers(0, 256, (3, 80, 100)).astype(dtype)
    kinds = {}
    for bandwidth in (1e4, math.inf):
        encoder, decoder = pair(tensor, bandwidth=bandwidth)
        now = tensor.copy()
        for sequence in range(6):
            now[:, 20:50, 30:80] += rng.integers(0, 3, (3, 30, 50)).astype(dtype)
            encoded = encoder.encode(now, sequence)
            assert decoder.decode(*sent(encoded)) is Verdict.APPLIED
            assert same(decoder.tensor, now)
            kinds[bandwidth, encoded.payload.kind] = encoded.payload.values
    assert kinds[1e4, "delta"] == "change"
    assert kinds[1e4, "key"] == kinds[math.inf, "key"] == kinds[math.inf, "delta"] == "plain"


def test_costs_are_learned():
    costs = Costs()
    costs.learn_encode("bits", 100, 1.0)  # too little to say anything
    assert costs.seconds("bits", 1e6) == 0
    costs.learn_encode("bits", 10_000, 1e-3)
    costs.learn_decode("bits", 10_000, 1e-3)
    assert costs.seconds("bits", 10_000) == pytest.approx(2e-3)
    costs.learn_encode("bits", 10_000, 100.0)  # the process slept
    assert costs.seconds("bits", 10_000) < 5e-3
    tensor = np.ones((64, 64), np.float32)
    encoder, decoder = pair(tensor)
    for sequence in range(2):
        decoder.decode(*sent(encoder.encode(tensor, sequence)))
    assert decoder.costs.decode["bits"] > 0
    assert encoder.costs.encode["bits"] > 0


# The budget


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 1.0])
def test_the_bound_holds_at_every_step(threshold, half):
    """A walk that would drift: each step is below the threshold, all of them together far above it."""
    rng = np.random.default_rng(5)
    tensor = rng.standard_normal((4, 257), np.float32)
    budget = Budget(threshold, half)
    encoder, decoder = pair(tensor, budget=budget)
    sizes = []
    for sequence in range(200):
        tensor = tensor + np.float32(0.01) * rng.standard_normal(tensor.shape, np.float32) + np.float32(0.005)
        encoded = encoder.encode(tensor, sequence)
        sizes.append(encoded.nbytes)
        decoder.decode(*sent(encoded))
        exact = tensor.astype(np.float64)
        assert (np.abs(decoder.tensor - exact) <= np.vectorize(budget.bound)(np.abs(exact))).all()
    if budget.exact:
        assert same(decoder.tensor, tensor)
    else:
        assert np.mean(sizes[1:]) < tensor.nbytes * (0.3 if threshold else 0.6)


def test_a_lower_threshold_holds_at_once():
    rng = np.random.default_rng(6)
    tensor = rng.standard_normal(300).astype(np.float32)
    encoder, decoder = pair(tensor, budget=Budget(1.0))
    for sequence, threshold in enumerate((1.0, 1.0, 0.1, 0.0)):
        encoder.budget = Budget(threshold)
        tensor = tensor + rng.standard_normal(300).astype(np.float32) * np.float32(0.4)
        decoder.decode(*sent(encoder.encode(tensor, sequence)))
        assert np.abs(decoder.tensor - tensor.astype(np.float64)).max() <= threshold
    assert same(decoder.tensor, tensor)


def test_levels_of_a_picture():
    rng = np.random.default_rng(7)
    picture = rng.integers(0, 256, (3, 48, 64), np.uint8)
    encoder, decoder = pair(picture, budget=Budget(8))
    for sequence in range(20):
        picture = np.clip(picture + rng.integers(-5, 6, picture.shape), 0, 255).astype(np.uint8)
        decoder.decode(*sent(encoder.encode(picture, sequence)))
        assert np.abs(decoder.tensor.astype(int) - picture).max() <= 8


def test_values_beyond_float16_go_as_float32():
    tensor = np.linspace(-1, 1, 100, dtype=np.float32)
    encoder, decoder = pair(tensor, budget=Budget(half=True))
    for sequence, value in enumerate((np.inf, 7e4, 1.0, np.nan)):
        tensor[50] = value
        encoded = encoder.encode(tensor, sequence)
        assert encoded.payload.wire == ("<f4" if value == 7e4 else "<f2")
        decoder.decode(*sent(encoded))
        assert np.array_equal(decoder.tensor[50], tensor[50], equal_nan=True)
        assert np.abs(np.delete(decoder.tensor, 50) - np.delete(tensor, 50)).max() <= 2**-11


def test_budgets_that_make_no_sense():
    integers = Channel(0, "x", "<i4", (4,))
    for budget in (Budget(1.0), Budget(half=True)):
        with pytest.raises(ConfigError):
            Encoder(integers, budget=budget, costs=FREE)
    for threshold in (-1, math.nan, math.inf):
        with pytest.raises(ConfigError):
            Budget(threshold)
    with pytest.raises(ConfigError):
        OutputBudget(math.inf, {})


def test_the_budget_of_the_output():
    shared = OutputBudget(0.1, {"a": Budget(0.5), "b": Budget(0.0, half=True)})
    error = 0.4
    for _ in range(20):
        error = 1.5 * shared.budget("a").threshold
        shared.observe(error)
    assert 0.02 < error <= 0.1 * 1.25
    assert shared.budget("b").half
    assert shared.observe(math.nan)
    assert OutputBudget(0.0, {"a": Budget(0.5, half=True)}).budget("a").exact


# Lost, repeated, reordered, restarted


def stream(count, **options):
    rng = np.random.default_rng(8)
    tensor = rng.standard_normal((5, 60)).astype(np.float32)
    encoder, decoder = pair(tensor, **options)
    tensors, payloads = [], []
    for sequence in range(count):
        tensor = video(rng, tensor, 0.1)
        tensors.append(tensor)
        payloads.append(sent(encoder.encode(tensor, sequence)))
    return encoder, decoder, tensors, payloads


def test_a_gap_costs_one_request():
    encoder, decoder, tensors, payloads = stream(6)
    verdicts = [decoder.decode(*payloads[i]) for i in (0, 1, 3, 4, 5)]
    assert [v.name for v in verdicts] == ["APPLIED", "APPLIED", "NEED_KEY", "WAITING", "WAITING"]
    assert same(decoder.tensor, tensors[1])
    request = decoder.key_request()
    assert request.sequence == 3
    assert encoder.request(request)
    assert not encoder.request(request)  # it is on its way
    encoded = encoder.encode(tensors[0], 6)
    assert encoded.payload.kind == "key"
    assert not encoder.request(request)  # it has gone
    assert decoder.decode(*sent(encoded)) is Verdict.APPLIED
    assert decoder.decode(*sent(encoder.encode(tensors[1], 7))) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[1])


def test_a_key_that_is_lost_is_asked_for_again():
    encoder, decoder, tensors, payloads = stream(3)
    assert decoder.decode(*payloads[0]) is Verdict.APPLIED
    assert decoder.decode(*payloads[2]) is Verdict.NEED_KEY
    assert encoder.request(decoder.key_request())
    encoder.encode(tensors[0], 3)  # lost
    assert decoder.decode(*sent(encoder.encode(tensors[1], 4))) is Verdict.NEED_KEY
    assert decoder.decode(*sent(encoder.encode(tensors[2], 5))) is Verdict.WAITING
    assert encoder.request(decoder.key_request())
    assert decoder.decode(*sent(encoder.encode(tensors[0], 6))) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])


def test_repeated_and_reordered():
    _, decoder, tensors, payloads = stream(4)
    order = (0, 0, 1, 0, 1, 2, 2, 3, 1)
    verdicts = [decoder.decode(*payloads[i]) for i in order]
    fresh = [max(order[: n + 1]) == i and i not in order[:n] for n, i in enumerate(order)]
    assert [v is Verdict.APPLIED for v in verdicts] == fresh
    assert {v for v, new in zip(verdicts, fresh, strict=True) if not new} == {Verdict.STALE}
    assert same(decoder.tensor, tensors[3])


def test_the_receiver_restarts():
    encoder, _, tensors, _ = stream(4)
    decoder = Decoder(encoder.channel)
    assert decoder.tensor is None
    assert decoder.decode(*sent(encoder.encode(tensors[1], 4))) is Verdict.NEED_KEY
    assert decoder.tensor is None
    assert encoder.request(decoder.key_request())
    assert decoder.decode(*sent(encoder.encode(tensors[2], 5))) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[2])


def test_the_sender_restarts():
    """A new epoch begins with a key; what is left of the old one is dropped, a delta of the new one isn't applied."""
    _, decoder, tensors, payloads = stream(4)
    for payload in payloads[:3]:
        decoder.decode(*payload)
    again = Encoder(decoder.channel, epoch=1, costs=FREE.copy())
    first, second = (sent(again.encode(tensors[i], i)) for i in (0, 1))
    assert decoder.decode(*second) is Verdict.NEED_KEY
    assert decoder.decode(*first) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])
    assert decoder.decode(*payloads[3]) is Verdict.STALE
    assert decoder.decode(*second) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[1])
    assert not again.request(KeyRequest(0, "conv1", 0, 0, 99))  # for the one before


def test_plans():
    encoder, _, tensors, payloads = stream(2)
    decoder = Decoder(encoder.channel, plan=1)
    assert decoder.decode(*payloads[0]) is Verdict.STALE
    ahead = Encoder(encoder.channel, plan=2, costs=FREE.copy()).encode(tensors[0], 0)
    assert decoder.decode(*sent(ahead)) is Verdict.AHEAD
    assert decoder.tensor is None


def test_what_was_not_sent_is_not_counted_on():
    encoder, decoder, tensors, payloads = stream(2)
    decoder.decode(*payloads[0])
    encoder.lost()
    assert decoder.decode(*sent(encoder.encode(tensors[0], 2))) is Verdict.APPLIED
    assert same(decoder.tensor, tensors[0])


def test_a_picture_of_another_size():
    encoder, *_ = stream(1)
    with pytest.raises(ConfigError, match="one size of pictures"):
        encoder.encode(np.zeros((5, 61), np.float32), 9)
    with pytest.raises(ConfigError, match="after picture"):
        encoder.encode(np.zeros((5, 60), np.float32), 0)
    for channel in ({"dtype": "<c8"}, {"shape": (1 << 20, 1 << 20)}, {"shape": (-1,)}, {"edge": "x" * 200}):
        with pytest.raises(ConfigError):
            Channel(**{"source": 0, "edge": "x", "dtype": "u1", "shape": (1,), **channel})
    with pytest.raises(ConfigError, match="bandwidth"):
        Encoder(encoder.channel, bandwidth=0, costs=FREE)


# Hostile payloads


def test_a_damaged_delta_costs_a_key():
    encoder, decoder, tensors, payloads = stream(3, compressor=None)
    decoder.decode(*payloads[0])
    payload, (mask, values) = payloads[1]
    wrong = mask.copy()
    wrong[0] ^= 1
    with pytest.raises(FrameError, match="doesn't name"):
        decoder.decode(payload, (wrong, values))
    assert same(decoder.tensor, tensors[0])
    assert decoder.decode(*payloads[2]) is Verdict.NEED_KEY
    key = Encoder(encoder.channel, epoch=1, costs=FREE.copy(), compressor=None, bandwidth=1e6)
    payload, (mask, values) = sent(key.encode(np.where(tensors[0] > 0, tensors[0], 0), 0))
    wrong = np.ones_like(mask)
    with pytest.raises(FrameError, match="doesn't name"):
        decoder.decode(payload, (wrong, values))
    assert decoder.tensor is None  # half a key is no tensor
    assert decoder.decode(payload, (mask, values)) is Verdict.APPLIED


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
        verdict = decoder.decode(hostile, arrays)
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


def test_the_example_of_the_specification():
    """Bytes from docs/stream-protocol.md, read with nothing of the encoder; and written by it."""
    text = (Path(__file__).parents[2] / "docs" / "stream-protocol.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(header|mask|nested|plain|change) +([0-9a-f ]+)$", text.split("## Example")[1], re.M))
    held = np.full(20, 1000, "<u2")
    fresh = held.copy()
    fresh[0], fresh[-1] = 1001, 999
    channel = Channel(0, "e", "<u2", (20,))
    parts = {name: np.frombuffer(bytes.fromhex(line), np.uint8) for name, line in lines.items()}
    for mask, nesting in (("mask", "none"), ("nested", "nested")):
        for values in ("plain", "change"):
            encoder, decoder = Encoder(channel, plan=0, epoch=2, costs=FREE.copy()), Decoder(channel)
            assert decoder.decode(*sent(encoder.encode(held, 7))) is Verdict.APPLIED
            encoded = encoder.encode(fresh, 8).payload
            assert encode(encoded).hex() == lines["header"].replace(" ", "")
            payload = msgspec.structs.replace(encoded, compression=(nesting, "none"), values=values)
            assert decoder.decode(payload, [parts[mask], parts[values]]) is Verdict.APPLIED
            assert same(decoder.tensor, fresh)

"""A chain of payloads gives the tensor to the bit, in few bytes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from codec.payloads import FREE, pair, same, sent, video
from cutset.codec import Decoder, EdgeSpec, Encoder, Verdict
from cutset.codec.payload import DTYPES, decode, encode


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
        verdict = decoder.decode(payload, arrays).verdict
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
        assert decoder.decode(*sent(encoded)).verdict is Verdict.APPLIED
        assert same(decoder.tensor, tensor)
        assert not decoder.tensor.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (1, 1, 1, 1, 1, 1, 1, 2)])
def test_odd_shapes(shape):
    tensor = np.full(shape, 2.5, np.float32)
    encoder, decoder = pair(tensor)
    for sequence in range(3):
        assert decoder.decode(*sent(encoder.encode(tensor, sequence))).verdict is Verdict.APPLIED
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


def test_the_example_of_the_specification():
    """Bytes from docs/stream-protocol.md, read with nothing of the encoder; and written by it."""
    text = (Path(__file__).parents[2] / "docs" / "stream-protocol.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(header|mask|nested|plain|change) +([0-9a-f ]+)$", text.split("## Example")[1], re.M))
    held = np.full(20, 1000, "<u2")
    fresh = held.copy()
    fresh[0], fresh[-1] = 1001, 999
    spec = EdgeSpec(0, "e", "<u2", (20,))
    parts = {name: np.frombuffer(bytes.fromhex(line), np.uint8) for name, line in lines.items()}
    for mask, nesting in (("mask", "none"), ("nested", "nested")):
        for values in ("plain", "change"):
            encoder, decoder = Encoder(spec, plan=0, epoch=2, costs=FREE.copy()), Decoder(spec)
            assert decoder.decode(*sent(encoder.encode(held, 7))).verdict is Verdict.APPLIED
            encoded = encoder.encode(fresh, 8).payload
            assert encode(encoded).hex() == lines["header"].replace(" ", "")
            payload = msgspec.structs.replace(encoded, compression=(nesting, "none"), values=values)
            assert decoder.decode(payload, [parts[mask], parts[values]]).verdict is Verdict.APPLIED
            assert same(decoder.tensor, fresh)

"""Which form a payload takes follows from measured costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec.payloads import pair, same, sent
from cutset.codec import Costs, EdgeSpec, Encoder, Verdict


def test_the_choice_follows_the_measured_costs():
    rng = np.random.default_rng(4)
    tensor = np.repeat(rng.standard_normal((4, 100, 10), np.float32), 10, axis=2)
    dear = Costs({"zlib": 1e-3, "bits": 1e-9}, {"zlib": 1e-3, "bits": 1e-9, "dense": 1e-10})
    cheap = Costs({"zlib": 1e-9, "bits": 1e-9}, {"zlib": 1e-9, "bits": 1e-9, "dense": 1e-10})
    spec = EdgeSpec.of(0, "x", tensor)
    for costs, bandwidth, expected in ((dear, 1e6, "none"), (cheap, math.inf, "none"), (cheap, 1e6, "zlib")):
        encoder = Encoder(spec, costs=costs.copy(), bandwidth=bandwidth, compressor="zlib")
        assert encoder.encode(tensor, 0).payload.compression == (expected,)
    half_zero = np.where(tensor > 0, tensor, 0)
    slow = Costs({"bits": 1.0}, {"bits": 1.0, "dense": 0})
    for costs, expected in ((slow, "dense"), (cheap, "bits")):
        encoder = Encoder(spec, costs=costs.copy(), bandwidth=1e6, compressor=None)
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
            assert decoder.decode(*sent(encoded)).verdict is Verdict.APPLIED
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


def test_one_spot_of_the_picture_doesnt_speak_for_all_of_it():
    """As many channels as the sample has blocks, and only their corners change."""
    before = np.random.default_rng(2).standard_normal((1, 64, 40, 100), np.float32)
    after = before.copy()
    after[:, :, 0, :] += 1
    encoder = Encoder(EdgeSpec.of(0, "x", before), bandwidth=1e6)
    encoder.encode(before, 0)
    assert encoder.encode(after, 1).payload.kind == "delta"

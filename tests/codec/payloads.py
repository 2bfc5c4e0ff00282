"""Edges to test: both ends, a video, and what arrives."""

from __future__ import annotations

import numpy as np

from cutset.codec import Costs, Decoder, EdgeSpec, Encoder
from cutset.codec.payload import decode, encode

FREE = Costs()  # nothing costs anything: whatever is smaller is taken


def pair(tensor, **options):
    spec = EdgeSpec.of(0, "conv1", tensor)
    return Encoder(spec, costs=FREE.copy(), **{"bandwidth": 1e6, **options}), Decoder(spec)


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

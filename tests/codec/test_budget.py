"""With a threshold or float16 the error stays within the budget at every step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec.payloads import FREE, pair, same, sent
from cutset.codec import Budget, EdgeSpec, Encoder
from cutset.errors import ConfigError


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


def test_a_key_in_float16_after_float32_values_that_stayed():
    """One number beyond float16 makes a payload float32. Its other numbers may stay at the receiver for long, as
    float32; a key that is smaller, because most of the tensor became zero, must not round them behind our back."""
    tensor = np.linspace(100, 200, 200, dtype=np.float32)
    tensor[0], tensor[1:5], tensor[5:9] = 7e4, 65519.5, 0.1
    encoder, decoder = pair(tensor, budget=Budget(20.0, half=True))
    encoded = encoder.encode(tensor, 0)
    assert encoded.payload.wire == "<f4"
    decoder.decode(*sent(encoded))
    tensor = tensor.copy()
    tensor[0], tensor[1:5], tensor[50:] = 1000, 65510, 0
    encoded = encoder.encode(tensor, 1)
    assert (encoded.payload.kind, encoded.payload.encoding) == ("key", "bits")
    decoder.decode(*sent(encoded))
    assert (np.abs(decoder.tensor - tensor) <= np.vectorize(encoder.budget.bound)(tensor)).all(), decoder.tensor[:9]
    assert same(decoder.tensor, encoder._held)
    tensor[5:9] += 21
    decoder.decode(*sent(encoder.encode(tensor, 2)))
    assert same(decoder.tensor, encoder._held)


def test_budgets_that_make_no_sense():
    integers = EdgeSpec(0, "x", "<i4", (4,))
    for budget in (Budget(1.0), Budget(half=True)):
        with pytest.raises(ConfigError):
            Encoder(integers, budget=budget, costs=FREE)
    for threshold in (-1, math.nan, math.inf):
        with pytest.raises(ConfigError):
            Budget(threshold)

"""Bits of activations are chosen from the weights, so that no sum passes half of the field."""

import numpy as np
import pytest

from cutset.errors import CheckpointError
from cutset.models.files.integer import MOST_SUM, bits_of_site, most_bits, sums_of_sizes


def weights(depth, outputs=3):
    weight = np.ones((outputs, depth), np.int8)
    weight[outputs // 2] = -127  # one row is enough
    return weight


@pytest.mark.parametrize(
    ("depth", "bits"), [(1, 12), (4130, 12), (4131, 11), (8264, 11), (8265, 10), (66572, 8), (66573, 0)]
)
def test_the_bound_holds_for_the_worst_activations(depth, bits):
    assert most_bits(weights(depth)) == bits
    if bits:
        assert (2 ** (bits - 1) - 1) * 127 * depth <= MOST_SUM
    if bits < 12:
        assert (2 ** max(bits, 7) - 1) * 127 * depth > MOST_SUM


def test_bits_of_a_site():
    assert bits_of_site("exact", "down", 0, weights(4130)) == 12
    assert bits_of_site("exact", "down", 0, weights(4131)) == 11
    assert bits_of_site("int8", "gate_up", 0, weights(4131)) == 8
    with pytest.raises(CheckpointError, match="site o of layer 2: its sums of 66573 products overflow"):
        bits_of_site("exact", "o", 2, weights(66573))


def test_sums_of_sizes():
    weight = np.random.default_rng(1).integers(-127, 128, (2500, 7)).astype(np.int8)
    weight[0] = -127
    sums = sums_of_sizes(weight)
    assert sums.dtype == np.int32
    assert np.array_equal(sums, np.abs(weight.astype(np.int32)).sum(axis=1))

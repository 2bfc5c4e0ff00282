"""The tests of uniformity: quiet on uniform residues, loud on everything the historical schemes sent."""

import math

import numpy as np
import pytest

from attacks.careless import P
from attacks.historical import GaussianPad, ScalarMatmul, TokenMixing
from attacks.setting import make_setting
from attacks.statistics import TESTS, chi_square, failures, repeats, words

SHAPES = ((12, 64), (12, 64), (12, 172), (1, 64), (1, 64), (1, 172), (12, 256))


def uniform(seed, shapes=SHAPES * 4):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, P, shape, dtype=np.uint32) for shape in shapes]


def test_uniform_residues_pass():
    for seed in range(20):
        assert failures(uniform(seed)) == {}


def test_probabilities_are_those_that_are_claimed():
    found = np.array([[test(uniform(seed)) for test in TESTS] for seed in range(100)])
    assert np.all((found > 0.05).mean(axis=0) > 0.8)  # 0.95; fixed seeds, so this can't change from run to run
    assert np.all((found < 0.5).mean(axis=0) > 0.3)


def test_chi_square_against_a_table():
    # The 99.9th percentile of chi-square with 255 degrees of freedom is 330.52.
    counts, expected = np.full(256, 1000.0), np.full(256, 1000.0)
    counts[:2] += np.array([1, -1]) * math.sqrt(330.52 * 1000 / 2)
    assert chi_square(counts, expected) == pytest.approx(1e-3, rel=0.03)


def historical():
    setting = make_setting()
    rows = setting.inputs()
    pads, mixing, scalar = GaussianPad(setting), TokenMixing(len(setting.ids)), ScalarMatmul()
    return {
        "gaussian": [pads.hide(layer, x) for layer, x in enumerate(rows)],
        "mixing": [mixing.hide(x) for x in rows],
        "scalar": [scalar.hide(x) for x in (*setting.queries, *setting.keys)],
        "clear": rows,
    }


@pytest.mark.parametrize("scheme", ["gaussian", "mixing", "scalar", "clear"])
def test_what_the_historical_schemes_sent_is_refused(scheme):
    assert failures([words(wire.astype(np.float32)) for wire in historical()[scheme]])


def one(change, *tests):
    """Uniform residues with one fault: the tests named find it."""
    capture = uniform(1)
    found = failures([change(np.array(rows), number) for number, rows in enumerate(capture)])
    assert set(tests) <= set(found)


def test_each_test_finds_its_own_fault():
    one(lambda rows, i: np.minimum(rows, P - (P >> 2)), "high_bits", "mean")
    one(lambda rows, i: rows & ~np.uint32(1), "low_bits")
    one(lambda rows, i: np.where(np.arange(rows.shape[1]) < 3, rows >> 1, rows), "positions")
    one(lambda rows, i: np.repeat(rows[:, ::2], 2, axis=1)[:, : rows.shape[1]], "neighbours")
    one(lambda rows, i: np.repeat(rows[::2], 2, axis=0)[: len(rows)] if len(rows) > 1 else rows, "rows_apart")
    mask = {rows.shape: rows for rows in uniform(2)}
    rng = np.random.default_rng(3)
    one(lambda rows, i: (mask[rows.shape] + rng.integers(0, 4096, rows.shape, dtype=np.uint32)) % P, "messages_apart")


def test_repeats():
    first, second = uniform(1), uniform(2)
    same, allowed = repeats(first, second)
    assert same <= allowed <= 2
    same, allowed = repeats(first, [*second[:-1], first[-1]])
    assert same > allowed

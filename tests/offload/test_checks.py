"""Freivalds' check and who lied, with the native kernels."""

import numpy as np
import pytest

from cutset.kernels import _native as native
from cutset.kernels import reference_field as field
from cutset.kernels.reference_field import P
from cutset.models.files.integer import sums_of_sizes
from cutset.offload.arithmetic import random_residues
from cutset.offload.client.checks import Blame, Check

N, DEPTH, OUTPUTS = 5, 60, 41


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (OUTPUTS, DEPTH)).astype(np.int8)
    q = rng.integers(-2047, 2048, (N, DEPTH)).astype(np.int16)
    r = random_residues(N * DEPTH).reshape(N, DEPTH)
    sent = field.mask(q, r)
    reply, product = field.residue_product(sent, weight), field.residue_product(r, weight)
    return weight, q, r, sent, reply, product


def changed(product, row, column):
    lie = product.copy()
    lie[row, column] = (int(lie[row, column]) + 1) % P
    return lie


def test_secrets_are_fresh(case):
    first, second = Check(case[0]), Check(case[0])
    assert first.secrets.shape == (2, OUTPUTS)
    assert (first.secrets != second.secrets).mean() > 0.9
    assert np.array_equal(first.projected, field.project(case[0], first.secrets))
    assert str(first.secrets[0, 0]) not in repr(first)


def test_expected_settles_a_reply(case):
    weight, q, _, _, reply, product = case
    check = Check(weight)
    scales = np.ones(N, np.float32), np.ones(OUTPUTS, np.float32)
    out = np.empty((N, OUTPUTS), np.float32)
    options = {
        "bounds": sums_of_sizes(weight),
        "top": 2047,
        "secrets": check.secrets,
        "expected": check.expected(q),
    }
    assert native.settle(reply, *scales, out, pad=product, **options) == (0, -1, -1)
    assert np.array_equal(out, (q.astype(np.int32) @ weight.T.astype(np.int32)).astype(np.float32))
    assert native.settle(changed(reply, 3, 7), *scales, out, pad=product, **options)[:2] == (3, 3)
    assert native.settle(reply, *scales, out, pad=changed(product, 3, 7), **options)[:2] == (3, 3)


def test_who_lied(case):
    weight, q, r, sent, reply, product = case
    check = Check(weight)
    bad_reply, bad_product = changed(reply, 0, 0), changed(product, N - 1, OUTPUTS - 1)
    foreign = np.where(reply == reply.min(), reply + np.uint32(P), reply)
    assert check.blame(sent, bad_reply, r, product) == Blame(True, False)
    assert check.blame(sent, foreign, r, product) == Blame(True, False)
    assert check.blame(sent, reply, r, bad_product) == Blame(False, True)
    assert check.blame(sent, bad_reply, r, bad_product) == Blame(True, True)
    assert check.blame(sent, reply, r, product) == Blame(True, False)  # it changed the reply afterwards
    z = (q.astype(np.int32) @ weight.T.astype(np.int32)).astype(np.int32)
    assert check.right(q, z)
    z[1, 1] += 1
    assert check.blame(q, z) == Blame(True, False)
    assert [str(Blame(True, False)), str(Blame(True, True))] == ["accelerator", "accelerator and the pad server"]

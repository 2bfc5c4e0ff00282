"""The native kernels of the field against their numpy twins, on every instruction set that this machine has."""

import numpy as np
import pytest

from cutset.kernels import _native as native
from cutset.kernels import reference_field as field
from cutset.kernels.reference_field import HALF, P

POOL = native.Pool(2)
EDGES = np.array([0, 1, 2, 2**16, HALF - 1, HALF, HALF + 1, P - 2**16, P - 2, P - 1], np.uint32)
INTS = np.iinfo(np.int32)
# Around lanes (4, 8, 16), steps (32), runs (256, 512) and blocks of columns (1024).
WIDTHS = [1, 3, 16, 31, 33, 257, 1024, 1025, 2100]


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request):
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def residues(rng, *shape):
    """Uniform, but for some at the ends."""
    values = rng.integers(0, P, shape, np.uint32)
    return np.where(rng.random(shape) < 0.1, rng.choice(EDGES, shape), values)


def weights(rng, outputs, depth):
    values = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
    values[0] = 127
    values[-1] = -127
    return values


@pytest.mark.parametrize("n", [0, 1, 15, 17, 1000])
def test_mask(n):
    rng = np.random.default_rng(n)
    q = rng.integers(-2047, 2048, (3, n)).astype(np.int16)
    q[0] = rng.choice(np.array([-32768, -2047, -1, 0, 1, 2047, 32767], np.int16), n)
    r = residues(rng, 3, n)
    r[0] = rng.choice(EDGES, n)
    expected = field.mask(q, r)
    assert np.array_equal(native.mask(q, r), expected)
    out = np.zeros((5, n), np.uint32)
    assert native.mask(q, r, out[1:4], pool=POOL) is not None
    assert np.array_equal(out[1:4], expected)
    assert not out[[0, 4]].any()


def test_every_edge_meets_every_edge():
    shorts = np.array([-32768, -32767, -2047, -1, 0, 1, 2047, 32767], np.int16)
    q, r = (a.reshape(1, -1).copy() for a in np.meshgrid(shorts, EDGES))
    assert np.array_equal(native.mask(q.astype(np.int16), r.astype(np.uint32)), field.mask(q, r))


def test_mask_of_many_elements():
    rng = np.random.default_rng(1)
    q, r = rng.integers(-2047, 2048, (70, 3001)).astype(np.int16), residues(rng, 70, 3001)
    for pool in (None, POOL):
        assert np.array_equal(native.mask(q, r, pool=pool), field.mask(q, r))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("k", WIDTHS)
def test_dots(dtype, k):
    rng = np.random.default_rng(k)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (9, k), dtype, endpoint=True)
    x[0], x[1], x[2] = info.min, info.max, 0
    x[3] = rng.choice(np.array([info.min, info.max, 0, 1], dtype), k)
    v = residues(rng, 3, k)
    v[0], v[1] = P - 1, HALF  # limbs at their ends, all of one sign
    for vectors in (1, 2, 3):
        for pool in (None, POOL):
            assert np.array_equal(native.dots(x, v[:vectors], pool), field.dots(x, v[:vectors]))


@pytest.mark.parametrize("limb", [1023, 1024, 0x3FFFFF, 0x200400, 0x1FFBFF, HALF, HALF + 1])
def test_sums_of_limbs_do_not_overflow(limb):
    """Many columns, every product of the same sign and as large as that limb of it gets."""
    v = np.full((1, 3000), limb, np.uint32)
    for value in (-32768, 32767):
        x = np.full((1, 3000), value, np.int16)
        assert native.dots(x, v)[0, 0] == value * limb * 3000 % P
    for value in (INTS.min, INTS.max, HALF, -HALF, 0x8000, 0x7FFF, -0x8000, 0x3FFF8000, -0x3FFF8000):
        x = np.full((1, 3000), value, np.int32)
        assert native.dots(x, v)[0, 0] == value * limb * 3000 % P


def test_dots_of_many_rows():
    rng = np.random.default_rng(2)
    x, v = rng.integers(-2047, 2048, (530, 300)).astype(np.int16), residues(rng, 2, 300)
    expected = field.dots(x, v)
    for pool in (None, POOL):
        assert np.array_equal(native.dots(x, v, pool), expected)
        assert np.array_equal(native.dots(x.astype(np.int32), v, pool), expected)
    assert native.dots(x[:0], v).shape == (0, 2)


@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (2, 16), (3, 33), (70, 517), (1030, 40), (5, 1600)])
def test_project(outputs, depth):
    rng = np.random.default_rng(depth)
    weight, s = weights(rng, outputs, depth), residues(rng, 3, outputs)
    for vectors in (1, 2, 3):
        for pool in (None, POOL):
            assert np.array_equal(native.project(weight, s[:vectors], pool), field.project(weight, s[:vectors]))


@pytest.mark.parametrize("s", [32767, 32768, HALF, HALF + 1, P - 1])
def test_sums_of_a_projection_do_not_overflow(s):
    for w in (-127, 127):
        got = native.project(np.full((1200, 20), w, np.int8), np.full((2, 1200), s, np.uint32))
        assert (got == w * s * 1200 % P).all()


@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (5, 3), (33, 65), (70, 517)])
def test_residue_products(outputs, depth):
    rng = np.random.default_rng(outputs)
    weight = weights(rng, outputs, depth)
    linear = native.LinearI8(weight, np.ones(outputs, np.float32))
    x = residues(rng, 130, depth)
    x[0], x[1] = P - 1, 0
    expected = field.residue_product(x, weight)
    for rows in (0, 1, 2, 3, 4, 7, 8, 9, 12, 31, 130):
        for pool in (None, POOL):
            assert np.array_equal(linear.residues(x[:rows], pool), expected[:rows])
    out = np.full((5, outputs), 77, np.uint32)
    linear.residues(x[3:6], out=out[1:4])
    assert np.array_equal(out[1:4], expected[3:6])
    assert (out[[0, 4]] == 77).all()


def test_residue_products_at_the_most_columns():
    depth = (2**31 - 1) // (255 * 127)
    weight = np.stack([np.full(depth, 127, np.int8), np.full(depth, -127, np.int8)])
    linear = native.LinearI8(weight, np.ones(2, np.float32))
    x = np.stack([np.full(depth, P - 1, np.uint32), np.full(depth, 0x7EFFFFFF, np.uint32)])
    assert np.array_equal(linear.residues(x), field.residue_product(x, weight))
    longer = native.LinearI8(np.ones((1, depth + 1), np.int8), np.ones(1, np.float32))
    with pytest.raises(ValueError, match=f"at most {depth} columns"):
        longer.residues(np.zeros((1, depth + 1), np.uint32))


def test_residues_are_checked():
    linear = native.LinearI8(np.ones((3, 40), np.int8), np.ones(3, np.float32))
    x = np.zeros((50, 40), np.uint32)
    for value in (P, 2**31, 2**32 - 1):
        x[49, 39] = value
        with pytest.raises(ValueError, match="below 2147483647"):
            linear.residues(x, POOL)


def test_integers_into_an_output():
    rng = np.random.default_rng(3)
    weight, q = weights(rng, 40, 33), rng.integers(-2047, 2048, (7, 33)).astype(np.int16)
    linear = native.LinearI8(weight, np.ones(40, np.float32))
    out = np.full((9, 40), 77, np.int32)
    linear.integers(q, out=out[1:8])
    assert np.array_equal(out[1:8], q.astype(np.int32) @ weight.T.astype(np.int32))
    assert (out[[0, 8]] == 77).all()
    with pytest.raises(ValueError, match="out must have shape"):
        linear.integers(q, out=out)
    with pytest.raises(ValueError, match="out must be of type int32"):
        linear.integers(q, out=np.zeros((7, 40), np.uint32))

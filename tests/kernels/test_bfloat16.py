"""Products of float32 with bfloat16 weights: on AMX in tiles, elsewhere in the chain that float32 weights have."""

import numpy as np
import pytest

from cutset.kernels import _native as native
from cutset.kernels.reference_tiles import bfloat16_pieces, tiled_linear
from kernels.test_linear import floats, run

POOL = native.Pool(2)
SPECIAL = np.array(
    [0, 0x80000000, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FC12345, 0x00800000], np.uint32
)


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request):
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def narrow(weight):
    """bfloat16, and the same numbers in float32."""
    bits = (weight.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def spread(rng, rows, columns, least, most):
    """Of very different sizes, 2^least to 2^most."""
    return np.ldexp(floats(rng, rows, columns), rng.integers(least, most, (rows, columns))).astype(np.float32)


def cancelling(rng, rows, columns):
    """What is added is soon taken away."""
    values = floats(rng, rows, columns)
    values[:, 1::2] = -values[:, : columns // 2 * 2 : 2] * np.float32(1 + 2**-20)
    return values


def arbitrary(rng, rows, columns):
    """Whatever 32 bits may be."""
    values = rng.integers(0, 1 << 32, (rows, columns), dtype=np.uint32)
    places = rng.random(values.shape) < 0.01
    values[places] = rng.choice(SPECIAL, int(places.sum()))
    return values.view(np.float32)


INPUTS = {
    "usual": (floats, floats),
    "cancelling": (cancelling, lambda _, rows, columns: np.ones((rows, columns), np.float32)),
    "far apart": (lambda *a: spread(*a, -40, 40), lambda *a: spread(*a, -40, 40)),
    "tiny": (lambda *a: spread(*a, -80, -55), lambda *a: spread(*a, -80, -55)),
    "huge": (lambda *a: spread(*a, 55, 68), lambda *a: spread(*a, 55, 68)),
    "arbitrary": (arbitrary, arbitrary),
}


@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (5, 3), (33, 32), (70, 97)])
@pytest.mark.parametrize("kind", INPUTS)
def test_products_equal_the_twin(kind, outputs, depth, isa):
    rng = np.random.default_rng(depth)
    x, weight = (make(rng, n, depth) for make, n in zip(INPUTS[kind], (20, outputs), strict=True))
    bits, wide = narrow(weight)
    twin = tiled_linear(x, bits) if isa == "amx" else run(native.LinearF32(wide), x)
    for rows in (1, 2, 17, 20):
        found = run(native.LinearF32(bits), x[:rows])
        number = ~np.isnan(twin[:rows])
        assert np.array_equal(number, ~np.isnan(found))
        assert np.array_equal(found[number].view(np.uint32), twin[:rows][number].view(np.uint32))
    assert kind == "arbitrary" or number.any()


def test_pieces_add_up():
    x = np.concatenate([spread(np.random.default_rng(1), 100, 100, -100, 100).ravel(), SPECIAL.view(np.float32)])
    lower, middle, upper = bfloat16_pieces(x[None].copy())[:, 0]
    for piece in (lower, middle, upper):
        assert (piece.view(np.uint32) & 0xFFFF == 0).all()
    whole = np.abs(x) > 2.0**-102
    assert np.array_equal(((lower + middle) + upper)[whole], x[whole])
    assert np.isnan(upper[np.isnan(x)]).all()
    for piece in (lower, middle):
        assert (piece[~np.isfinite(x)] == 0).all()


@pytest.mark.parametrize("depth", [64, 1100])
def test_no_less_exact_than_a_chain(depth):
    rng = np.random.default_rng(depth)
    x = floats(rng, 60, depth)
    bits, wide = narrow(floats(rng, 130, depth))
    exact = x.astype(np.float64) @ wide.T.astype(np.float64)
    ours, chain = (np.abs(run(native.LinearF32(each), x) - exact) for each in (bits, wide))
    assert 0 < ours.mean() <= chain.mean()
    assert ours.max() <= 1.25 * chain.max()


@pytest.mark.parametrize(("outputs", "depth"), [(1, 5), (700, 33), (129, 1500)])
def test_a_row_does_not_depend_on_its_batch(outputs, depth):
    """Bit for bit: alone, among others, wherever it stands and whatever was in the memory that is used."""
    rng = np.random.default_rng(outputs)
    linear = native.LinearF32(narrow(floats(rng, outputs, depth))[0], POOL)
    x = floats(rng, 300, depth)
    x[7] = 0
    x[8] = np.nan
    alone = np.concatenate([run(linear, x[i : i + 1], None) for i in range(len(x))]).view(np.uint32)
    for rows in (*range(2, 36), 47, 48, 49, 63, 64, 65, 127, 128, 129, 257, 300):
        for pool in (None, POOL):
            assert np.array_equal(run(linear, x[:rows], pool).view(np.uint32), alone[:rows])
    assert np.isnan(run(linear, np.full((300, depth), np.nan, np.float32))).all()  # which leaves its pieces behind
    for first, last in ((0, 1), (3, 20), (7, 9), (40, 173), (280, 300)):
        assert np.array_equal(run(linear, x[first:last]).view(np.uint32), alone[first:last])
    order = rng.permutation(300)
    assert np.array_equal(run(linear, x[order]).view(np.uint32), alone[order])


def test_infinite_weights():
    """In tiles an infinity times a piece that is zero is no number."""
    bits = narrow(np.array([[np.inf, 1], [1, 2]], np.float32))[0]
    found = run(native.LinearF32(bits), np.ones((3, 2), np.float32))
    assert not np.isfinite(found[:, 0]).any()
    assert (found[:, 1] == 3).all()

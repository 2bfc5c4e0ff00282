"""The numpy twins of the field's kernels against Python's own integers."""

import numpy as np
import pytest

from cutset.kernels import reference_field as field
from cutset.kernels.reference_field import HALF, P

EDGES = np.array([0, 1, 2, 127, 65535, 65536, HALF - 1, HALF, HALF + 1, P - 65536, P - 2, P - 1], np.uint32)


def whole(array):
    return [[int(x) for x in row] for row in array]


def python_product(a, b):
    return [[sum(x * y for x, y in zip(r, s, strict=True)) % P for s in whole(b)] for r in whole(a)]


def test_mask_wraps_on_both_sides():
    q = np.array([[-2047, -1, 0, 1, 2047], [-32768, 32767, 5, -5, 0]], np.int16)
    for r in EDGES:
        residues = np.full(q.shape, r, np.uint32)
        masked = field.mask(q, residues)
        assert masked.dtype == np.uint32
        assert whole(masked) == [[(x + int(r)) % P for x in row] for row in whole(q)]
        out = np.empty_like(masked)
        assert field.mask(q, residues, out) is out
        assert np.array_equal(out, masked)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("k", [0, 1, 3, 40])
def test_dots_of_every_type(dtype, k):
    rng = np.random.default_rng(k)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (5, k), dtype, endpoint=True)
    x[:2] = np.array([[info.min], [info.max]], dtype)
    v = rng.integers(0, P, (2, k), np.uint32)
    v[0] = P - 1
    assert whole(field.dots(x, v)) == python_product(x, v)


def test_products_with_weights():
    rng = np.random.default_rng(1)
    weight = rng.choice(np.array([-127, -1, 0, 1, 127], np.int8), (9, 24))
    x = np.stack([np.resize(EDGES, 24), np.full(24, P - 1), np.zeros(24)]).astype(np.uint32)
    s = np.stack([np.resize(EDGES, 9), np.full(9, P - 1)]).astype(np.uint32)
    assert whole(field.residue_product(x, weight)) == python_product(x, weight)
    assert whole(field.project(weight, s)) == python_product(s, weight.T)
    with pytest.raises(ValueError, match="below 2147483647"):
        field.residue_product(np.array([[P]], np.uint32), weight[:1, :1])


def test_long_sums_are_cut(monkeypatch):
    monkeypatch.setattr(field, "STEP", 7)
    x = np.full((2, 40), P - 1, np.uint32)
    x[1, 3] = 5
    assert whole(field.dots(x, x)) == python_product(x, x)


def test_lift():
    assert field.lift(EDGES).tolist() == [int(x) if x <= HALF else int(x) - P for x in EDGES]


def test_verification_finds_a_changed_element():
    """Masked, multiplied, unmasked: the plain product; and then one element wrong at a time."""
    rng = np.random.default_rng(2)
    n, depth, outputs, top = 3, 24, 11, 2047
    q = rng.integers(-top, top + 1, (n, depth)).astype(np.int16)
    weight = rng.integers(-127, 128, (outputs, depth)).astype(np.int8)
    r = rng.integers(0, P, (n, depth), np.uint32)
    scales = rng.random(n, np.float32), rng.random(outputs, np.float32)
    secrets = rng.integers(0, P, (2, outputs), np.uint32)
    rest = {
        "pad": field.residue_product(r, weight),
        "bounds": np.abs(weight.astype(np.int32)).sum(1, dtype=np.int32),
        "top": top,
        "secrets": secrets,
        "expected": field.dots(q, field.project(weight, secrets)),
    }
    reply = field.residue_product(field.mask(q, r), weight)
    out = np.full((n, outputs), np.nan, np.float32)
    assert field.settle(reply, *scales, out, **rest) == (0, -1, -1)
    z = q.astype(np.int32) @ weight.T.astype(np.int32)
    assert np.array_equal(out, z.astype(np.float32) * (scales[0][:, None] * scales[1]))

    small, large = reply.copy(), reply.copy()
    small[1, 4] = (int(small[1, 4]) + 1) % P
    large[2, 7] = (int(large[2, 7]) + HALF) % P
    assert field.settle(small, *scales, out, **rest) == (3, 1, -1)
    assert (out == 0).all()
    assert field.settle(large, *scales, out, **rest) == (2, 2, 7)
    large[2, 3] = P
    assert field.settle(large, *scales, out, **rest) == (1, 2, 3)
    plain = z.astype(np.int32)
    del rest["pad"]
    assert field.settle(plain, *scales, out, **rest) == (0, -1, -1)
    plain[0, 0] = np.iinfo(np.int32).min
    assert field.settle(plain, *scales, out) == (2, 0, 0)

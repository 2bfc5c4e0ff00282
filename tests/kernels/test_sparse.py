"""Incremental inference: native layers against their twins on every instruction set, and what a position depends on."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.kernels import native
from cutset.kernels import reference_sparse as reference
from cutset.kernels.reference_sparse import Window

ACTIVATIONS = (
    *("none", "relu", "clamp", "leaky_relu", "sigmoid", "tanh", "silu"),
    *("gelu", "gelu_tanh", "hardsigmoid", "hardswish"),
)


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request):
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def map_of(x, border=0):
    found = native.SparseMap(*x.shape, border)
    found.values[...] = x
    return found


def updated(layer, shape, positions=None, held=None, threshold=0.0, border=0, **target):
    """The map (rows, columns, channels) after a layer wrote to it, the mask, and what it returned."""
    out = native.SparseMap(*shape, border)
    if held is not None:
        out.values[...] = held
    changed = np.zeros(shape[:2], np.uint8)
    positions = np.arange(shape[0] * shape[1]) if positions is None else positions
    count = layer(native.SparseTarget(out, positions, changed, threshold, **target))
    assert count == changed.sum()
    return np.array(out.values), changed


def normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)


# channels, outputs, groups, window, rows, columns
CONVOLUTIONS = [
    (3, 64, 1, Window(3, 3, 1, 1, 1, 1), 9, 11),
    (70, 33, 1, Window(3, 3, 1, 1, 1, 1), 6, 7),  # a row of the window is longer than a piece of the sums
    (5, 40, 1, Window(1, 1), 7, 5),
    (200, 8, 1, Window(1, 1, 2, 2), 5, 6),
    (4, 6, 1, Window(7, 7, 2, 2, 3, 3), 15, 13),
    (4, 6, 1, Window(3, 2, 2, 1, 1, 0, 2, 3), 12, 13),
    (6, 9, 3, Window(3, 3, 1, 1, 1, 1), 6, 5),
    (80, 80, 2, Window(3, 3, 1, 1, 2, 2, 2, 2), 7, 6),
    (21, 21, 21, Window(3, 3, 2, 2, 1, 1), 9, 8),
    (4, 8, 4, Window(5, 5, 1, 1, 2, 2), 6, 7),
    (1, 1, 1, Window(3, 3, 1, 1, 1, 1), 3, 3),
]


def made_by(window, rows, columns):
    """Rows and columns of what a layer makes whose padding is the same on both sides."""
    return tuple(
        (size + 2 * window[axis + 4] - (window[axis] - 1) * window[axis + 6] - 1) // window[axis + 2] + 1
        for axis, size in enumerate((rows, columns))
    )


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case):
    channels, outputs, groups, window, rows, columns = case
    rng = np.random.default_rng(channels)
    x, bias = normal(rng, rows, columns, channels), normal(rng, outputs)
    weight = normal(rng, outputs, window.rows, window.columns, channels // groups)
    made = made_by(window, rows, columns)
    conv = native.SparseConv(weight, bias, groups, window)
    source = map_of(x, window.border((rows, columns), made))
    whole, changed = updated(lambda to: conv.update(source, to), (*made, outputs))
    twin = reference.convolved(x, weight, bias, groups, window, made)
    np.testing.assert_allclose(whole, twin, rtol=1e-4, atol=1e-4)
    assert changed.all()
    # A position's bits depend neither on the others nor on threads, nor on the channel where they begin.
    some = np.flatnonzero(rng.random(made[0] * made[1]) < 0.4)
    pool = native.Pool(3)
    part, changed = updated(
        lambda to: conv.update(source, to, pool), (*made, outputs + 3), some, first_channel=2, border=2
    )
    mask = np.zeros(made[0] * made[1], bool)
    mask[some] = True
    mask = mask.reshape(made)
    assert (changed.view(bool) == mask).all()
    assert part[mask][:, 2 : 2 + outputs].tobytes() == whole[mask].tobytes()
    assert not part[~mask].any()
    assert not part[..., :2].any()
    assert not part[..., 2 + outputs :].any()


def test_what_spreads_covers_what_changes():
    rng = np.random.default_rng(1)
    for channels, outputs, groups, window, rows, columns in CONVOLUTIONS:
        x = normal(rng, rows, columns, channels)
        weight = normal(rng, outputs, window.rows, window.columns, channels // groups)
        made = made_by(window, rows, columns)
        marked = (rng.random((rows, columns)) < 0.1).astype(np.uint8)
        other = x + marked[..., None]
        before, after = (reference.convolved(v, weight, None, groups, window, made) for v in (x, other))
        spread = window.spread(marked, made)
        assert spread.shape == made
        assert (native.sparse_reached([marked], window, *made) == np.flatnonzero(spread)).all()
        second = (rng.random((rows, columns)) < 0.05).astype(np.uint8)
        both = native.sparse_reached([marked, second, 0 * marked], window, *made)
        assert (both == np.flatnonzero(window.spread(marked | second, made))).all()
        assert not native.sparse_reached([0 * marked], window, *made).size
        assert ((before != after).any(axis=-1) == spread.view(bool)).all()


def test_pools():
    rng = np.random.default_rng(2)
    for window, rows, columns in (
        (Window(2, 2, 2, 2), 7, 6),
        (Window(3, 3, 2, 2, 1, 1), 8, 9),
        (Window(3, 2, 1, 2, 1, 0, 2, 1), 9, 8),
    ):
        x = normal(rng, rows, columns, 37) - 3  # below zero: a border that was read would show
        made = made_by(window, rows, columns)
        for mean, divisor in ((False, 0), (True, 0), (True, 5)):
            found, _ = updated(
                lambda to, x=x, w=window, m=mean, d=divisor: native.sparse_pool(map_of(x), w, m, d, to), (*made, 37)
            )
            np.testing.assert_allclose(found, reference.pooled(x, window, mean, divisor, made), rtol=1e-5)


def test_pairs_channels_and_constants():
    rng = np.random.default_rng(3)
    a, b = normal(rng, 5, 4, 35), normal(rng, 5, 4, 35)
    for kind in ("add", "sub", "mul", "div", "max", "min"):
        found, _ = updated(lambda to, k=kind: native.sparse_combine(k, map_of(a), map_of(b, 1), to), a.shape)
        np.testing.assert_allclose(found, reference.combined(kind, a, b), rtol=1e-6)
    scale, shift = normal(rng, 35), normal(rng, 35)
    found, _ = updated(lambda to: native.sparse_affine(map_of(a), scale, shift, to), a.shape)
    np.testing.assert_allclose(found, a * scale + shift, rtol=1e-5, atol=1e-6)
    found, _ = updated(lambda to: native.sparse_copy(map_of(a), 3, 20, to), (5, 4, 20))
    assert found.tobytes() == np.ascontiguousarray(a[..., 3:23]).tobytes()


@pytest.mark.parametrize("apart", [False, True])
def test_spreads(apart):
    rng = np.random.default_rng(7)
    x = normal(rng, 4, 5, 6 * 19)
    found, _ = updated(lambda to: native.sparse_spread(map_of(x, 1), 2, 3, apart, to), (8, 15, 19))
    assert found.tobytes() == np.ascontiguousarray(reference.spread(x, (2, 3), apart)).tobytes()
    place = x.reshape(4, 5, 19, 6)[..., 4] if apart else x.reshape(4, 5, 6, 19)[..., 4, :]
    assert found[1::2, 1::3].tobytes() == np.ascontiguousarray(place).tobytes()  # the second row's second place
    for shape, block in (((8, 15, 19), (3, 2)), ((8, 15, 19), (2, 0)), ((8, 16, 19), (2, 3)), ((8, 15, 18), (2, 3))):
        with pytest.raises(ValueError, match=r"block|channels"):
            updated(lambda to, b=block: native.sparse_spread(map_of(x), *b, apart, to), shape)


def test_resizes():
    rng = np.random.default_rng(4)
    x = normal(rng, 5, 4, 19)
    rows, columns = np.arange(10) // 2, np.arange(12) // 3
    none = np.zeros(12, np.float32)
    nearest = (np.stack([rows, rows]), none[:10], np.stack([columns, columns]), none)
    found, _ = updated(lambda to: native.sparse_resize(map_of(x), *nearest, to), (10, 12, 19))
    assert found.tobytes() == np.ascontiguousarray(x[rows][:, columns]).tobytes()
    shares = rng.random(12, np.float32)
    blend = (np.stack([rows, np.minimum(rows + 1, 4)]), shares[:10], np.stack([columns, 3 - columns]), shares)
    found, _ = updated(lambda to: native.sparse_resize(map_of(x), *blend, to), (10, 12, 19))
    np.testing.assert_allclose(found, reference.blended(x, *blend), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind):
    x = np.linspace(-12, 12, 4 * 3 * 21, dtype=np.float32).reshape(4, 3, 21)
    parameter = {"clamp": 6.0, "leaky_relu": 0.1}.get(kind, 0.0)
    one, none = np.ones(21, np.float32), np.zeros(21, np.float32)
    found, _ = updated(
        lambda to: native.sparse_affine(map_of(x), one, none, to), x.shape, activation=kind, parameter=parameter
    )
    np.testing.assert_allclose(found, reference.activated(kind, x, parameter), rtol=2e-6, atol=2e-6)


def test_what_is_replaced():
    """With a threshold nothing that is held is further from what was computed; without one every bit is followed."""
    rng = np.random.default_rng(5)
    held = normal(rng, 6, 5, 18)
    fresh = held + rng.choice(np.float32([0, 0, 0, 0.01, -0.2, 0.5]), (6, 5, 18))
    fresh[0, 0, 17] = np.nan
    held[1] = 0.0
    fresh[1] = 0.0
    fresh[1, 2, 3] = -0.0
    for threshold in (0.0, 0.05, 0.3):
        found, changed = updated(
            lambda to: native.sparse_copy(map_of(fresh), 0, 18, to), held.shape, held=held, threshold=threshold
        )
        expected = reference.settled(fresh, held, threshold)
        assert (changed.view(bool) == expected).all()
        assert found.tobytes() == np.where(expected[..., None], fresh, held).tobytes()
        assert expected[1, 2] == (threshold == 0)
        assert expected[0, 0]
        assert threshold == 0 or 0 < expected.sum() < expected.size


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_inputs(dtype):
    rng = np.random.default_rng(6)
    held = rng.integers(0, 200, (4, 70, 3)).astype(np.float32)
    fresh = held + rng.choice(np.float32([0, 0, 0, 3, 20]), held.shape)
    planes = np.ascontiguousarray(fresh.transpose(2, 0, 1).astype(dtype))
    among = (rng.random((4, 70)) < 0.5).astype(np.uint8)
    among[2] = 0
    for where in (None, among):
        for threshold in (0.0, 8.0):
            target = map_of(held, 1)
            changed = np.zeros((4, 70), np.uint8)
            count = target.take(planes, changed, threshold, where, native.Pool(2))
            looked = np.ones((4, 70), bool)
            if where is not None:  # in steps of 32 positions
                for at in range(0, 70, 32):
                    looked[:, at : at + 32] = where[:, at : at + 32].any(axis=1, keepdims=True)
            expected = reference.settled(fresh, held, threshold) & looked
            assert count == expected.sum()
            assert (changed.view(bool) == expected).all()
            assert (np.array(target.values) == np.where(expected[..., None], fresh, held)).all()


def test_what_does_not_fit_is_refused():
    x = map_of(np.zeros((4, 4, 8), np.float32))
    conv = native.SparseConv(np.zeros((8, 3, 3, 8), np.float32), None, 1, Window(3, 3, 1, 1, 1, 1))
    out, changed = native.SparseMap(4, 4, 8), np.zeros((4, 4), np.uint8)

    def target(positions=(0, 1), out=out, changed=changed, **more):
        return native.SparseTarget(out, np.array(positions, np.int64), changed, **more)

    with pytest.raises(ValueError, match="beyond the border"):
        conv.update(x, target())
    with pytest.raises(ValueError, match="must rise"):
        native.sparse_copy(x, 0, 8, target((1, 1)))
    with pytest.raises(ValueError, match="must rise"):
        native.sparse_copy(x, 0, 8, target((0, 16)))
    with pytest.raises(ValueError, match="must rise"):
        native.sparse_copy(x, 0, 8, target((-1,)))
    with pytest.raises(ValueError, match="no such channels"):
        native.sparse_copy(x, 1, 8, target())
    with pytest.raises(ValueError, match="too few channels"):
        native.sparse_copy(x, 0, 8, target(first_channel=1))
    with pytest.raises(ValueError, match="threshold"):
        native.sparse_copy(x, 0, 8, target(threshold=float("nan")))
    with pytest.raises(ValueError, match="activation"):
        native.sparse_copy(x, 0, 8, target(activation="selu"))
    with pytest.raises(ValueError, match="changed must have shape"):
        native.sparse_copy(x, 0, 8, target(changed=np.zeros((4, 5), np.uint8)))
    with pytest.raises(ValueError, match="one size"):
        native.sparse_copy(out, 0, 8, target())
    with pytest.raises(ValueError, match="divide"):
        native.SparseConv(np.zeros((8, 3, 3, 8), np.float32), None, 3, Window(3, 3))
    with pytest.raises(ValueError, match="there must be a mask"):
        native.sparse_reached([], Window(1, 1), 4, 4)
    with pytest.raises(ValueError, match="mask must have shape"):
        native.sparse_reached([changed, np.zeros((4, 5), np.uint8)], Window(1, 1), 4, 4)
    with pytest.raises(ValueError, match="window"):
        native.SparseConv(np.zeros((8, 3, 3, 8), np.float32), None, 1, Window(3, 3, 0, 1))
    with pytest.raises(ValueError, match="lies beyond"):
        native.sparse_pool(x, Window(2, 2, 9, 9), False, 0, target())
    rows = np.full((2, 4), 4)
    with pytest.raises(ValueError, match="place lies beyond"):
        native.sparse_resize(x, rows, np.zeros(4, np.float32), rows, np.zeros(4, np.float32), target())

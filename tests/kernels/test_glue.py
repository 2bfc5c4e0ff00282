"""The glue kernels of rows on their own, in every instruction set, against their numpy twins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cutset.kernels._native as native
from cutset.kernels import reference
from kernels.comparing import ISAS, close, floats, nothing

SIZES = (1, 3, 8, 15, 16, 17, 33, 63, 64, 80, 129)


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_embedding(rng: np.random.Generator) -> None:
    table, ids, out = floats(rng, 11, 20), np.array([3, 0, 10, 3], np.int32), nothing(4, 20)
    native.embedding(table, ids, out)
    np.testing.assert_array_equal(out, reference.embedding(table, ids))
    for bad in (-1, 11):
        with pytest.raises(ValueError, match="outside"):
            native.embedding(table, np.array([0, bad, 0, 0], np.int32), out)


@pytest.mark.parametrize("cols", SIZES)
def test_norms(rng: np.random.Generator, cols: int) -> None:
    x, delta, gain = floats(rng, 5, cols), floats(rng, 5, cols), floats(rng, cols)
    x[2] = 0
    out = nothing(5, cols)
    native.rms_norm(x, gain, 1e-5, out)
    close(out, reference.rms_norm(x, gain, 1e-5))
    total, alone = x + delta, nothing(1, cols)
    native.rms_norm(total[3:4], gain, 1e-5, alone)
    native.add_rms_norm(x, delta, gain, 1e-5, out)
    np.testing.assert_array_equal(x, total)
    close(out, reference.rms_norm(total, gain, 1e-5))
    np.testing.assert_array_equal(out[3:4], alone)


@pytest.mark.parametrize("cols", SIZES)
def test_additions(rng: np.random.Generator, cols: int) -> None:
    x, bias = floats(rng, 3, cols), floats(rng, cols)
    total = x + bias
    native.add_bias(x, bias)
    np.testing.assert_array_equal(x, total)
    native.scaled_add(x[1], 0.3, bias)
    close(x[1], total[1] + np.float32(0.3) * bias)
    np.testing.assert_array_equal(x[[0, 2]], total[[0, 2]])


@pytest.mark.parametrize("cols", SIZES)
def test_products_of_rows(rng: np.random.Generator, cols: int) -> None:
    x, gate, out = floats(rng, cols), floats(rng, cols) * 9, nothing(cols)
    native.multiply(x, gate, out)
    np.testing.assert_array_equal(out, x * gate)
    expected = x * reference.sigmoid(gate)
    native.sigmoid_mul(x, gate)
    close(x, expected)
    native.sigmoid_mul(gate, gate)  # silu, in place
    assert np.isfinite(gate).all()


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize("taps", [1, 2, 3, 7])
def test_short_convolutions(rng: np.random.Generator, cols: int, taps: int) -> None:
    history, x, weight, bias = (
        floats(rng, taps - 1, cols),
        floats(rng, 5, cols),
        floats(rng, cols, taps),
        floats(rng, cols),
    )
    z, turned = np.concatenate([history, x]), np.ascontiguousarray(weight.T)
    for given in (bias, None):
        expected = reference.short_conv(history, x, weight, given)
        for row in range(5):
            out = nothing(cols)
            native.short_conv(z[row : row + taps], turned, given, out)
            close(out, expected[row], 1e-5)


@pytest.mark.parametrize("value_dim", SIZES)
@pytest.mark.parametrize("key_dim", [1, 5, 32])
def test_delta_rule(rng: np.random.Generator, key_dim: int, value_dim: int) -> None:
    state, v = floats(rng, 2, key_dim, value_dim), floats(rng, 6, 2, value_dim)
    q, k = (floats(rng, 6, 2, key_dim) / np.float32(key_dim**0.5) for _ in range(2))
    kept, beta = reference.sigmoid(floats(rng, 6, 2)), reference.sigmoid(floats(rng, 6, 2))
    expected, last = reference.delta_rule(state, q, k, v, kept, beta)
    for head in range(2):
        own, out = state[head].copy(), nothing(6, value_dim)
        qkv = np.concatenate([part[:, head] for part in (q, k, v)], axis=1)
        gates = [np.ascontiguousarray(part[:, head]) for part in (kept, beta)]
        native.delta_rule(own, qkv, kept=gates[0], beta=gates[1], out=out)
        close(out, expected[:, head], 2e-5)
        close(own, last[head], 2e-5)
        parts = state[head].copy()  # a row at a time, to the bit
        for row in range(6):
            one = nothing(1, value_dim)
            native.delta_rule(
                parts, qkv[row : row + 1], kept=gates[0][row : row + 1], beta=gates[1][row : row + 1], out=one
            )
            np.testing.assert_array_equal(one[0], out[row])
        np.testing.assert_array_equal(parts, own)


@pytest.mark.parametrize("cols", SIZES)
def test_silu_mul(rng: np.random.Generator, cols: int) -> None:
    x, out = floats(rng, 4, 2 * cols) * 5, nothing(4, cols)
    x[1, :cols] = rng.choice(np.array([-1e4, -90, -80, 0, 80, 1e4], np.float32), cols)
    native.silu_mul(x, out)
    close(out, reference.silu_mul(x))
    moved, end = nothing(1, cols), np.ascontiguousarray(np.roll(x[2:3], 1, axis=1))  # other lanes, or the tail
    if cols > 1:
        end[:, [0, cols]] = x[2:3, [cols - 1, 2 * cols - 1]]
        native.silu_mul(end, moved)
        np.testing.assert_array_equal(np.roll(moved, -1, axis=1), out[2:3])


@pytest.mark.parametrize("cols", SIZES)
def test_gelu_mul(rng: np.random.Generator, cols: int) -> None:
    x, out = floats(rng, 4, 2 * cols) * 5, nothing(4, cols)
    x[1, :cols] = rng.choice(np.array([-1e4, -10, -3, 0, 3, 1e4], np.float32), cols)
    native.gelu_mul(x, out)
    close(out, reference.gelu_mul(x), 1e-5)


@pytest.mark.parametrize("cols", SIZES)
def test_gelu_erf_and_relu_mul(rng: np.random.Generator, cols: int) -> None:
    x, out = floats(rng, 4, 2 * cols) * 5, nothing(4, cols)
    x[1, :cols] = rng.choice(np.array([-1e4, -10, -3, 0, 3, 1e4], np.float32), cols)
    native.gelu_erf_mul(x, out)
    close(out, reference.gelu_erf_mul(x), 2e-6)
    for squared in (False, True):
        native.relu_mul(x, out, squared=squared)
        np.testing.assert_array_equal(out, reference.relu_mul(x, squared=squared))


def test_gelu_is_accurate_far_below_zero_too(isa: str) -> None:
    """As a share of itself: what is left of it at -12 is 1e-32."""
    gate = np.concatenate([np.linspace(-12, 12, 100_000), [0.0, 1e-30, -1e-30, 700, 3e38]]).astype(np.float32)
    x, out = np.stack([gate, np.ones_like(gate)]).reshape(1, -1), nothing(1, len(gate))
    native.gelu_erf_mul(x, out)
    np.testing.assert_allclose(out[0], reference.gelu_erf_mul(x)[0], rtol=1e-5 if isa == "portable" else 1e-6)
    special = np.array([[-np.inf, np.nan, np.inf, -1e30, 1, 1, 1, 1]], np.float32)
    out = nothing(1, 4)
    native.gelu_erf_mul(special, out)
    assert np.isnan(out[0, :2]).all()
    assert np.isposinf(out[0, 2])
    assert out[0, 3] == 0


@pytest.mark.parametrize("cols", SIZES)
def test_clamped_mul(rng: np.random.Generator, cols: int) -> None:
    x, out = floats(rng, 4, 2 * cols) * 5, nothing(4, cols)
    x[1, :cols] = rng.choice(np.array([-1e4, -10, -3, 0, 3, 1e4], np.float32), cols)
    native.clamped_mul(x, 7.0, 1.702, out)
    close(out, reference.clamped_mul(x, 7.0, 1.702), 1e-5)


@pytest.mark.parametrize("cols", SIZES)
def test_scale_and_softcap(rng: np.random.Generator, cols: int) -> None:
    x = floats(rng, cols) * 20
    x[0] = 1e5
    scaled, capped = x.copy(), x.copy()
    native.scale(scaled, 0.3)
    np.testing.assert_array_equal(scaled, x * np.float32(0.3))
    native.softcap(capped, 15.0)
    close(capped, reference.soft_capped(x, 15.0), 3e-6)
    assert np.ptp(capped) > 0.1 or cols == 1


def test_exp_is_accurate() -> None:
    x = np.concatenate([np.linspace(-87.3, 88, 400_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    out = np.empty_like(x)
    native.exp(x, out)
    exact = np.exp(x.astype(np.float64))
    ulps = np.abs(out - exact) / np.spacing(exact.astype(np.float32))
    assert ulps.max() < 1.5
    special = np.array([-np.inf, -1e4, -88, 0, -0.0, np.nan, 100, np.inf], np.float32)
    out = np.empty_like(special)
    native.exp(special, out)
    capped = np.float32(np.exp(88.0))
    np.testing.assert_allclose(out, [0, 0, 0, 1, 1, np.nan, capped, capped], rtol=2e-7)


@pytest.mark.parametrize("head_dim", [2, 8, 16, 48, 64, 80, 96, 128])
def test_rope(rng: np.random.Generator, head_dim: int) -> None:
    heads, rows = 3, 4
    x = floats(rng, rows, 5 * head_dim)
    angles = floats(rng, rows, head_dim // 2) * 30
    cos, sin = np.cos(angles), np.sin(angles)
    expected = reference.apply_rope(x[:, : heads * head_dim].reshape(rows, heads, head_dim), cos, sin)
    rest = x[:, heads * head_dim :].copy()
    native.apply_rope(x, cos, sin, heads)
    close(x[:, : heads * head_dim], expected.reshape(rows, -1))
    np.testing.assert_array_equal(x[:, heads * head_dim :], rest)


@pytest.mark.parametrize("head_dim", [1, 2, 6, 8, 48, 64, 80, 128, 192, 256, 512])
def test_heads_are_mixed(rng: np.random.Generator, head_dim: int) -> None:
    x = floats(rng, 3, 2 * head_dim)
    heads = x.reshape(3, 2, head_dim).copy()
    mixed = reference.mix_heads(heads)
    native.mix_heads(x, head_dim)
    np.testing.assert_array_equal(x.reshape(mixed.shape), mixed)
    np.testing.assert_allclose(
        np.einsum("rhd,sgd->rhsg", mixed, mixed), np.einsum("rhd,sgd->rhsg", heads, heads), rtol=1e-4, atol=1e-4
    )
    run = min(head_dim & -head_dim, 128)
    matrix = reference.mix_heads(np.eye(head_dim, dtype=np.float32)[None])[0]
    np.testing.assert_allclose(np.abs(matrix).max(axis=0), run**-0.5, rtol=1e-6)  # everything reaches all of its run
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(head_dim), atol=1e-6)
    with pytest.raises(ValueError, match="whole heads"):
        native.mix_heads(x, head_dim + 1 if head_dim > 1 else 0)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(16, 2), (20, 6), (64, 32), (96, 94)])
def test_partial_rope(rng: np.random.Generator, head_dim: int, rotary_dim: int, interleaved: bool) -> None:
    x, angles = floats(rng, 4, 5 * head_dim), floats(rng, 4, rotary_dim // 2) * 30
    cos, sin = np.cos(angles), np.sin(angles)
    heads = x.reshape(4, 5, head_dim).copy()
    turned = reference.apply_rope(heads[:, :3], cos, sin, interleaved=interleaved)
    native.apply_rope(x, cos, sin, 3, head_dim, interleaved)
    expected = np.concatenate([turned, heads[:, 3:]], axis=1)
    close(x, expected.reshape(4, -1))
    np.testing.assert_array_equal(x.reshape(4, 5, head_dim)[..., rotary_dim:], heads[..., rotary_dim:])


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (4, 2), (17, 5), (64, 8), (128, 128)])
def test_moe_route(rng: np.random.Generator, experts: int, top_k: int, normalise: bool) -> None:
    logits = floats(rng, 6, experts) * 3
    logits[1] = 0.5  # all equal: the lowest numbers win
    logits[2] = np.repeat(logits[2, : -(-experts // 2)], 2)[:experts]  # pairs of equals
    logits[3, -1] = 1e4
    ids, weights = np.full((6, top_k), -1, np.int32), nothing(6, top_k)
    native.moe_route(logits, normalise=normalise, ids=ids, weights=weights)
    expected, expected_weights = reference.moe_route(logits, top_k, normalise=normalise)
    np.testing.assert_array_equal(ids, expected)
    close(weights, expected_weights)

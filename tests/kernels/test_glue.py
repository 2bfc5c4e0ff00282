"""The glue kernels of every instruction set against their numpy twins, and their batch invariance to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cutset.kernels._native as native
from cutset.kernels import reference

Floats = NDArray[np.float32]
SIZES = (1, 3, 8, 15, 16, 17, 33, 63, 64, 80, 129)


# The others share their vectors, and so all of this, with avx512.
ISAS = [isa for isa in native.available_isas() if isa in ("portable", "avx2", "avx512")]


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def floats(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


def nothing(*shape: int) -> Floats:
    """An output that shows what was not written."""
    return np.full(shape, np.nan, dtype=np.float32)


ANSWERS: dict[bytes, Floats] = {}


def twin_attention(*given: Floats, **options: Any) -> Floats:
    """What `reference.attention` answers, which takes long, computed once for all instruction sets and block sizes."""
    digest = hashlib.sha256()
    for name, value in [*enumerate(given), *sorted(options.items())]:
        array = value if isinstance(value, np.ndarray) else None
        digest.update(repr((name, value if array is None else (array.dtype.str, array.shape))).encode())
        digest.update(b"" if array is None else array.tobytes())
    key = digest.digest()
    if key not in ANSWERS:
        ANSWERS[key] = reference.attention(*given, **options)
    return ANSWERS[key]


def close(actual: Floats, expected: Floats, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# Rows on their own


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


# Attention over the paged cache


@dataclass
class Case:
    """Whole sequences in a cache whose unused places hold NaN, blocks scattered and sequences interleaved."""

    lens: list[int]
    heads: int
    kv_heads: int
    head_dim: int
    block_size: int
    seed: int = 0
    spread: float = 1.0
    int8: bool = False

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = [floats(rng, n, width) * np.float32(self.spread) for n in self.lens]
        blocks = [-(-n // self.block_size) for n in self.lens]
        self.tables = np.full((len(self.lens), max(blocks) + 1), -1, np.int32)
        free = rng.permutation(sum(blocks) + 2).astype(np.int32)
        for i, used in enumerate(blocks):
            self.tables[i, :used], free = free[:used], free[used:]
        floats_of = native.cache_floats(self.kv_heads, self.head_dim, self.block_size, self.int8)
        self.keys, self.values = (nothing(sum(blocks) + 2, n) for n in floats_of)

    def step(
        self,
        rows: list[tuple[int, int, int]],  # (sequence, first row, end row)
        window: int = 0,
        mask: NDArray[np.bool_] | None = None,
        wanted: list[int] | None = None,
        pool: native.Pool | None = None,
        scale: float = 0.0,
        softcap: float = 0.0,
        sinks: Floats | None = None,
    ) -> list[Floats]:
        """Appends these rows and lets them attend; one array a sequence, or one of the wanted rows."""
        counts = [end - first for _, first, end in rows]
        starts = np.cumsum([0, *counts]).astype(np.int32)
        where = {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "block_size": self.block_size,
            "int8": self.int8,
            "keys": self.keys,
            "values": self.values,
            "row_starts": starts,
            "context_lens": np.array([end for _, _, end in rows], np.int32),
            "block_tables": self.tables[[s for s, _, _ in rows]],
        }
        qkv = np.concatenate([self.qkv[s][first:end] for s, first, end in rows])
        native.append(qkv, **where)
        out = nothing(len(qkv) if wanted is None else len(wanted), self.heads * self.head_dim)
        chosen = None if wanted is None else np.array(wanted, np.int32)
        scale = scale or self.head_dim**-0.5
        options = {
            "window": window,
            "key_mask": mask,
            "wanted": chosen,
            "pool": pool,
            "softcap": softcap,
            "sinks": sinks,
        }
        native.attention(qkv, **where, scale=scale, out=out, **options)
        return [out] if wanted is not None else np.split(out, starts[1:-1])

    def prefill(self, window: int = 0, mask: NDArray[np.bool_] | None = None) -> list[Floats]:
        return self.step([(s, 0, n) for s, n in enumerate(self.lens)], window, mask)

    def expected(self, sequence: int, window: int = 0, mask: NDArray[np.bool_] | None = None) -> Floats:
        rows = self.qkv[sequence].reshape(self.lens[sequence], -1, self.head_dim)
        q, k, v = np.split(rows, [self.heads, self.heads + self.kv_heads], axis=1)
        own = None if mask is None else mask[sequence, : self.lens[sequence]]
        if self.int8:
            k, v = ((codes * scales[..., None]) for codes, scales in map(reference.quantize_heads, (k, v)))
        return twin_attention(q, k, v, window=window, key_mask=own)


@pytest.mark.parametrize("head_dim", [8, 16, 20, 48, 64, 80, 96, 128])
@pytest.mark.parametrize("block_size", [16, 32, 48])
def test_attention_of_each_head_size(head_dim: int, block_size: int) -> None:
    case = Case([1, 17, 70, 129], 4, 2, head_dim, block_size)
    for s, out in enumerate(case.prefill()):
        close(out, case.expected(s))


@pytest.mark.parametrize("group", [1, 2, 3, 4, 7, 8, 70])
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_attention_of_each_group(group: int, kv_heads: int) -> None:
    case = Case([5, 150], group * kv_heads, kv_heads, 16, 16)
    for s, out in enumerate(case.prefill()):
        close(out, case.expected(s))


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 63, 64, 65, 128, 300])
@pytest.mark.parametrize("window", [0, 1, 5, 16, 64, 100, 1000])
def test_attention_of_each_length_and_window(tokens: int, window: int) -> None:
    case = Case([tokens], 6, 2, 24, 16)
    out = case.prefill(window)[0]
    close(out, case.expected(0, window))
    case.keys[:], case.values[:] = np.nan, np.nan
    decoded = min(tokens, 20)
    if decoded < tokens:
        np.testing.assert_array_equal(case.step([(0, 0, tokens - decoded)], window)[0], out[:-decoded])
    for first in range(tokens - decoded, tokens):
        np.testing.assert_array_equal(case.step([(0, first, first + 1)], window)[0], out[first : first + 1])


@pytest.mark.parametrize("softcap", [0.5, 3.0])
@pytest.mark.parametrize("window", [0, 40])
def test_attention_with_capped_scores(rng: np.random.Generator, window: int, softcap: float) -> None:
    case, scale = Case([90, 200], 4, 2, 16, 16), 0.7
    mask = rng.random((2, 200)) < 0.6
    mask[0, :70] = False
    for own in (None, mask):
        found = case.step([(0, 0, 90), (1, 0, 200)], window, own, scale=scale, softcap=softcap)
        for s, out in enumerate(found):
            rows = case.qkv[s].reshape(case.lens[s], -1, 16)
            q, k, v = np.split(rows, [4, 6], axis=1)
            seen = None if own is None else own[s, : case.lens[s]]
            close(out, twin_attention(q, k, v, window=window, key_mask=seen, scale=scale, softcap=softcap), 5e-6)
    plain = case.step([(0, 0, 90), (1, 0, 200)], window, scale=scale)
    assert not np.allclose(plain[1], case.step([(0, 0, 90), (1, 0, 200)], window, scale=scale, softcap=softcap)[1])


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("pool", [None, 3])
def test_attention_with_sinks(rng: np.random.Generator, window: int, pool: int | None) -> None:
    case = Case([90, 2500 if pool else 200], 4, 2, 16, 16)
    sinks = np.array([-3, 0.5, 20, -1e4], np.float32)  # one that takes all, and one that takes nothing
    mask = rng.random((2, case.lens[1])) < 0.6
    mask[0, :70] = False
    for own in (None, mask):
        threads = native.Pool(pool) if pool else None
        found = case.step([(s, 0, n) for s, n in enumerate(case.lens)], window, own, pool=threads, sinks=sinks)
        for s, out in enumerate(found):
            q, k, v = np.split(case.qkv[s].reshape(case.lens[s], -1, 16), [4, 6], axis=1)
            seen = None if own is None else own[s, : case.lens[s]]
            close(out, twin_attention(q, k, v, window=window, key_mask=seen, sinks=sinks), 5e-6)
    [last] = case.step([(1, case.lens[1] - 1, case.lens[1])], window, pool=threads, sinks=sinks)
    np.testing.assert_array_equal(last, case.step([(1, 0, case.lens[1])], window, sinks=sinks)[0][-1:])


@pytest.mark.parametrize("window", [0, 40])
def test_attention_with_a_key_mask(rng: np.random.Generator, window: int) -> None:
    case = Case([90, 200, 64], 4, 2, 16, 16)
    mask = rng.random((3, 203)) < 0.6
    mask[0, :70] = False  # left padding: the first rows see nothing
    mask[1, 64:130] = False  # a whole key tile, and with the window all that some rows could see
    for s, out in enumerate(case.prefill(window, mask)):
        close(out, case.expected(s, window, mask))
    blind = case.prefill(window, mask)[0][:70]
    np.testing.assert_array_equal(blind, np.zeros_like(blind))
    seen = case.prefill(window)
    for out, same in zip(case.prefill(window, np.ones((3, 200), np.bool_)), seen, strict=True):
        np.testing.assert_array_equal(out, same)


def test_masked_and_later_values_are_never_touched(rng: np.random.Generator) -> None:
    case = Case([100], 2, 1, 16, 16)
    mask = rng.random((1, 100)) < 0.7
    clean = case.prefill(mask=mask)[0]
    case.qkv[0][~mask[0], 2 * 16 :] = np.inf  # keys and values
    np.testing.assert_array_equal(case.prefill(mask=mask)[0], clean)
    case = Case([100], 2, 1, 16, 16)
    clean = case.prefill()[0]
    case.qkv[0][70, 2 * 16 :] = np.nan
    out = case.prefill()[0]
    np.testing.assert_array_equal(out[:70], clean[:70])
    assert np.isnan(out[70:]).all()


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (7, 1, 40), (3, 3, 16)])
def test_attention_is_batch_invariant(heads: int, kv_heads: int, head_dim: int, window: int) -> None:
    case = Case([200, 31, 130], heads, kv_heads, head_dim, 16)
    whole = case.prefill(window)
    for s, n in enumerate(case.lens):
        np.testing.assert_array_equal(case.step([(s, 0, n)], window)[0], whole[s])
    for cuts in ([0, 1, 64, 65, 200], [0, 7, 30, 128, 199, 200], [0, 100, 200]):
        case.keys[:], case.values[:] = np.nan, np.nan
        for first, end in pairwise(cuts):
            # two chunks of one sequence, with another one between them
            other = [(1, 0, 31)] if first == 0 else [(1, 30, 31)]
            out = case.step([*other, (0, first, end)], window)
            np.testing.assert_array_equal(out[1], whole[0][first:end])
            np.testing.assert_array_equal(out[0][-1], whole[1][-1])
    rows = [(s, 0, n) for s, n in enumerate(case.lens)]
    for out, same in zip(case.step(rows, window, pool=native.Pool(3)), whole, strict=True):
        np.testing.assert_array_equal(out, same)
    wide = Case([200, 31, 130], heads, kv_heads, head_dim, 32)
    for out, same in zip(wide.prefill(window), whole, strict=True):
        np.testing.assert_array_equal(out, same)


@pytest.mark.parametrize("window", [0, 700])
def test_a_long_history_shared_out_among_threads(window: int) -> None:
    case = Case([1300, 20], 3, 1, 16, 16)
    whole = case.prefill(window)
    close(whole[0], case.expected(0, window))
    mask = np.ones((2, 1300), np.bool_)
    mask[0, 400:1100] = False
    masked = case.prefill(window, mask)
    close(masked[0], case.expected(0, window, mask))
    pool = native.Pool(3)
    for rows in ([(0, 1299, 1300)], [(0, 1280, 1300), (1, 19, 20)]):
        for pools, masks, expected in ((None, None, whole), (pool, None, whole), (pool, mask, masked)):
            out = case.step(rows, window, None if masks is None else masks[: len(rows)], pool=pools)
            for (s, first, end), part in zip(rows, out, strict=True):
                np.testing.assert_array_equal(part, expected[s][first:end])


def test_attention_of_wanted_rows() -> None:
    case = Case([40, 9, 70], 4, 2, 16, 16)
    whole = np.concatenate(case.prefill())
    rows = [(0, 0, 40), (1, 0, 9), (2, 0, 70)]
    for wanted in ([39, 48, 118], list(range(119)), [5, 6, 7, 7, 3, 118, 0], []):
        np.testing.assert_array_equal(case.step(rows, wanted=wanted)[0], whole[wanted])


@pytest.mark.parametrize("spread", [100.0, 1e3])  # scores of some 1e4 and 1e6
def test_extreme_scores(spread: float) -> None:
    case = Case([90], 4, 2, 16, 16, spread=spread)
    out = case.prefill()[0]
    assert np.isfinite(out).all()
    close(out / np.float32(spread), case.expected(0) / np.float32(spread), 1e-2 if spread > 100 else 1e-3)


def test_wrong_batches_are_refused() -> None:
    case = Case([20, 40], 4, 2, 16, 16)
    case.prefill()
    with pytest.raises(ValueError, match="more rows than tokens"):
        case.step([(0, -3, 20)])
    case.tables[1, 1] = 99
    with pytest.raises(ValueError, match="block that isn't there"):
        case.step([(1, 0, 40)])
    case.tables = case.tables[:, :1].copy()
    with pytest.raises(ValueError, match="more tokens"):
        case.step([(1, 0, 40)])
    with pytest.raises(ValueError, match="wanted"):
        case.step([(0, 0, 10)], wanted=[10])
    with pytest.raises(ValueError, match="key_mask"):
        case.step([(0, 0, 10)], mask=np.ones((1, 9), np.bool_))


@pytest.mark.parametrize("isa", [isa for isa in native.available_isas() if isa not in ISAS], indirect=True)
def test_the_other_instruction_sets_hold_the_same_kernels(isa: str) -> None:
    def attend(name: str) -> Floats:
        native.select_isa(name)
        return Case([200], 4, 2, 64, 16).prefill()[0]

    np.testing.assert_array_equal(attend(isa), attend("avx512"))

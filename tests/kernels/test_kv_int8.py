"""Keys and values in 8 bits: the native kernels against their twin, and their batch invariance to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

import cutset.kernels._native as native
from cutset.kernels import reference
from kernels.attention_cases import Case, twin_attention
from kernels.comparing import close, nothing


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def stored(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes and scales that the kernel keeps of keys and of values x (tokens, heads, d), in one block."""
    tokens, heads, size = x.shape
    block, padded = -(-tokens // 16) * 16, -(-size // 16) * 16
    keys, values = (np.zeros((1, n), np.float32) for n in native.cache_floats(heads, size, block, True))
    qkv = np.concatenate([np.zeros((tokens, heads * size)), x.reshape(tokens, -1), x.reshape(tokens, -1)], axis=1)
    where = {"heads": heads, "kv_heads": heads, "head_dim": size, "block_size": block, "keys": keys, "values": values}
    rows = np.array([0, tokens], np.int32), np.array([tokens], np.int32), np.zeros((1, 1), np.int32)
    names = ("row_starts", "context_lens", "block_tables")
    native.append(qkv.astype(np.float32), **where, **dict(zip(names, rows, strict=True)), int8=True)
    key_packs, value_packs = (part.reshape(heads, block // 16, -1) for part in (keys, values))
    scales = [packs[..., :16].transpose(1, 2, 0).reshape(block, heads)[:tokens] for packs in (key_packs, value_packs)]
    k, v = (packs[..., 16:].copy().view(np.int8) for packs in (key_packs, value_packs))
    k = k.reshape(heads, block // 16, size, 16).transpose(1, 3, 0, 2).reshape(block, heads, size)[:tokens]
    v = v.reshape(heads, block, padded).transpose(1, 0, 2)[:tokens, :, :size]
    return k, scales[0], v, scales[1]


@pytest.mark.parametrize("size", [1, 8, 20, 33, 64, 80, 128])
def test_codes_and_scales_are_those_of_the_twin(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.standard_normal((50, 3, size)).astype(np.float32) * 10.0 ** rng.integers(-30, 30, (50, 3, 1))
    x = x.astype(np.float32)
    x[3] = 0
    x[4] = -0.0
    x[5], x[6, :, -1], x[7, :, 0], x[8, :, -1] = 1e-37, np.nan, np.inf, -np.inf
    x[9] = np.finfo(np.float32).max
    x[10] = np.finfo(np.float32).tiny / 2
    x[11] = np.arange(-(size // 2), size - size // 2) + np.float32(0.5)  # halves
    x[12, :, :-1] = 0
    with np.errstate(invalid="ignore", over="ignore"):
        codes, scales = reference.quantize_heads(x)
    for found, found_scales in (stored(x)[:2], stored(x)[2:]):
        np.testing.assert_array_equal(found_scales, scales)
        np.testing.assert_array_equal(found, codes)
    assert np.isnan(scales[6:9]).all()
    assert not scales[[3, 4, 5, 10]].any()
    used = np.nan_to_num(scales[..., None]).astype(np.float64)  # in float32 the largest number would overflow
    error = np.abs(codes * used - np.where(used > 0, x, 0))
    assert (error <= 0.5001 * used).all()
    assert np.abs(codes).max() == 127


@pytest.mark.parametrize("head_dim", [8, 20, 48, 64, 128])
@pytest.mark.parametrize("block_size", [16, 48])
@pytest.mark.parametrize("window", [0, 40])
def test_attention_equals_the_twin(head_dim: int, block_size: int, window: int) -> None:
    case = Case([1, 17, 70, 129], 6, 2, head_dim, block_size, int8=True)
    rng = np.random.default_rng(1)
    mask = rng.random((4, 129)) < 0.6
    mask[2, :50] = False
    for own in (None, mask):
        for s, out in enumerate(case.prefill(window, own)):
            close(out, case.expected(s, window, own), 5e-6)
    plain = Case([1, 17, 70, 129], 6, 2, head_dim, block_size)
    assert not np.array_equal(case.prefill()[3], plain.prefill()[3]), "nothing was quantised"


def test_attention_with_sinks_and_capped_scores() -> None:
    case = Case([200], 4, 2, 16, 16, int8=True)
    sinks = np.array([-3, 0.5, 20, -1e4], np.float32)
    q, k, v = np.split(case.qkv[0].reshape(200, -1, 16), [4, 6], axis=1)
    k, v = ((codes * scales[..., None]) for codes, scales in map(reference.quantize_heads, (k, v)))
    for window in (0, 40):
        [out] = case.step([(0, 0, 200)], window, scale=0.7, softcap=3.0, sinks=sinks)
        close(out, twin_attention(q, k, v, window=window, scale=0.7, softcap=3.0, sinks=sinks), 5e-6)


def test_what_may_not_be_seen_is_never_touched() -> None:
    case = Case([100], 2, 1, 16, 16, int8=True)
    mask = np.random.default_rng(2).random((1, 100)) < 0.7
    clean, whole = case.prefill(mask=mask)[0], case.prefill()[0]
    case.qkv[0][~mask[0], 2 * 16 :] = np.inf  # keys and values
    np.testing.assert_array_equal(case.prefill(mask=mask)[0], clean)
    case = Case([100], 2, 1, 16, 16, int8=True)
    case.qkv[0][70, 2 * 16 :] = np.nan
    out = case.prefill()[0]
    np.testing.assert_array_equal(out[:70], whole[:70])
    assert np.isnan(out[70:]).all(), "what is no number must show"


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 64), (7, 1, 40), (3, 3, 16)])
def test_attention_is_batch_invariant(heads: int, kv_heads: int, head_dim: int, window: int) -> None:
    case = Case([200, 31, 130], heads, kv_heads, head_dim, 16, int8=True)
    whole = case.prefill(window)
    for s, n in enumerate(case.lens):
        np.testing.assert_array_equal(case.step([(s, 0, n)], window)[0], whole[s])
    for cuts in ([0, 1, 64, 65, 200], [0, 7, 30, 128, 199, 200]):
        case.keys[:], case.values[:] = np.nan, np.nan
        for first, end in pairwise(cuts):
            other = [(1, 0, 31)] if first == 0 else [(1, 30, 31)]
            out = case.step([*other, (0, first, end)], window)
            np.testing.assert_array_equal(out[1], whole[0][first:end])
            np.testing.assert_array_equal(out[0][-1], whole[1][-1])
    for block_size, pool in ((16, native.Pool(3)), (32, None)):
        other_case = Case([200, 31, 130], heads, kv_heads, head_dim, block_size, int8=True)
        found = other_case.step([(s, 0, n) for s, n in enumerate(case.lens)], window, pool=pool)
        for out, same in zip(found, whole, strict=True):
            np.testing.assert_array_equal(out, same)


def test_a_long_history_shared_out_among_threads() -> None:
    case = Case([1300, 20], 3, 1, 16, 16, int8=True)
    whole = case.prefill(700)
    for pool in (None, native.Pool(3)):
        np.testing.assert_array_equal(case.step([(0, 1299, 1300)], 700, pool=pool)[0], whole[0][1299:])


def test_the_room_of_a_block() -> None:
    assert native.cache_floats(2, 64, 32, True) == (2 * 2 * (16 + 16 * 64 // 4),) * 2
    assert native.cache_floats(2, 20, 16, True) == (2 * (16 + 80), 2 * (16 + 128))
    case = Case([20], 2, 1, 16, 16, int8=True)
    case.keys = nothing(len(case.keys), 16 * 16)  # as for floats
    with pytest.raises(ValueError, match="keys: a wrong number"):
        case.prefill()

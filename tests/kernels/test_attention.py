"""Attention over the paged cache, in every instruction set, against its twin; batch invariance to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

import cutset.kernels._native as native
from kernels.attention_cases import Case, twin_attention
from kernels.comparing import ISAS, Floats, close


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


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

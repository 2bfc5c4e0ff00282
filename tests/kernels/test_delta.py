"""The delta kernels of every instruction set against their numpy twins."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cutset.kernels._native as native
from cutset.kernels import reference_delta as reference

# The others share their vectors, and so all of this, with avx512.
ISAS = [isa for isa in native.available_isas() if isa in ("portable", "avx2", "avx512")]
SIZES = (0, 1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200, 1000, 4096 + 5)
DTYPES = (np.uint8, np.int8, np.float16, np.uint16, np.float32, np.int32, np.float64, np.int64)
GUARD = 0xA5


@pytest.fixture(params=ISAS, autouse=True, scope="module")
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def guarded(size, dtype=np.uint8, offset=0):
    """An array of `size` elements between guards, and a function that says whether those are whole."""
    dtype = np.dtype(dtype)
    start, nbytes = 64 + offset, size * dtype.itemsize
    memory = np.full(start + nbytes + 640, GUARD, np.uint8)

    def whole():
        return (memory[:start] == GUARD).all() and (memory[start + nbytes :] == GUARD).all()

    return memory[start : start + nbytes].view(dtype), whole


def tensors(rng, size, dtype, share):
    """Two tensors of random bits, with every kind of float in them, that differ in a share of their elements."""
    width = np.dtype(dtype).itemsize
    base = rng.integers(0, 256, size * width, np.uint8).view(dtype)
    if np.dtype(dtype).kind == "f" and size > 4:
        base[rng.integers(0, size, size // 4)] = rng.choice(np.array([0.0, -0.0, np.nan, np.inf, -np.inf], dtype))
    fresh = base.copy()
    places = rng.random(size) < share
    fresh.view(f"u{width}")[places] ^= rng.integers(1, 256, int(places.sum())).astype(f"u{width}")
    return base, fresh


def by(kernels, base, fresh, room, threshold=0.0):
    """(count, mask, values, held) of one implementation, with guards around what it writes."""
    width = fresh.itemsize
    mask, mask_whole = guarded((fresh.size + 7) // 8, offset=1)
    values, values_whole = guarded(room * width, offset=3)
    held, held_whole = guarded(fresh.size, fresh.dtype)
    held[...] = base
    only = kernels.delta_compare(base, fresh, mask, values, threshold)
    seen = mask.copy(), values[: max(only, 0) * width].copy()
    mask[...], values[...] = 0xEE, 0xEE
    count = kernels.delta_encode(held, fresh, mask, values, threshold)
    assert mask_whole()
    assert values_whole()
    assert held_whole()
    assert only == count
    if count < 0:
        return count, None, None, None
    values = values[: count * width]
    assert seen[0].tobytes() == mask.tobytes()
    assert seen[1].tobytes() == values.tobytes()
    return count, mask.tobytes(), values.tobytes(), held.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.97, 1.0])
def test_twins(dtype, share):
    for size in SIZES:
        rng = np.random.default_rng(size)
        base, fresh = tensors(rng, size, dtype, share)
        changed = base.view(f"u{base.itemsize}") != fresh.view(f"u{base.itemsize}")
        count = int(changed.sum())
        rooms = {size, count, count + 1, count + 63, max(count - 1, 0), count // 2, 0}
        for room in rooms:
            mine, twin = (by(k, base, fresh, room) for k in (native, reference))
            assert mine == twin
            assert mine[0] == (count if count <= room else -1)
            if mine[0] >= 0:
                assert mine[3] == fresh.tobytes()
        mask, values = (np.frombuffer(part, np.uint8) for part in by(native, base, fresh, size)[1:3])
        for kernels in (native, reference):
            held, whole = guarded(size, dtype)
            held[...] = base
            # The last values must end where the array ends.
            packed, _ = guarded(values.size, offset=1)
            packed[...] = values
            gathered, gathered_whole = guarded(values.size, offset=5)
            assert kernels.delta_gather(held, mask, gathered) == 0
            assert gathered.tobytes() == base[changed].tobytes()
            assert gathered_whole()
            assert kernels.delta_decode(held, mask, packed) == 0
            assert held.tobytes() == fresh.tobytes()
            assert whole()


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_zeros(dtype):
    rng = np.random.default_rng(3)
    for size in SIZES:
        _, fresh = tensors(rng, size, dtype, 0)
        fresh[rng.random(size) < 0.5] = 0
        if np.dtype(dtype).kind == "f" and size:
            fresh[-1] = -0.0
        results = []
        for kernels in (native, reference):
            mask, values = np.zeros((size + 7) // 8, np.uint8), np.zeros(fresh.nbytes, np.uint8)
            count = kernels.delta_encode(None, fresh, mask, values)
            held = np.zeros_like(fresh)
            assert kernels.delta_decode(held, mask, values[: count * fresh.itemsize]) == 0
            assert held.tobytes() == fresh.tobytes()
            results.append((count, mask.tobytes(), values[: count * fresh.itemsize].tobytes()))
        assert results[0] == results[1]
        assert results[0][0] == np.count_nonzero(fresh.view(f"u{fresh.itemsize}"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_single_elements(dtype):
    size = 200
    base = np.arange(size).astype(dtype)
    for place in (0, 1, 7, 8, 63, 64, 127, 128, 191, 192, 199):
        fresh = base.copy()
        fresh[place] = 77.0 if place != 77 else 0
        mask, values = np.zeros(25, np.uint8), np.zeros(fresh.itemsize, np.uint8)
        assert native.delta_encode(base.copy(), fresh, mask, values) == 1
        assert np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist() == [place]
        assert values.tobytes() == fresh[place].tobytes()


def test_bits_count():
    """-0.0 isn't 0.0; a NaN is itself, and not another NaN."""
    base = np.array([0.0, -0.0, np.nan, 0, 0, np.inf] * 30, np.float32)
    fresh = base.copy()
    fresh[0], fresh[1] = -0.0, 0.0
    fresh.view(np.uint32)[3] = 0x7FC00001
    base.view(np.uint32)[3] = 0x7FC00000
    mask, values = np.zeros(23, np.uint8), np.zeros(fresh.nbytes, np.uint8)
    for threshold, places in ((0.0, [0, 1, 3]), (0.5, [3])):
        assert native.delta_compare(base, fresh, mask, values, threshold) == len(places)
        assert np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist() == places


@pytest.mark.parametrize("threshold", [1e-3, 0.25, 3.0])
def test_near_floats(threshold):
    rng = np.random.default_rng(5)
    for size in SIZES:
        base = rng.standard_normal(size, np.float32)
        fresh = base + rng.standard_normal(size, np.float32) * np.float32(threshold)
        exactly = rng.random(size) < 0.1
        fresh[exactly] = base[exactly] + np.float32(threshold)
        if size > 20:
            fresh[3], base[4], fresh[5], base[6] = np.nan, np.nan, np.inf, -np.inf
            fresh[7] = base[7] = np.inf
            fresh[8] = base[8] = np.nan
        mine, twin = (by(k, base, fresh, size, threshold) for k in (native, reference))
        assert mine == twin
        held = np.frombuffer(mine[3], np.float32).astype(np.float64)
        known = np.isfinite(fresh)
        assert (np.abs(held[known] - fresh[known].astype(np.float64)) <= threshold).all()
        assert np.frombuffer(mine[3], np.float32)[~known].tobytes() == fresh[~known].tobytes()


@pytest.mark.parametrize("threshold", [0.5, 1, 8, 254, 255, 1e9])
def test_near_bytes(threshold):
    rng = np.random.default_rng(6)
    for size in SIZES:
        base, fresh = rng.integers(0, 256, (2, size), np.uint8)
        mine, twin = (by(k, base, fresh, size, threshold) for k in (native, reference))
        assert mine == twin
        far = np.abs(fresh.astype(int) - base) > threshold
        assert mine[0] == far.sum()
        assert np.array_equal(np.frombuffer(mine[3], np.uint8), np.where(far, fresh, base))


@pytest.mark.parametrize("kernels", [native, reference])
def test_what_does_not_fit_together(kernels):
    tensor, mask, values = np.zeros(20, np.float32), np.zeros(3, np.uint8), np.zeros(80, np.uint8)
    for held, fresh, room in (
        (tensor[:19], tensor.copy(), mask),
        (tensor, tensor.astype(np.float64), mask),
        (tensor, tensor.copy(), mask[:2]),
        (tensor, tensor.copy(), np.zeros(4, np.uint8)),
    ):
        with pytest.raises(ValueError):
            kernels.delta_encode(held, fresh, room, values)
    for threshold in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError):
            kernels.delta_encode(tensor, tensor.copy(), mask, values, threshold)
    with pytest.raises(ValueError):
        kernels.delta_encode(None, tensor, mask, values, 1.0)
    with pytest.raises(ValueError):
        kernels.delta_encode(tensor.astype(np.int32), tensor.astype(np.int32), mask, values, 1.0)
    for bad_mask, bad_values in ((mask[:2], values[:0]), (np.zeros(4, np.uint8), values[:0]), (mask, values[:3])):
        for call in (kernels.delta_decode, kernels.delta_gather):
            with pytest.raises(ValueError):
                call(tensor, bad_mask, bad_values)


def test_overlap_and_types_are_refused():
    memory = np.zeros(800, np.uint8)
    with pytest.raises(ValueError, match="overlap"):
        native.delta_decode(memory[:160], memory[100:120], memory[200:300])
    with pytest.raises(ValueError, match="overlap"):
        native.delta_encode(memory[:80], memory[40:120], memory[400:410], memory[500:600])
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        native.delta_decode(np.zeros(8, np.complex128), np.zeros(1, np.uint8), np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="aligned"):
        native.delta_decode(memory[1:81].view(np.float32), np.zeros(3, np.uint8), np.zeros(0, np.uint8))
    read_only = np.zeros(8, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(TypeError):
        native.delta_decode(read_only, np.zeros(1, np.uint8), np.zeros(0, np.uint8))


def test_a_mask_that_changes_while_it_is_read():
    """As in memory that the other side writes to: whatever comes of it, nothing is written outside, and none read."""
    size = 4_000_000  # long enough for the other thread to wake up meanwhile
    right = np.packbits(np.random.default_rng(4).random(size) < 0.1, bitorder="little")
    mask = right.copy()
    values = np.ones(int(np.unpackbits(right).sum()), np.uint8)
    held, whole = guarded(size)
    stop = threading.Event()

    def lie():
        while not stop.is_set():
            mask[size // 16 :] = 0xFF
            mask[...] = right

    liar = threading.Thread(target=lie)
    liar.start()
    codes = {native.delta_decode(held, mask, values) for _ in range(40)}
    codes |= {native.delta_gather(held, mask, values) for _ in range(40)}
    stop.set()
    liar.join()
    assert codes <= {0, 1, 2}
    assert whole()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_masks(data):
    """Any mask with any number of values: refused with nothing written, or exactly what the twin does."""
    dtype = data.draw(st.sampled_from(DTYPES))
    size = data.draw(st.integers(0, 300))
    width = np.dtype(dtype).itemsize
    mask, _ = guarded((size + 7) // 8, offset=1)
    mask[...] = np.frombuffer(data.draw(st.binary(min_size=mask.size, max_size=mask.size)), np.uint8)
    named = int(np.unpackbits(mask).sum())
    given_values = data.draw(st.sampled_from([named, named, named + 1, max(named - 1, 0), 0, size, 2 * size + 64]))
    values = np.full(given_values * width, 7, np.uint8)
    results = []
    for kernels in (native, reference):
        held, whole = guarded(size, dtype)
        held.view(np.uint8)[...] = 3
        code = kernels.delta_decode(held, mask, values)
        assert whole()
        assert code == 0 or (held.view(np.uint8) == 3).all()
        gathered, gathered_whole = guarded(values.size, offset=1)
        assert kernels.delta_gather(held, mask, gathered) == code
        assert gathered_whole()
        assert code or np.array_equal(gathered, values)
        results.append((code, held.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("share", [0.0, 0.005, 0.1, 0.6, 1.0])
def test_nested_masks(share):
    for size in (0, 1, 7, 8, 9, 15, 63, 64, 65, 71, 512, 513, 1000):
        rng = np.random.default_rng(size)
        mask = np.packbits(rng.random(8 * size) < share, bitorder="little")
        lengths = []
        for kernels in (native, reference):
            nested, whole = guarded(reference.nested_room(size), offset=1)
            length = kernels.mask_nest(mask, nested)
            assert whole()
            lengths.append(nested[:length].tobytes())
        assert lengths[0] == lengths[1]
        nested, _ = guarded(len(lengths[0]), offset=3)
        nested[...] = np.frombuffer(lengths[0], np.uint8)
        for kernels in (native, reference):
            again, whole = guarded(size)
            assert kernels.mask_unnest(nested, again)
            assert whole()
            assert again.tobytes() == mask.tobytes()
            assert not kernels.mask_unnest(np.append(nested, np.uint8(1)), again)
            if nested.size:
                assert not kernels.mask_unnest(nested[:-1].copy(), again)
        with pytest.raises(ValueError):
            native.mask_nest(mask, np.zeros(reference.nested_room(size) - 1, np.uint8))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 80), st.binary(max_size=60), st.data())
def test_hostile_nested_masks(size, nested, data):
    """Any bytes, and right ones with one changed: taken as the twin takes them, and only what `nest` would write."""
    if data.draw(st.booleans()):
        mask = np.resize(np.frombuffer(nested or b"\0", np.uint8), size)
        out = np.zeros(reference.nested_room(size), np.uint8)
        right = out[: native.mask_nest(mask, out)]
        if right.size:
            right[data.draw(st.integers(0, right.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
        nested = right.tobytes()
    results = []
    for kernels in (native, reference):
        mask, whole = guarded(size)
        taken = kernels.mask_unnest(np.frombuffer(nested, np.uint8), mask)
        assert whole()
        results.append((taken, mask.tobytes() if taken else None))
    assert results[0] == results[1]
    if taken:
        out = np.zeros(reference.nested_room(size), np.uint8)
        assert out[: native.mask_nest(mask, out)].tobytes() == nested

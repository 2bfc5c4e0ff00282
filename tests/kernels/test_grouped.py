"""Products of weights of few bits with a scale for each group: every instruction set gives the twin's very bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.kernels import native
from cutset.kernels.reference_grouped import fused_multiply_add, pack_codes, quantize_groups, span_of
from cutset.models.files.grouped import GroupedWeight, GroupScales
from cutset.models.run.grouped_linears import multiply, native_linears

POOL = native.Pool(2)
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)  # of IQ4_NL


@pytest.fixture(params=native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    best = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(best)


def scales_of(
    rng: np.random.Generator, outputs: int, groups: int, kind: str, steps: str = "", each: int = 1
) -> GroupScales:
    values = (rng.standard_normal((outputs, groups // each)) / 64).astype(np.float32)
    if kind == "bfloat16":
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    if kind == "float16":
        half = values.astype(np.float16)
        half.reshape(-1)[:1] = 5.96e-8  # the least subnormal number
        return GroupScales(half, *steps_of(rng, outputs, groups, steps))
    return GroupScales(values, *steps_of(rng, outputs, groups, steps))


def steps_of(rng: np.random.Generator, outputs: int, groups: int, steps: str) -> tuple[Any, ...]:
    if not steps:
        return ()
    low, high = (-128, 128) if steps == "int8" else (0, 256)
    return (rng.integers(low, high, (outputs, groups)).astype(steps),)


def form(name: str, outputs: int, depth: int, seed: int = 0) -> GroupedWeight:
    """A weight in the form that a format has."""
    rng = np.random.default_rng(seed)
    bits, group, kind = {
        "q4_0": (4, 32, "float16"),
        "q4_1": (4, 32, "float16"),
        "q5_1": (5, 32, "float16"),
        "q8_0": (8, 32, "float16"),
        "q2_k": (4, 16, "float16"),
        "q4_k": (4, 32, "float16"),
        "q5_k": (5, 32, "float16"),
        "q6_k": (6, 16, "float16"),
        "iq4": (4, 32, "float16"),
        "mxfp4": (4, 32, "bfloat16"),
        "gptq": (4, 128, "float16"),
        "awq": (4, 64, "bfloat16"),
        "int8": (8, 64, "float32"),
        "channel": (8, depth, "float32"),
        "channel4": (4, depth, "bfloat16"),
        "fp8": (8, 128, "float32"),
    }[name]
    groups = depth // group
    codes = rng.integers(0, 1 << bits, (outputs, depth)).astype(np.uint8)
    if name in ("q4_k", "q5_k", "q6_k", "q2_k"):
        each = {32: 8, 16: 16}[group]
        steps = "int8" if name == "q6_k" else "uint8"
        scales = scales_of(rng, outputs, groups, kind, steps, each)
        if name == "q6_k":
            return GroupedWeight(codes, bits, group, scales, 32)
        minima = scales_of(rng, outputs, groups, kind, steps, each)
        return GroupedWeight(codes, bits, group, scales, 0, minima)
    scales = scales_of(rng, outputs, groups, kind)
    if name in ("q4_1", "q5_1"):
        return GroupedWeight(codes, bits, group, scales, 0, scales_of(rng, outputs, groups, kind))
    if name in ("iq4", "mxfp4"):
        return GroupedWeight(codes, bits, group, scales, levels=LEVELS)
    if name in ("gptq", "awq"):
        zeros = rng.integers(0, 1 << bits, (outputs, groups)).astype(np.uint8)
        order = rng.permutation(depth).astype(np.int32) if name == "gptq" else None
        return GroupedWeight(codes, bits, group, scales, zeros, order=order)
    return GroupedWeight(codes, bits, group, scales, 1 << (bits - 1))


FORMS = (
    *("q4_0", "q4_1", "q5_1", "q8_0", "q2_k", "q4_k", "q5_k", "q6_k"),
    *("iq4", "mxfp4", "gptq", "awq", "int8", "channel", "channel4", "fp8"),
)


def rows_of(count: int, depth: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(count)
    x = (rng.standard_normal((count, depth)) * rng.choice([0.01, 1, 300], (count, 1))).astype(np.float32)
    if count > 2:
        x[1] = 0
        x[2, 5] = np.nan
    return x


def product(linear: native.LinearGrouped, x: NDArray[np.float32], bits: int = 12) -> NDArray[np.float32]:
    y = np.full((len(x), linear.outputs), 7, np.float32)
    linear(x, y, bits, POOL)
    return y


def same(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(ours.view(np.uint32) & 0x7FFFFFFF, theirs.view(np.uint32) & 0x7FFFFFFF)
    np.testing.assert_array_equal(ours, theirs)


@cache
def of_the_twin(name: str, outputs: int, depth: int) -> tuple[GroupedWeight, NDArray[np.float32], NDArray[np.float32]]:
    """A weight, rows and their product in numpy."""
    weight, x = form(name, outputs, depth), rows_of(49, depth)
    return weight, x, multiply(weight, x)


@pytest.mark.parametrize("name", FORMS)
def test_products_have_the_bits_of_the_twin(name: str, isa: str) -> None:
    for outputs, depth in ((80, 512), (33, 768)):
        weight, x, wanted = of_the_twin(name, outputs, depth)
        (linear,) = native_linears([weight], POOL)
        for count in (1, 2, 3, 4, 5, 6, 8, 11, 16, 17, 31, 33, 49):
            same(product(linear, x[:count]), wanted[:count])


@pytest.mark.parametrize("name", ["q4_1", "q4_0", "q6_k", "gptq", "int8"])
def test_a_row_has_one_result_whatever_the_others(name: str, isa: str) -> None:
    weight = form(name, 96, 512)
    (linear,) = native_linears([weight], POOL)
    x = rows_of(150, 512)
    together = product(linear, x)
    for first, count in ((0, 1), (7, 2), (1, 7), (9, 8), (3, 17), (20, 65), (149, 1), (5, 140)):
        same(product(linear, x[first : first + count]), together[first : first + count])


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("group", [16, 48, 64, 80, 112, 192, 240])
def test_groups_of_any_size(bits: int, group: int, isa: str) -> None:
    rng = np.random.default_rng(group)
    depth, groups = 7 * group, 7
    codes = rng.integers(0, 1 << bits, (34, depth)).astype(np.uint8)
    zeros = rng.integers(0, 1 << bits, (34, groups)).astype(np.uint8)
    minima = scales_of(rng, 34, groups, "float16")
    for zero, floor in ((1 << (bits - 1), None), (3, minima), (zeros, None), (200, None)):
        weight = GroupedWeight(codes, bits, group, scales_of(rng, 34, groups, "float16"), zero, floor)
        (linear,) = native_linears([weight], POOL)
        x = rows_of(35, depth)
        wanted = multiply(weight, x)
        for count in (1, 7, 35):
            same(product(linear, x[:count]), wanted[:count])


@pytest.mark.parametrize("name", FORMS)
def test_weights_come_out_as_they_went_in(name: str, isa: str) -> None:
    weight = form(name, 70, 512)
    (linear,) = native_linears([weight], POOL)
    asked = np.array([69, 0, 31, 32, 16, 69], np.int32)
    same(linear.weights(asked), weight.float32()[asked])


def test_products_are_near_those_of_floats() -> None:
    for name in FORMS:
        weight = form(name, 64, 512)
        (linear,) = native_linears([weight], POOL)
        x = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
        wanted = x.astype(np.float64) @ weight.float32().T.astype(np.float64)
        assert np.abs(product(linear, x) - wanted).max() < 2e-3 * np.abs(wanted).max(), name


@pytest.mark.parametrize("bits", [8, 9, 12])
def test_fewer_bits_of_activations(bits: int, isa: str) -> None:
    weight = form("q4_1", 40, 256)
    (linear,) = native_linears([weight], POOL)
    x = rows_of(9, 256)
    from cutset.kernels.reference_grouped import grouped_linear

    assert weight.minima is not None
    twin = grouped_linear(x, weight.integers(), 32, weight.scales.float32(), weight.minima.float32(), bits=bits)
    same(product(linear, x, bits), twin)


def test_extreme_codes_and_activations_do_not_overflow(isa: str) -> None:
    depth = 512
    for bits, zero in ((8, 0), (8, 255), (8, 128), (6, 0), (5, 31), (4, 15), (4, 8), (4, 0), (4, 255)):
        for code in (0, (1 << bits) - 1):
            codes = np.full((32, depth), code, np.uint8)
            weight = GroupedWeight(codes, bits, 256, GroupScales(np.ones((32, 2), np.float32)), zero)
            (linear,) = native_linears([weight], POOL)
            x = np.ones((40, depth), np.float32) * np.where(np.arange(40) % 2, 1, -1)[:, None].astype(np.float32)
            wanted = multiply(weight, x)
            for count in (2, 9, 40):
                same(product(linear, x[:count]), wanted[:count])


@pytest.mark.parametrize("depth", [4, 20, 43, 172, 300])
def test_whole_rows_of_any_length(depth: int, isa: str) -> None:
    weight = form("channel", 5, depth)
    (linear,) = native_linears([weight], POOL)
    x = rows_of(3, max(depth, 6))[:, :depth]
    same(product(linear, np.ascontiguousarray(x)), multiply(weight, np.ascontiguousarray(x)))
    same(linear.weights(np.arange(5, dtype=np.int32)), weight.float32())


def test_long_groups_are_cut_to_spans(isa: str) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (40, 1536)).astype(np.uint8)
    zeros = rng.integers(0, 16, (40, 2)).astype(np.uint8)
    for group, zero in ((768, zeros), (512, 8)):
        scales = scales_of(rng, 40, 1536 // group, "float16")
        weight = GroupedWeight(codes, 4, group, scales, zero)
        (linear,) = native_linears([weight], POOL)
        x = rows_of(4, 1536)
        same(product(linear, x), multiply(weight, x))
        same(linear.weights(np.arange(40, dtype=np.int32)), weight.float32())


def test_neighbours_of_one_form_are_one_matrix() -> None:
    q, k, v = form("q4_k", 64, 256, 1), form("q4_k", 33, 256, 2), form("q6_k", 31, 256, 3)
    linears = native_linears([q, k, v], POOL)
    assert [one.outputs for one in linears] == [97, 31]
    x = rows_of(2, 256)
    same(np.hstack([product(one, x) for one in linears]), np.hstack([multiply(one, x) for one in (q, k, v)]))
    orders = [replace(form("gptq", 32, 256, seed)) for seed in (1, 2)]
    assert len(native_linears(orders, POOL)) == 2


FILE_BITS = {"q4_0": 4.5, "q4_1": 5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625, "q8_0": 8.5, "gptq": 4.16, "awq": 4.31}


@pytest.mark.parametrize("name", FILE_BITS)
def test_memory_at_rest_is_that_of_the_file(name: str) -> None:
    (linear,) = native_linears([form(name, 512, 2048)], POOL)
    assert linear.nbytes * 8 / (512 * 2048) <= 1.1 * FILE_BITS[name]


def test_what_can_not_be_packed_is_refused() -> None:
    weight = form("q4_0", 32, 256)
    wrong = [
        (replace(weight, codes=weight.codes + np.uint8(1)), "codes must fit"),
        (replace(weight, scales=GroupScales(np.full((32, 8), np.inf, np.float16))), "must be finite"),
        (replace(weight, scales=GroupScales(np.full((32, 8), np.nan, np.float32))), "must be finite"),
        (replace(weight, minima=GroupScales(np.full((32, 8), -np.inf, np.float32))), "must be finite"),
        (replace(weight, order=np.zeros(256, np.int32)), "each column once"),
        (replace(weight, order=np.arange(1, 257, dtype=np.int32)), "each column once"),
        (replace(weight, group=8, scales=GroupScales(np.ones((32, 32), np.float16))), "multiples of 16"),
        (replace(weight, zeros=256), "between 0 and 255"),
    ]
    for one, message in wrong:
        with pytest.raises(ValueError, match=message):
            native_linears([one], POOL)
    (linear,) = native_linears([weight], POOL)
    with pytest.raises(ValueError, match="between 8 and 12"):
        product(linear, rows_of(1, 256), 13)
    for bad in (-1, 32):
        with pytest.raises(ValueError, match="no such output"):
            linear.weights(np.array([bad], np.int32))


def test_the_twin_rounds_a_multiply_add_once() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.integers(1, 1 << 24, 3000).astype(np.float32) for _ in "ab")
    c = (rng.integers(-(1 << 24), 1 << 24, 3000) * 2.0 ** rng.integers(-40, 30, 3000)).astype(np.float32)
    # Sums that lie beside the middle between two floats, by less than float64 sees.
    a[:2], b[:2], c[:2] = [1 + 2**-12, 1 + 2**-12], [1 + 2**-12, 1 + 2**-12], [2.0**-60, -(2.0**-60)]
    for one, x, y, z in zip(fused_multiply_add(a, b, c), a, b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        error = abs(Fraction(float(one)) - exact)
        for other in (np.nextafter(one, np.float32(np.inf)), np.nextafter(one, np.float32(-np.inf))):
            assert error <= abs(Fraction(float(other)) - exact)


@pytest.mark.parametrize(("bits", "group", "minima"), [(8, 64, False), (4, 32, True), (4, 32, False), (8, 43, True)])
def test_groups_are_rounded_to_the_nearest(bits: int, group: int, minima: bool) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 4 * group)) * rng.choice([1e-6, 0.02, 3, 2e5], (6, 1))).astype(np.float32)
    weight[0, :group] = 0
    weight[1, :group] = 0.25
    weight[2, :group] = 1e-39
    weight[3, :group] += 10
    codes, scales, least = quantize_groups(weight, bits, group, minima)
    ours = native.quantize_groups(weight, bits, group, minima, POOL)
    np.testing.assert_array_equal(ours[0], codes)
    same(ours[1], scales)
    assert (ours[2] is None) == (least is None)
    if least is not None and ours[2] is not None:
        same(ours[2], least)
    zero = 0 if minima else 1 << (bits - 1)
    floor = None if least is None else GroupScales(least)
    back = GroupedWeight(codes, bits, group, GroupScales(scales), zero, floor).float32()
    room = np.repeat(scales * 0.502, group, axis=1) + np.abs(weight) * 2**-10
    assert (np.abs(back - weight) <= room + 1e-8).all()
    assert codes.max() < 1 << bits
    for bad in (np.nan, np.inf, -np.inf):
        weight[3, 7] = bad
        for quantize in (quantize_groups, native.quantize_groups):
            with pytest.raises(ValueError, match="NaN, an infinity"):
                quantize(weight, bits, group, minima)


def test_factors_that_float16_holds_take_no_more() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32) / 50
    codes, scales, _ = quantize_groups(weight, 8, 64, False)
    (linear,) = native_linears([GroupedWeight(codes, 8, 64, GroupScales(scales), 128)], POOL)
    assert linear.nbytes * 8 == 64 * 512 * 8.25
    exact = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    (wide,) = native_linears([GroupedWeight(codes, 8, 64, GroupScales(exact), 128)], POOL)
    assert wide.nbytes * 8 == 64 * 512 * 8.5
    same(wide.weights(np.arange(64, dtype=np.int32)), GroupedWeight(codes, 8, 64, GroupScales(exact), 128).float32())


def test_packed_codes_are_where_the_layout_says() -> None:
    codes = np.random.default_rng(2).integers(0, 64, (40, 32)).astype(np.uint8)
    packed = pack_codes(codes, 6)
    assert packed.shape == (2, 2, 384)
    slab = packed[0, 1]  # columns 16 to 31 of outputs 0 to 31
    step, place, column = 2, 1, 16 + 4 * 2 + 2  # byte 1 of four is column 2
    byte = slab[(step * 16 + 5) * 4 + place]
    assert (byte & 15, byte >> 4) == (codes[5, column] & 15, codes[21, column] & 15)
    word = int(slab[256:].view(np.uint32)[16 + 5])  # of output 21; column 2 is the second pair's first
    assert word >> (4 * step + 2) & 3 == codes[21, column] >> 4


def test_spans() -> None:
    assert [span_of(*of) for of in ((32, 512), (256, 512), (512, 1024), (768, 1536), (1536, 1536), (43, 43))] == [
        *(32, 256, 256, 256, 256, 48)
    ]
    for group in (8, 24, 40):
        with pytest.raises(ValueError, match="multiples of 16"):
            span_of(group, 1200)

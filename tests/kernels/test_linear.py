"""The native linear layers against their numpy twins, on every instruction set that this machine has."""

import numpy as np
import pytest

from cutset.kernels import _native as native
from cutset.kernels import reference_linear as reference
from cutset.kernels.reference_tiles import tiled_linear
from cutset.models.files.integer import most_bits

POOL = native.Pool(2)
# (outputs, depth): one, odd, just below, at and above the panels (32) and steps (64) of the packed form.
SHAPES = [(1, 1), (5, 3), (31, 63), (32, 64), (33, 65), (64, 128), (70, 517)]
ROWS = [*range(1, 71), 128, 300]


@pytest.fixture(params=native.available_isas(), autouse=True)
def isa(request):
    before = native.isa()
    assert native.select_isa(request.param)
    yield request.param
    native.select_isa(before)


def floats(rng, rows, columns):
    return rng.standard_normal((rows, columns), dtype=np.float32)


def extremes(rng, top, rows, columns, dtype):
    """Nothing but the ends of the range, with one column all of one sign: what saturates would saturate here."""
    values = rng.choice(np.array([-top, top], dtype), (rows, columns))
    values[0] = top
    return values


def run(linear, x, pool=POOL, **options):
    """Calls with an output full of NaNs between two guards that must stay."""
    room = np.full((x.shape[0] + 2, linear.outputs), np.nan, np.float32)
    room[0] = room[-1] = 77
    linear(x, room[1:-1], pool=pool, **options)
    assert (room[0] == 77).all()
    assert (room[-1] == 77).all()
    return room[1:-1]


def near(x, weight):
    """The product in float64, and how far sums of this length may be from it by rounding."""
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    sizes = np.abs(x).astype(np.float64) @ np.abs(weight.T).astype(np.float64)
    return exact, (x.shape[1] + 1) * 2.0**-24 * sizes


def assert_near(got, x, weight, lost=0.0):
    """`lost`: of each number, where subnormal ones count as zero."""
    exact, bound = near(x, weight)
    assert (np.abs(got - exact) <= bound + lost * (np.abs(x).sum(axis=1, keepdims=True) + x.shape[1])).all()


def in_tiles(isa, dtype):
    """Sums have another order than with float32 weights: see test_bfloat16.py."""
    return isa == "amx" and dtype == "bfloat16"


@pytest.mark.parametrize(("outputs", "depth"), SHAPES)
def test_float_products(outputs, depth):
    rng = np.random.default_rng(outputs)
    weight = floats(rng, outputs, depth)
    linear = native.LinearF32(weight, POOL)
    x = floats(rng, ROWS[-1], depth)
    exact, bound = near(x, weight)
    for rows in ROWS:
        assert (np.abs(run(linear, x[:rows]) - exact[:rows]) <= bound[:rows]).all()


def halves(rng, dtype, outputs, depth):
    """Weights of 16 bits and the same numbers in float32: zeros of both signs, the least and the largest among them."""
    bits = floats(rng, outputs, depth).astype(np.float16).view(np.uint16)
    if dtype == "bfloat16":
        bits = (floats(rng, outputs, depth).view(np.uint32) >> 16).astype(np.uint16)
    special = [0, 0x8000, 1, 0x8001, 0x7F, 0x3FF, 0x80, 0x400, 0x7BFF if dtype == "float16" else 0x5F7F]
    places = rng.random(bits.shape) < 0.2
    bits[places] = rng.choice(np.array(special, np.uint16), int(places.sum()))
    if dtype == "float16":
        return bits.view(np.float16), bits.view(np.float16).astype(np.float32)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("outputs", "depth"), [(1, 1), (5, 3), (33, 65), (97, 1100)])
def test_sixteen_bits_give_what_the_same_floats_give(outputs, depth, dtype, isa):
    rng = np.random.default_rng(depth)
    narrow, wide = halves(rng, dtype, outputs, depth)
    ours, theirs = native.LinearF32(narrow, POOL), native.LinearF32(wide, POOL)
    panels = -(-outputs // 32)
    assert theirs.nbytes == 4 * 32 * panels * depth
    assert ours.nbytes == 2 * 32 * panels * (depth if dtype == "float16" else -(-depth // 32) * 32)
    x = floats(rng, ROWS[-1], depth)
    assert_near(run(ours, x), x, wide, lost=2.0**-125 if in_tiles(isa, dtype) else 0)
    x[0, :] = 0
    x[:, 0] *= np.float32(1e-40)
    expected = run(ours if in_tiles(isa, dtype) else theirs, x).view(np.uint32)
    for rows in (*range(1, 41), 128, 300):
        assert np.array_equal(run(ours, x[:rows]).view(np.uint32), expected[:rows])


def test_all_numbers_of_sixteen_bits_are_widened(isa):
    bits = np.arange(1 << 16, dtype=np.uint16)
    one = np.ones((1, 1), np.float32)
    in_bfloat16 = tiled_linear(one, bits[:, None])[0] if in_tiles(isa, "bfloat16") else None
    for numbers, wide in (
        (bits, (bits.astype(np.uint32) << 16).view(np.float32) if in_bfloat16 is None else in_bfloat16),
        (bits.view(np.float16), bits.view(np.float16).astype(np.float32)),
    ):
        linear = native.LinearF32(np.ascontiguousarray(numbers[:, None]))
        for rows in (1, 120):
            found = run(linear, np.ones((rows, 1), np.float32))
            assert np.array_equal(found, np.repeat(wide[None], rows, 0), equal_nan=True)


def test_matrices_of_sixteen_bits_are_stacked(isa):
    rng = np.random.default_rng(5)
    x = floats(rng, 9, 50)
    for dtype in ("bfloat16", "float16"):
        narrow, wide = zip(*(halves(rng, dtype, outputs, 50) for outputs in (33, 1, 40)), strict=True)
        stacked = run(native.LinearF32(list(narrow)), x)
        assert np.array_equal(stacked, run(native.LinearF32(np.concatenate(narrow)), x))
        if not in_tiles(isa, dtype):
            assert np.array_equal(stacked, run(native.LinearF32(np.concatenate(wide)), x))
            assert np.array_equal(stacked, run(native.LinearF32(list(wide)), x))


@pytest.mark.parametrize("bits", [8, 9, 12])
@pytest.mark.parametrize(("outputs", "depth"), SHAPES)
def test_integers_at_the_ends_of_the_range(outputs, depth, bits):
    rng = np.random.default_rng(depth)
    weight = extremes(rng, 127, outputs, depth, np.int8)
    linear = native.LinearI8(weight, np.ones(outputs, np.float32), POOL)
    q = extremes(rng, reference.top_of(bits), ROWS[-1], depth, np.int16)
    expected = reference.integer_linear(q, weight)
    for rows in ROWS:
        assert np.array_equal(linear.integers(q[-rows:], bits, pool=POOL), expected[-rows:])
    assert np.array_equal(linear.integers(q[:1], bits), expected[:1])


def test_integers_of_a_long_sum():
    """As near to 2^30 as it may be; and q given as int8."""
    depth = 4130
    weight = np.full((3, depth), -127, np.int8)
    linear = native.LinearI8(weight, np.ones(3, np.float32))
    q = np.full((2, depth), 2047, np.int16)
    assert linear.most_bits == 12
    assert (linear.integers(q) == -127 * 2047 * depth).all()
    longer = native.LinearI8(np.full((1, 2 * depth), 127, np.int8), np.ones(1, np.float32))
    assert longer.most_bits == 11
    with pytest.raises(ValueError, match="at most 11 bits"):
        longer.integers(np.ones((1, 2 * depth), np.int16))
    assert longer.integers(np.full((1, 2 * depth), 127, np.int8))[0, 0] == 127 * 127 * 2 * depth
    for matrix, packed in ((weight, linear), (np.full((1, 2 * depth), 127, np.int8), longer)):
        assert most_bits(matrix) == packed.most_bits
    edge = native.LinearI8(np.full((2, depth + 1), -127, np.int8), np.ones(2, np.float32))
    assert edge.most_bits == most_bits(np.full((2, depth + 1), -127, np.int8)) == 11


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize(("outputs", "depth"), SHAPES)
def test_quantized_products_equal_the_twin(outputs, depth, bits):
    rng = np.random.default_rng(bits)
    weight, scales = native.quantize_weight(floats(rng, outputs, depth), pool=POOL)
    linear = native.LinearI8(weight, scales)
    x = floats(rng, 130, depth) * np.exp(5 * floats(rng, 130, 1))
    expected = reference.quantized_linear(x, weight, scales, bits)
    for rows in (*range(1, 40), 130):
        assert np.array_equal(run(linear, x[-rows:], bits=bits), expected[-rows:])


@pytest.mark.parametrize("bits", [8, 9, 11, 12])
def test_quantized_rows_equal_the_twin(bits):
    rng = np.random.default_rng(bits)
    for depth in (1, 15, 256, 1000):
        x = floats(rng, 40, depth) * 10.0 ** rng.integers(-42, 37, (40, 1)).astype(np.float32)
        # Ties and their neighbours, where a careless division would show.
        top = reference.top_of(bits)
        x[0] = rng.integers(-top, top, depth) + 0.5
        x[1] = np.nextafter(x[0], np.float32(np.inf))
        x[2] = np.nextafter(x[0], np.float32(-np.inf))
        x[:3, 0] = top
        x[3] = 0
        for ours, twin in zip(native.quantize_rows(x, bits), reference.quantize_rows(x, bits), strict=True):
            assert ours.dtype == twin.dtype
            assert np.array_equal(ours, twin)


def test_quantized_weights_equal_the_twin():
    weight = floats(np.random.default_rng(1), 70, 300)
    weight[3] = 0
    for pool in (None, POOL):
        for ours, twin in zip(native.quantize_weight(weight, pool), reference.quantize_weight(weight), strict=True):
            assert ours.dtype == twin.dtype
            assert np.array_equal(ours, twin)
    weight[5, 7] = np.nan
    with pytest.raises(ValueError, match="row 5"):
        native.quantize_weight(weight)


@pytest.mark.parametrize("trouble", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [8, 12])
def test_trouble_stays_in_its_row(trouble, bits):
    rng = np.random.default_rng(2)
    weight, scales = native.quantize_weight(floats(rng, 40, 70))
    x = floats(rng, 30, 70)
    x[4, 5] = trouble
    x[6] = 0
    x[7] = 1e-40
    got = run(native.LinearI8(weight, scales), x, bits=bits)
    assert np.isnan(got[4]).all()
    assert (got[6:8] == 0).all()
    assert np.array_equal(got, reference.quantized_linear(x, weight, scales, bits), equal_nan=True)
    single = run(native.LinearF32(floats(rng, 40, 70)), x)
    assert not np.isfinite(single[4]).any()
    assert np.isfinite(np.delete(single, 4, axis=0)).all()


@pytest.mark.parametrize("kind", ["float32", "int8", "exact"])
@pytest.mark.parametrize(("outputs", "depth"), [(70, 517), (300, 1100)])
def test_a_row_does_not_depend_on_its_batch(kind, outputs, depth):
    """Bit for bit: alone, in a batch of any size, with any number of threads."""
    rng = np.random.default_rng(3)
    weight = floats(rng, outputs, depth)
    options = {"float32": {}, "int8": {"bits": 8}, "exact": {"bits": 12}}[kind]
    linear = native.LinearF32(weight) if kind == "float32" else native.LinearI8(*native.quantize_weight(weight))
    x = floats(rng, 300, depth)
    alone = np.concatenate([run(linear, x[i : i + 1], None, **options) for i in range(70)])
    for rows in (*range(2, 35), 64, 70, 128, 300):
        for pool in (None, POOL):
            assert np.array_equal(run(linear, x[:rows], pool, **options)[:70], alone[:rows])
    assert np.array_equal(run(linear, x[20:61], POOL, **options), alone[20:61])


def test_more_rows_than_a_task_takes():
    rng = np.random.default_rng(6)
    weight, x = floats(rng, 40, 130), floats(rng, 1101, 130)
    linear, quantized = native.LinearF32(weight), native.LinearI8(*native.quantize_weight(weight))
    for pool in (None, POOL):
        assert_near(run(linear, x, pool), x, weight)
        for bits in (8, 12):
            expected = reference.quantized_linear(x, *reference.quantize_weight(weight), bits)
            assert np.array_equal(run(quantized, x, pool, bits=bits), expected)
    assert np.array_equal(run(linear, x)[700:701], run(linear, x[700:701]))


def test_packed_form_serves_every_instruction_set(isa):
    """Packed under one, used under another."""
    rng = np.random.default_rng(4)
    weight, x = floats(rng, 40, 70), floats(rng, 20, 70)
    linear, quantized = native.LinearF32(weight), native.LinearI8(*native.quantize_weight(weight))
    narrow, wide = halves(rng, "bfloat16", 40, 71)
    narrow, more = native.LinearF32(narrow), floats(rng, 20, 71)
    expected = run(quantized, x)
    for other in native.available_isas():
        native.select_isa(other)
        assert_near(run(linear, x), x, weight)
        assert_near(run(narrow, more), more, wide)
        assert np.array_equal(run(quantized, x), expected)


@pytest.mark.parametrize("rows", [(1,), (5, 70, 2), (31, 1, 33), (32, 64), (3, 0, 40)])
@pytest.mark.parametrize("depth", [1, 63, 256, 517])
def test_matrices_are_stacked(rows, depth):
    """As if they had been one, wherever the panels begin; and weights may lie at any address."""
    rng = np.random.default_rng(depth)
    room = rng.integers(-127, 128, sum(rows) * depth + 1).astype(np.int8)[1:]
    whole = room.reshape(-1, depth)
    scales = rng.random(sum(rows), dtype=np.float32)
    ends = np.cumsum(rows)[:-1]
    stacked = native.LinearI8(np.split(whole, ends), np.split(scales, ends), POOL)
    assert (stacked.outputs, stacked.depth) == whole.shape
    x = floats(rng, 3, depth)
    assert np.array_equal(run(stacked, x, bits=12), reference.quantized_linear(x, whole, scales, 12))
    q = extremes(rng, 2047, 13, depth, np.int16)
    assert np.array_equal(stacked.integers(q, 12), reference.integer_linear(q, whole))


@pytest.mark.parametrize(("outputs", "depth"), SHAPES)
@pytest.mark.parametrize("skew", [0, 1])
def test_packed_weights_are_used_where_they_lie(outputs, depth, skew):
    """Then moved; and the array stays while it is needed."""
    rng = np.random.default_rng(depth)
    weight = extremes(rng, 127, outputs, depth, np.int8)
    panels = reference.pack_weight(weight)
    assert panels.shape == reference.packed_shape(outputs, depth)
    assert np.array_equal(reference.unpack_weight(panels, outputs, depth), weight)
    room = np.zeros(panels.size + skew, np.int8)
    there = room[skew:].reshape(panels.shape)
    there[:] = panels
    scales = rng.random(outputs, dtype=np.float32)
    linear, same = native.LinearI8.packed(there, scales, depth, POOL), native.LinearI8(weight, scales)
    assert (linear.outputs, linear.depth, linear.nbytes) == (outputs, depth, same.nbytes)
    assert linear.most_bits == same.most_bits == 12
    x = floats(rng, 33, depth)
    expected = run(same, x, bits=12)
    assert np.array_equal(run(linear, x, bits=12), expected)
    del room, there
    assert np.array_equal(run(linear, x, bits=12), expected)
    assert linear.move_in(POOL) == panels.size
    assert linear.move_in(POOL) == 0
    assert np.array_equal(run(linear, x, bits=12), expected)
    assert same.move_in() == 0


def test_most_bits_of_packed_weights():
    """Long enough for sums of |weights| that fit in no 16 bits."""
    weight = np.full((40, 2 * 8259), -127, np.int8)
    weight[:39] = 1
    linear = native.LinearI8.packed(reference.pack_weight(weight), np.ones(40, np.float32), weight.shape[1], POOL)
    bits = linear.most_bits
    assert 8 < bits == native.LinearI8(weight, np.ones(40, np.float32)).most_bits < 12
    q = np.full((1, weight.shape[1]), reference.top_of(bits), np.int16)
    assert np.array_equal(linear.integers(q, bits), reference.integer_linear(q, weight))


@pytest.mark.parametrize("row", [0, 31, 32, 69])
@pytest.mark.parametrize("column", [0, 70, 516])
def test_one_weight_out_of_range_is_found(row, column):
    weight = np.full((70, 517), 127, np.int8)
    weight[row, column] = -128
    with pytest.raises(ValueError, match="between -127 and 127"):
        native.LinearI8(weight, np.ones(70, np.float32), POOL)
    with pytest.raises(ValueError, match="between -127 and 127"):
        native.LinearI8.packed(reference.pack_weight(weight), np.ones(70, np.float32), 517, POOL)
    weight[row, column] = -127
    assert native.LinearI8(weight, np.ones(70, np.float32), POOL).most_bits == 12


def test_unaligned_input_and_lost_original():
    rng = np.random.default_rng(5)
    room = floats(rng, 1, 1 + 40 * 70)[0]
    weight = room[1:].reshape(40, 70)
    x = floats(rng, 1, 3 + 9 * 70)[0][3:].reshape(9, 70)
    kept, expected = weight.copy(), reference.quantize_weight(weight)
    linear, quantized = native.LinearF32(weight), native.LinearI8(*native.quantize_weight(weight))
    room[:] = np.nan
    assert_near(run(linear, x), x, kept)
    assert np.array_equal(run(quantized, x), reference.quantized_linear(x, *expected))


def test_no_rows():
    linear = native.LinearF32(np.ones((4, 3), np.float32))
    linear(np.empty((0, 3), np.float32), np.empty((0, 4), np.float32))
    quantized = native.LinearI8(np.ones((4, 3), np.int8), np.ones(4, np.float32))
    quantized(np.empty((0, 3), np.float32), np.empty((0, 4), np.float32))
    assert quantized.integers(np.empty((0, 3), np.int8)).shape == (0, 4)


def test_what_does_not_fit_is_refused():
    ones = np.ones((4, 3), np.float32)
    linear, x, out = native.LinearF32(ones), np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    quantized = native.LinearI8(ones.astype(np.int8), np.ones(4, np.float32))
    refused = [
        ("weight must be of type float32", lambda: native.LinearF32(ones.astype(np.float64))),
        ("weight must have 2 dimensions", lambda: native.LinearF32(np.ones(3, np.float32))),
        ("weight must be C-contiguous", lambda: native.LinearF32(np.asfortranarray(ones))),
        ("empty", lambda: native.LinearF32(np.ones((0, 3), np.float32))),
        ("empty", lambda: native.LinearI8(np.ones((3, 0), np.int8), np.ones(3, np.float32))),
        ("scales must have as many", lambda: native.LinearI8(ones.astype(np.int8), np.ones(3, np.float32))),
        ("empty", lambda: native.LinearI8([np.ones((0, 3), np.int8)], [np.ones(0, np.float32)])),
        ("as many arrays", lambda: native.LinearI8([], [])),
        ("as many arrays", lambda: native.LinearI8([np.ones((4, 3), np.int8)], [])),
        ("type int8", lambda: native.LinearI8([ones], [np.ones(4, np.float32)])),
        (
            r"weight must have shape \(1, 3\)",
            lambda: native.LinearI8([np.ones((1, n), np.int8) for n in (3, 4)], [np.ones(1, np.float32)] * 2),
        ),
        (
            "panels must have shape",
            lambda: native.LinearI8.packed(np.zeros((1, 8, 32, 4), np.int8), np.ones(4, np.float32), 3),
        ),
        ("4 dimensions", lambda: native.LinearI8.packed(np.zeros((32, 64), np.int8), np.ones(4, np.float32), 3)),
        ("empty", lambda: native.LinearI8.packed(np.zeros((0, 16, 32, 4), np.int8), np.ones(0, np.float32), 3)),
        ("empty", lambda: native.LinearI8.packed(np.zeros((1, 0, 32, 4), np.int8), np.ones(4, np.float32), 0)),
        (
            "padding must be zero",
            lambda: native.LinearI8.packed(np.ones((1, 16, 32, 4), np.int8), np.ones(32, np.float32), 63),
        ),
        ("between -127 and 127", lambda: native.LinearI8(np.full((1, 1), -128, np.int8), np.ones(1, np.float32))),
        (r"x must have shape \(2, 3\)", lambda: linear(np.ones((2, 4), np.float32), out)),
        ("x must be of type float32", lambda: linear(x.astype(np.float64), out)),
        ("x must have 2 dimensions", lambda: linear(x[0], out)),
        (r"out must have shape \(2, 4\)", lambda: linear(x, np.ones((2, 5), np.float32))),
        (r"out must have shape \(2, 4\)", lambda: quantized(x, np.ones((3, 4), np.float32))),
        ("overlap", lambda: native.LinearF32(np.ones((3, 3), np.float32))(x, x)),
        ("aligned", lambda: linear(np.zeros(25, np.uint8)[1:].view(np.float32).reshape(2, 3), out)),
        ("bits must be between 8 and 12", lambda: quantized(x, out, bits=7)),
        ("bits must be between 8 and 12", lambda: quantized(x, out, bits=13)),
        ("bits must be between 8 and 12", lambda: native.quantize_rows(x, 16)),
        ("must lie between -127 and 127", lambda: quantized.integers(np.full((1, 3), 128, np.int16), 8)),
        ("must lie between -2047 and 2047", lambda: quantized.integers(np.full((1, 3), -2048, np.int16))),
        ("int8 or int16", lambda: quantized.integers(np.ones((1, 3), np.int32))),
        ("threads", lambda: native.Pool(0)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()
    read_only = np.ones((2, 4), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(TypeError):
        linear(x, read_only)

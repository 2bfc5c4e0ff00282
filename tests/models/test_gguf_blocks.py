"""Blocks of every type of GGUF: floats of the codes equal those of the gguf package's dequantiser, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from cutset.models.files.gguf_blocks import BLOCKS, TYPE_NAMES, cut

GROUPED = [number for number, block in BLOCKS.items() if not block.dtype]
ODD = np.array([0.0, -0.0, 6e-8, -6e-8, 65504, -65504, 1, 6.1e-5], np.float16)  # subnormal, largest, zeros


def filled(number: int, rows: int, blocks: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes whose scales are finite: plain ones, then odd ones."""
    rng, block = np.random.default_rng(seed), BLOCKS[number]
    data = rng.integers(0, 256, (rows, blocks * block.nbytes), dtype=np.uint8)
    assert block.layout is not None
    fields = data.view(block.layout)
    for name in {"d", "m", "dmin"} & set(block.layout.names or ()):
        fields[name] = rng.standard_normal(fields.shape).astype(np.float16)
        fields[name][rows // 2 :] = rng.choice(ODD, fields[rows // 2 :].shape)
    return data


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("number", GROUPED, ids=lambda number: BLOCKS[number].name)
def test_floats_are_those_of_the_reference_to_the_bit(number: int) -> None:
    for rows, blocks in ((1, 1), (7, 3), (64, 5)):
        data = filled(number, rows, blocks, rows)
        weight = cut(BLOCKS[number], data)
        assert weight.codes.max() < 1 << weight.bits
        expected = quants.dequantize(data, Kind(number))
        np.testing.assert_array_equal(weight.float32().view(np.uint32), expected.view(np.uint32))
        for part in (weight.scales, weight.minima):  # kernels take them as they are
            for values in () if part is None else (part.values, part.steps):
                assert values is None or values.flags.c_contiguous


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_every_scale_of_mxfp4() -> None:
    data = np.zeros((256, 17), np.uint8)
    data[:, 0] = np.arange(256)
    data[:, 1:] = np.random.default_rng(0).integers(0, 256, (256, 16))
    expected = quants.dequantize(data, Kind.MXFP4)
    np.testing.assert_array_equal(cut(BLOCKS[39], data).float32().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("number", GROUPED, ids=lambda number: BLOCKS[number].name)
def test_rows_are_cut_apart_from_each_other(number: int) -> None:
    """Also where they are so many that they are done in steps."""
    data = filled(number, 1200, 1024 // BLOCKS[number].weights)
    weight = cut(BLOCKS[number], data)
    alone = cut(BLOCKS[number], data[1100:1101])
    np.testing.assert_array_equal(weight.codes[1100:1101], alone.codes)
    order = np.random.default_rng(1).permutation(1200)
    np.testing.assert_array_equal(weight.take(order).codes, cut(BLOCKS[number], data[order]).codes)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(weight.take(slice(3, 9)).float32(), weight.float32()[3:9])


def test_sizes_and_names_are_those_of_the_package() -> None:
    for number, block in BLOCKS.items():
        assert (block.weights, block.nbytes) == GGML_QUANT_SIZES[Kind(number)]
        assert Kind(number).name == block.name
    for kind in Kind:
        assert kind.value in BLOCKS or TYPE_NAMES[kind.value] == kind.name


def test_the_sizes_that_users_know() -> None:
    bits = {block.name: block.bits_per_weight for block in BLOCKS.values()}
    assert (bits["Q4_0"], bits["Q4_K"], bits["IQ4_XS"], bits["Q8_0"], bits["MXFP4"]) == (4.5, 4.5, 4.25, 8.5, 4.25)

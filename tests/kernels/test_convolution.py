"""Convolutions of integers and of residues against numpy, tap by tap: all kinds of windows, ends of every range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cutset.kernels import convolution, native
from cutset.kernels.convolution import ConvolutionI8, ConvolutionShape
from cutset.kernels.reference_convolution import integer_convolution, quantize_map, residue_convolution
from cutset.kernels.reference_field import HALF, P

SHAPES = {
    "one by one": ConvolutionShape(5, 7, 6, 9),
    "three by three": ConvolutionShape(6, 5, 4, 8, (3, 3), padding=(1, 1, 1, 1)),
    "stride": ConvolutionShape(11, 9, 3, 5, (3, 3), (2, 3), (1, 1, 1, 1)),
    "uneven padding": ConvolutionShape(6, 6, 2, 3, (2, 3), (1, 2), (0, 2, 1, 0)),
    "dilation": ConvolutionShape(9, 10, 3, 4, (3, 2), (1, 1), (2, 1, 2, 0), (2, 3)),
    "groups": ConvolutionShape(7, 6, 6, 9, (3, 3), (2, 1), (1, 1, 1, 1), groups=3),
    "depthwise": ConvolutionShape(6, 7, 5, 5, (3, 3), padding=(1, 1, 1, 1), groups=5),
    "several a channel": ConvolutionShape(5, 5, 4, 8, (2, 2), dilation=(2, 2), groups=4),
    "large window": ConvolutionShape(13, 12, 3, 4, (11, 11), (4, 4), (2, 2, 2, 2)),
    "rows": ConvolutionShape(4, 1, 70, 33),
    "one row": ConvolutionShape(1, 1, 300, 17),
    "strided one by one": ConvolutionShape(6, 8, 5, 3, stride=(2, 2)),
    "all of the map": ConvolutionShape(4, 3, 2, 6, (4, 3)),
    "padding alone": ConvolutionShape(1, 1, 2, 3, (3, 3), padding=(2, 2, 2, 2)),
}


def weights(shape: ConvolutionShape) -> Any:
    found = np.random.default_rng(3).integers(-127, 128, shape.weight_shape).astype(np.int8)
    found[0], found[-1, ::2] = 127, -127
    return found


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("piece", [1, 1 << 22])
def test_sums_are_those_of_the_twin(name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "PIECE", piece)  # some rows of the output at a time, or all
    shape, rng = SHAPES[name], np.random.default_rng(1)
    fast = ConvolutionI8(weights(shape), shape)
    top = (1 << (fast.most_bits - 1)) - 1
    q = rng.integers(-top, top + 1, (3, shape.depth)).astype(np.int16)
    q[0], q[1, ::3] = top, -top
    right = integer_convolution(q, weights(shape), shape)
    np.testing.assert_array_equal(fast.integers(q, fast.most_bits), right)
    assert right.shape == (3, fast.outputs)
    x = rng.integers(0, P, (3, shape.depth), np.uint32)
    x[0], x[1, ::3] = P - 1, HALF + 1
    out = np.full((3, fast.outputs), 7, np.uint32)
    assert fast.residues(x, out=out) is out
    np.testing.assert_array_equal(out, residue_convolution(x, weights(shape), shape))


@pytest.mark.parametrize("name", SHAPES)
def test_a_convolution_is_linear_in_the_field(name: str) -> None:
    """What masks rest on: of integers plus residues it is the sum of both."""
    shape, rng = SHAPES[name], np.random.default_rng(2)
    fast = ConvolutionI8(weights(shape), shape)
    q = rng.integers(-127, 128, (1, shape.depth)).astype(np.int16)
    r = rng.integers(0, P, (1, shape.depth), np.uint32)
    masked = native.mask(q, r)
    apart = (fast.residues(masked).astype(np.int64) - fast.residues(r)) % P
    lifted = np.where(apart > HALF, apart - P, apart)
    np.testing.assert_array_equal(lifted, integer_convolution(q, weights(shape), shape))


def test_torch_computes_the_same() -> None:
    """So that the twin's idea of a convolution is the usual one."""
    torch = pytest.importorskip("torch")
    for name in ("stride", "dilation", "groups", "three by three"):
        shape = SHAPES[name]
        top, left, bottom, right = shape.padding
        q = np.random.default_rng(5).integers(-99, 100, (1, shape.depth)).astype(np.int16)
        maps = torch.from_numpy(q.reshape(shape.rows, shape.columns, shape.channels).transpose(2, 0, 1)[None].copy())
        own = weights(shape).reshape(shape.outputs, *shape.kernel, -1).transpose(0, 3, 1, 2)
        padded = torch.nn.functional.pad(maps.double(), (left, right, top, bottom))
        kernel = torch.from_numpy(own.copy()).double()
        more = {"stride": shape.stride, "dilation": shape.dilation, "groups": shape.groups}
        made = torch.nn.functional.conv2d(padded, kernel, **more)
        wanted = made[0].permute(1, 2, 0).reshape(1, -1).numpy()
        np.testing.assert_array_equal(integer_convolution(q, weights(shape), shape), wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"kernel": (0, 1)},
        {"padding": (-1, 0, 0, 0)},
        {"groups": 2},
        {"kernel": (9, 1)},
        {"stride": (1 << 30, 1)},
        {"channels": 1 << 23, "rows": 1 << 10},
        {"dilation": (5, 1), "kernel": (3, 1)},
        # Few positions, and zeros around the map that no memory holds.
        {"padding": ((1 << 24) - 1,) * 4, "stride": ((1 << 24) - 1,) * 2},
    ],
)
def test_a_shape_that_there_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"convolution|groups"):
        ConvolutionShape(**({"rows": 4, "columns": 5, "channels": 3, "outputs": 7} | wrong))


def test_what_does_not_fit_is_refused() -> None:
    shape = SHAPES["three by three"]
    fast = ConvolutionI8(weights(shape), shape)
    q = np.zeros((1, shape.depth), np.int16)
    with pytest.raises(ValueError, match="maps"):
        fast.integers(q[:, 1:], 8)
    with pytest.raises(ValueError, match="out"):
        fast.integers(q, 8, out=np.zeros((2, fast.outputs), np.int32))
    with pytest.raises(ValueError, match="weights"):
        ConvolutionI8(weights(shape)[:, 1:].copy(), shape)
    with pytest.raises(ValueError, match="residues"):
        fast.residues(np.full((1, shape.depth), P, np.uint32))


def test_maps_are_rounded_by_position_then_channel() -> None:
    x = np.array([[[0.5, 1.5]], [[2.5, -9.0]]], np.float32)  # (channels 2, rows 1, columns 2)
    assert quantize_map(x, 1.0, 3).tolist() == [0, 2, 2, -3]  # ties to even, and no more than 3

"""Convolutions of integers in numpy, tap by tap: what `ConvolutionI8` computes, written to be read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.convolution import ConvolutionShape
from cutset.kernels.reference_field import P
from cutset.kernels.reference_linear import top_of

__all__ = ["integer_convolution", "quantize_map", "residue_convolution"]


def quantize_map(x: NDArray[np.float32], scale: float, bits: int) -> NDArray[np.int16]:
    """Integers (rows * columns * channels,) of a map x (channels, rows, columns): x / scale, rounded to the nearest,
    ties to even, and at most `top` in size."""
    top = top_of(bits)
    q = np.clip(np.rint(x * np.float32(1 / scale)), -top, top)
    return np.ascontiguousarray(q.transpose(1, 2, 0)).reshape(-1).astype(np.int16)


def integer_convolution(q: NDArray[np.int16], weight: NDArray[np.int8], shape: ConvolutionShape) -> NDArray[np.int32]:
    """Sums (n, positions * outputs) of maps q (n, depth), weights (outputs, terms). The caller sees that they fit."""
    return _taps(q, weight, shape, None).astype(np.int32)


def residue_convolution(
    x: NDArray[np.integer[Any]], weight: NDArray[np.int8], shape: ConvolutionShape
) -> NDArray[np.uint32]:
    """The same mod P, of residues."""
    return _taps(x, weight, shape, P).astype(np.uint32)


def _taps(
    x: NDArray[np.integer[Any]], weight: NDArray[np.int8], shape: ConvolutionShape, modulus: int | None
) -> NDArray[np.int64]:
    top, left, bottom, right = shape.padding
    maps = x.astype(np.int64).reshape(len(x), shape.rows, shape.columns, shape.channels)
    maps = np.pad(maps, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = shape.made
    inside, outside = shape.channels // shape.groups, shape.outputs // shape.groups
    taps = weight.astype(np.int64).reshape(shape.outputs, *shape.kernel, inside)
    found = np.zeros((len(x), rows, columns, shape.outputs), np.int64)
    for y in range(shape.kernel[0]):
        for z in range(shape.kernel[1]):
            down, across = y * shape.dilation[0], z * shape.dilation[1]
            seen = maps[
                :,
                down : down + (rows - 1) * shape.stride[0] + 1 : shape.stride[0],
                across : across + (columns - 1) * shape.stride[1] + 1 : shape.stride[1],
            ]
            for group in range(shape.groups):
                own = slice(group * inside, (group + 1) * inside)
                to = slice(group * outside, (group + 1) * outside)
                found[..., to] += seen[..., own] @ taps[to, y, z].T  # each below 2^31 * 127 * channels
                if modulus is not None:
                    found[..., to] %= modulus
    return found.reshape(len(x), -1)

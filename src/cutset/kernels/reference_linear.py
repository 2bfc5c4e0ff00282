"""The linear kernels in numpy: what the native ones compute, written to be read.

Integers and quantised values are equal bit for bit on every instruction set; float32 products are equal within the
rounding of their sums.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEPTH_STEP",
    "PANEL",
    "integer_linear",
    "linear",
    "pack_weight",
    "packed_shape",
    "quantize_rows",
    "quantize_weight",
    "quantized_linear",
    "top_of",
    "unpack_weight",
]

PANEL, DEPTH_STEP = 32, 64  # of the packed layout


def top_of(bits: int) -> int:
    """The largest integer of `bits` bits: the range is symmetric, -top to top."""
    return (1 << (bits - 1)) - 1


def linear(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """y (rows, outputs) = x (rows, depth) . weight (outputs, depth)^T."""
    return x @ weight.T


def quantize_rows(x: NDArray[np.float32], bits: int = 8) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Integers (rows, depth) and one scale a row (rows,), so that x is about q * scale.

    scale = max|x| / top in float32; q = x / scale, rounded to the nearest integer, ties to even. A row whose scale
    would be below the least normal float (zeros, say) gets scale 0 and zeros. A row with a NaN or an infinity gets
    scale NaN and zeros: the trouble shows in the product of that row and nowhere else.
    """
    largest = np.abs(x).max(axis=1)
    finite = np.isfinite(largest)
    scale = np.where(finite, largest, np.float32(0)) / np.float32(top_of(bits))
    usable = scale >= np.finfo(np.float32).tiny
    divisor = np.where(usable, scale, np.float32(1))[:, None]
    q = np.rint(np.where(usable[:, None], x, np.float32(0)) / divisor).astype(np.int16)
    return q, np.where(finite, np.where(usable, scale, np.float32(0)), np.float32(np.nan))


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """8-bit integers (outputs, depth) and one scale an output, by the same rule; every weight must be finite."""
    if not np.isfinite(weight).all():
        raise ValueError("the weights hold a NaN or an infinity")
    q, scale = quantize_rows(weight, 8)
    return q.astype(np.int8), scale


def pack_weight(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """weight (outputs, depth) by panels of 32 outputs, (panels, padded depth / 4, 32, 4): the layout that the native
    kernels read. Outputs are padded to a multiple of 32, the depth to one of 64, with zeros."""
    panels, groups, _, _ = packed_shape(*weight.shape)
    padded = np.zeros((panels * PANEL, groups * 4), dtype=np.int8)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return np.ascontiguousarray(padded.reshape(panels, PANEL, groups, 4).swapaxes(1, 2))


def packed_shape(outputs: int, depth: int) -> tuple[int, int, int, int]:
    """The shape of a packed weight."""
    return -(-outputs // PANEL), -(-depth // DEPTH_STEP) * DEPTH_STEP // 4, PANEL, 4


def unpack_weight(panels: NDArray[np.int8], outputs: int, depth: int) -> NDArray[np.int8]:
    """The weight (outputs, depth) that was packed."""
    rows = panels.swapaxes(1, 2).reshape(panels.shape[0] * PANEL, panels.shape[1] * 4)
    return np.ascontiguousarray(rows[:outputs, :depth])


def integer_linear(q: NDArray[np.integer], weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """The sums themselves, int32 (rows, outputs). The caller sees to it that they fit."""
    return (q.astype(np.int64) @ weight.T.astype(np.int64)).astype(np.int32)


def quantized_linear(
    x: NDArray[np.float32], weight: NDArray[np.int8], scales: NDArray[np.float32], bits: int = 8
) -> NDArray[np.float32]:
    """y (rows, outputs) = float(sums) * (row's scale * output's scale), each step rounded to float32."""
    q, row_scales = quantize_rows(x, bits)
    return integer_linear(q, weight).astype(np.float32) * (row_scales[:, None] * scales)

"""Float32 products with bfloat16 weights in AMX tiles, in numpy: what native/kernels/isa/bf16_tiles.cpp computes.

The bits are the same. The instruction is TDPBF16PS, as Intel states it: products of bfloat16 numbers are exact, sums
are rounded to the nearest, and subnormal numbers count as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_grouped import fused_multiply_add

__all__ = ["TILE_DEPTH", "bfloat16_pieces", "tiled_linear"]

TILE_DEPTH = 32  # places of the depth that one instruction takes
UPPER, QUIET = np.uint32(0xFFFF0000), np.uint32(0x400000)

Floats = NDArray[np.float32]


def bfloat16_pieces(x: Floats) -> Floats:
    """The lower, middle and upper 8 of the 24 bits of x (rows, depth): (3, rows, depth), whose sum is x.

    An infinity is all in the upper piece, and so is a NaN, quiet. Of a number below 2^-102 the lower pieces may be
    subnormal, and lost.
    """
    upper = x.view(np.uint32) & UPPER
    upper[np.isnan(x)] |= QUIET
    with np.errstate(all="ignore"):
        rest = np.where(np.isfinite(x), x - upper.view(np.float32), np.float32(0))
        middle = (rest.view(np.uint32) & UPPER).view(np.float32)
        lower = ((rest - middle).view(np.uint32) & UPPER).view(np.float32)
    return np.stack([lower, middle, upper.view(np.float32)])


def tiled_linear(x: Floats, weight: NDArray[np.uint16]) -> Floats:
    """y (rows, outputs) = x (rows, depth) . W^T, weight (outputs, depth) of bfloat16.

    A sum over steps of 32 places of the depth, in each of them over the pieces of x; each of these terms is the sum of
    a chain of multiply-adds over the even places and one over the odd places.
    """
    missing = -x.shape[1] % TILE_DEPTH
    pieces = _flushed(bfloat16_pieces(np.pad(x, ((0, 0), (0, missing)))))
    wide = _flushed((np.pad(weight, ((0, 0), (0, missing))).astype(np.uint32) << 16).view(np.float32))
    total = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, wide.shape[1], TILE_DEPTH):
            for piece in pieces:
                chains = np.zeros((2, *total.shape), np.float32)
                for place in range(first, first + TILE_DEPTH, 2):
                    pair = slice(place, place + 2)
                    products = piece[:, pair].T[:, :, None], wide[:, pair].T[:, None, :]
                    chains = _flushed(fused_multiply_add(*products, chains))
                total = _flushed(total + _flushed(chains[0] + chains[1]))
    return total


def _flushed(values: Floats) -> Floats:
    """Zeros of the same sign for subnormal numbers."""
    flushed: Floats = np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)
    return flushed

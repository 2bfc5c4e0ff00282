"""The kernels of grouped weights in numpy: what the native ones compute, written to be read.

A weight is level * scale + minimum, with an integer level (the code, less its zero point) for each column and factors
for each group of columns. The results are equal bit for bit on every instruction set and for every number of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_linear import PANEL, quantize_rows

__all__ = ["MOST_SPAN", "SLAB", "fused_multiply_add", "grouped_linear", "pack_codes", "quantize_groups", "span_of"]

SLAB = 16  # columns of a slab of the packed codes
MOST_SPAN = 256  # columns whose sum is one exact integer; longer groups are cut to spans that share their factors
LEAST_SCALE, MOST_HALF = np.float32(2**-16), np.float32(65504)  # float16 is precise enough for a scale
BYTE_ORDER = (0, 2, 1, 3)  # which of four columns a slab's bytes hold

Floats = NDArray[np.float32]


def span_of(group: int, depth: int) -> int:
    """Columns that are summed in integers before a factor is used, of groups of `group` columns: the group itself, or
    a part of it where it is longer than 256. Raises ValueError for groups that no kernel has."""
    if group == depth:  # a whole row, of any length
        return min(-(-depth // SLAB) * SLAB, MOST_SPAN)
    span = group if group <= MOST_SPAN else int(np.gcd(group, MOST_SPAN))
    if span < 1 or span % SLAB:
        raise ValueError(f"groups of {group} columns can't be multiplied; they must be multiples of {SLAB}")
    return span


def fused_multiply_add(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c in float32, rounded once. The product is exact in float64; their sum is rounded to an odd last bit
    there, so that rounding it again to float32 is right (Boldo and Melquiond 2008)."""
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    back = total - product  # the error of the addition (Knuth's two-sum)
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    beside = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    odd: NDArray[np.float64] = np.where((error != 0) & np.isfinite(total) & even, beside, total)
    return odd.astype(np.float32)


def grouped_linear(
    x: Floats,
    levels: NDArray[np.integer],
    span: int,
    scales: Floats,
    minima: Floats | None = None,
    order: NDArray[np.int32] | None = None,
    bits: int = 12,
) -> Floats:
    """y (rows, outputs) = x (rows, depth) . W^T, W of levels (outputs, depth), scales and minima (outputs, spans).

    x's rows are quantised to `bits` bits. The sum of a span is an exact integer; it and the sum of its activations are
    multiplied with the factors and added up in order, each by one fused multiply-add in float32; then the row's scale.
    `order` (depth,): which of x's columns the columns of the levels multiply.
    """
    q, row_scales = quantize_rows(x if order is None else x[:, order], bits)
    total = np.zeros((len(x), len(levels)), np.float32)
    for number, first in enumerate(range(0, levels.shape[1], span)):
        part, weights = (each[:, first : first + span].astype(np.int64) for each in (q, levels))
        scale = np.broadcast_to(scales[:, number], total.shape)
        total = fused_multiply_add((part @ weights.T).astype(np.float32), scale, total)
        if minima is not None:
            sums = np.broadcast_to(part.sum(axis=1).astype(np.float32)[:, None], total.shape)
            total = fused_multiply_add(sums, np.broadcast_to(minima[:, number], total.shape), total)
    return total * row_scales[:, None]


def quantize_groups(
    weight: Floats, bits: int, group: int, minima: bool
) -> tuple[NDArray[np.uint8], Floats, Floats | None]:
    """weight (outputs, depth) rounded to the nearest, ties to even: codes (outputs, depth), scales and minima or None,
    (outputs, groups).

    With minima a group's codes are (w - minimum) / scale from 0 on; without, they lie around 2**(bits - 1), and the
    scale is max|w| / (2**(bits - 1) - 1). Factors are what float16 has where it is precise enough. Raises ValueError
    for a weight that isn't finite.
    """
    outputs, depth = weight.shape
    x = weight.reshape(outputs, depth // group, group)
    least, most = x.min(axis=2), x.max(axis=2)
    top, every = np.float32((1 << (bits - 1)) - 1), np.float32((1 << bits) - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        minimum = _as_half(least, np.float32(0)) if minima else np.zeros_like(least)
        size = (most - minimum) / every if minima else np.maximum(most, -least) / top
    if not (np.isfinite(weight).all() and np.isfinite(size).all()):
        raise ValueError("the weights hold a NaN, an infinity or too wide a range")
    scale = np.where(size < np.finfo(np.float32).tiny, np.float32(0), _as_half(size, LEAST_SCALE))
    divisor = np.where(scale > 0, scale, np.float32(1))[..., None]
    bounds = (np.float32(0), every) if minima else (-top, top)
    with np.errstate(over="ignore"):
        q = np.clip((x - minimum[..., None]) / divisor, *bounds)
    q = np.rint(np.where(scale[..., None] > 0, q, np.float32(0))) + (0 if minima else top + 1)
    return q.astype(np.uint8).reshape(outputs, depth), scale, minimum if minima else None


def _as_half(values: Floats, least: np.float32) -> Floats:
    """Rounded to float16, but for those below `least` and beyond its range."""
    sizes = np.abs(values)
    with np.errstate(over="ignore"):
        halves = np.clip(values.astype(np.float16), -MOST_HALF, MOST_HALF).astype(np.float32)
    rounded: Floats = np.where((sizes >= least) & (sizes <= MOST_HALF), halves, values)
    return rounded


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """codes (outputs, depth) by panels of 32 outputs as native/kernels/grouped.h has them: (panels, slabs, bytes)."""
    outputs, depth = codes.shape
    panels, slabs = -(-outputs // PANEL), -(-depth // SLAB)
    padded = np.zeros((panels * PANEL, slabs * SLAB), np.uint8)
    padded[:outputs, :depth] = codes
    # (panels, slabs, step, output, column of four)
    steps = padded.reshape(panels, PANEL, slabs, 4, 4).transpose(0, 2, 3, 1, 4)
    ordered = steps[..., BYTE_ORDER]
    if bits == 8:
        return np.ascontiguousarray(ordered.reshape(panels, slabs, -1))
    low = (ordered[..., :16, :] & 15) | ((ordered[..., 16:, :] & 15) << 4)
    parts: list[NDArray[np.uint8]] = [low.astype(np.uint8).reshape(panels, slabs, -1)]
    if bits > 4:
        step, column = np.arange(4)[:, None, None], np.arange(4)
        place = 16 * (column % 2) + 4 * step + 2 * (column // 2)  # of an upper bit in its output's word
        upper = (steps >> 4).astype(np.uint32) << place.astype(np.uint32)
        words = np.bitwise_or.reduce(np.bitwise_or.reduce(upper, axis=4), axis=2)  # (panels, slabs, outputs)
        if bits == 5:
            words = words[..., :16] | (words[..., 16:] << 1)
        parts.append(np.ascontiguousarray(words).view(np.uint8).reshape(panels, slabs, -1))
    return np.concatenate(parts, axis=2)
